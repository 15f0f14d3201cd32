//! Pages of other origins, which call the API from a browser.
use crate::client::{Request, Response};
use crate::harness::*;

const ORIGIN: &str = "Origin: https://shop.example";

fn allowed_origin(response: &Response) -> Option<&str> {
    let origin = response.headers.get("access-control-allow-origin")?;
    origin.to_str().ok()
}

#[tokio::test]
async fn a_page_of_a_listed_origin_may_send_a_purchase() {
    let harness = Harness::start().await;
    let asks = [
        ORIGIN,
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type,idempotency-key",
    ];
    let path = "/v1/sales/shop/any/orders";
    let response = harness.send(Request::new(format!("OPTIONS {path}"), &asks, "")).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(allowed_origin(&response), Some("https://shop.example"));
    let allowed = |name: &str| response.headers[name].to_str().expect("text").to_ascii_lowercase();
    assert!(allowed("access-control-allow-methods").contains("post"), "{response:?}");
    for name in ["authorization", "content-type", "idempotency-key"] {
        assert!(allowed("access-control-allow-headers").contains(name), "{response:?}");
    }
    // Without the permission a browser does not send the purchase.
    let asks = ["Origin: https://evil.example", "Access-Control-Request-Method: POST"];
    let response = harness.send(Request::new(format!("OPTIONS {path}"), &asks, "")).await;
    assert_eq!(allowed_origin(&response), None, "{response:?}");
}

#[tokio::test]
async fn a_page_of_a_listed_origin_reads_answers_and_problems() {
    let harness = Harness::start().await;
    for (line, status) in [
        ("GET /v1/sales", 200),
        ("GET /v1/sales/shop/none", 404),
        ("GET /nowhere", 404),
        ("PUT /v1/sales", 405),
    ] {
        let response = harness.send(Request::new(line, &[ORIGIN], "")).await;
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(
            allowed_origin(&response),
            Some("https://shop.example"),
            "{line}: {response:?}"
        );
        let exposed = response.headers["access-control-expose-headers"]
            .to_str()
            .expect("text");
        assert_eq!(
            exposed, "location,retry-after,etag,www-authenticate,server-time,ratelimit,ratelimit-policy",
            "{line}"
        );
        let mut vary = response.headers.get_all("vary").iter();
        assert!(
            vary.any(|vary| vary.to_str().is_ok_and(|vary| vary.contains("origin"))),
            "{response:?}"
        );
    }
}
