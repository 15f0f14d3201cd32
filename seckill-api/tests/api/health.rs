use crate::harness::*;

/// Balancers of cloud providers ask the port of the Service, and by default for `/`.
#[tokio::test]
async fn the_serving_port_answers_health_checks_of_load_balancers() {
    let harness = Harness::start().await;
    for path in ["/", "/healthz"] {
        let response = harness.get(path).await;
        assert_eq!(
            (response.status, response.text.as_str()),
            (200, "ok\n"),
            "{path}: {response:?}"
        );
    }
}

#[tokio::test]
async fn the_docs_page_loads_only_what_the_server_serves() {
    let harness = Harness::start().await;
    let document = harness.get("/openapi.json").await;
    assert_eq!((document.status, &document.body["openapi"]), (200, &"3.1.0".into()));
    let page = harness.get("/docs").await;
    assert_eq!(
        (page.status, page.headers["content-type"].to_str().expect("ASCII")),
        (200, "text/html; charset=utf-8")
    );
    assert!(
        page.text.contains("spec-url=\"openapi.json\"") && !page.text.contains("://"),
        "{page:?}"
    );
    let script = harness.get("/docs/redoc.js").await;
    assert_eq!(script.status, 200);
    assert!(script.text.len() > 1_000_000);
}
