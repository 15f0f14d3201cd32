//! Invalid requests. The answer names what is wrong, and nothing is bought.
use crate::client::Request;
use crate::harness::*;

const KEY: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";
const JSON: &str = "Content-Type: application/json";
const ONE: &str = r#"{"quantity":1}"#;

/// An invalid request and its expected answer.
struct Bad {
    request: Request,
    status: u16,
    code: &'static str,
}

fn bad(line: impl Into<String>, headers: &[&str], body: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Bad {
    Bad {
        request: Request::new(line, headers, body),
        status,
        code,
    }
}

fn keys() -> Vec<Bad> {
    let with = |key: &str, code| {
        let key = format!("Idempotency-Key: {key}");
        bad("POST /SALE/orders", &[JSON, &key], ONE, 400, code)
    };
    let long = "0123456789abcdef".repeat(9);
    let mut keys: Vec<Bad> = [
        "",
        "\"\"",
        "\"",
        "1",
        "my-order",
        "0123456789abcdef01234",
        long.as_str(),
        "00000000-0000-0000-0000-000000000000",
        "11111111-1111-4111-8111-111111111111",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "\"8e03978e-40d5-43e8-bc93-6894a57f9324",
        "8e03978e-40d5-43e8-bc93-6894a57f9324\"",
        "{8e03978e-40d5-43e8-bc93-6894a57f9324}",
        "8e03978e 40d5 43e8 bc93 6894a57f9324",
        "8e03978e-40d5-43e8-bc93-6894a57f9324;a=1",
        "8e03978e-40d5-43e8-bc93-6894a57f9324, 8e03978e",
        "schlüssel-schlüssel-schlüssel",
        "'; DROP TABLE orders; -- aaaaaaaa",
    ]
    .into_iter()
    .map(|key| with(key, "key_invalid"))
    .collect();
    let key = format!("Idempotency-Key: {KEY}");
    keys.extend([
        bad("POST /SALE/orders", &[JSON], ONE, 400, "key_missing"),
        bad(
            "POST /SALE/orders",
            &[JSON, "Idempotency_Key: x"],
            ONE,
            400,
            "key_missing",
        ),
        bad("POST /SALE/orders?idempotency-key=x", &[JSON], ONE, 400, "key_missing"),
        bad("POST /SALE/orders", &[JSON, &key, &key], ONE, 400, "key_invalid"),
        bad("GET /SALE/request", &[], "", 400, "key_missing"),
        bad("GET /SALE/request", &["Idempotency-Key: 1"], "", 400, "key_invalid"),
        bad("GET /SALE/request", &[&key], "", 404, "request_unknown"),
    ]);
    keys
}

fn bodies() -> Vec<Bad> {
    let key = format!("Idempotency-Key: {KEY}");
    let with = |body: &str, code| bad("POST /SALE/orders", &[JSON, &key], body, 400, code);
    let mut bodies = vec![
        with("", "body_invalid"),
        with("{", "body_invalid"),
        with("{}", "body_invalid"),
        with("[]", "body_invalid"),
        with("[1]", "body_invalid"),
        with("1", "body_invalid"),
        with("null", "body_invalid"),
        with("\"quantity\"", "body_invalid"),
        with("quantity=1", "body_invalid"),
        with("<quantity>1</quantity>", "body_invalid"),
        with(r#"{"Quantity":1}"#, "body_invalid"),
        with(r#"{"quantity":1}{"quantity":1}"#, "body_invalid"),
        with(r#"{"quantity":1,"quantity":1}"#, "body_invalid"),
        with(r#"{"quantity":1,"price":"0.01"}"#, "body_invalid"),
        with(r#"{"quantity":0}"#, "quantity_invalid"),
        with(r#"{"quantity":-1}"#, "quantity_invalid"),
        with(r#"{"quantity":1001}"#, "quantity_invalid"),
        with(r#"{"quantity":4294967297}"#, "quantity_invalid"),
        with(r#"{"quantity":1e400}"#, "body_invalid"),
        with(r#"{"quantity":1.5}"#, "quantity_invalid"),
        with(r#"{"quantity":"1"}"#, "quantity_invalid"),
        with(r#"{"quantity":null}"#, "quantity_invalid"),
        with(r#"{"quantity":[1]}"#, "quantity_invalid"),
        with(r#"{"quantity":{"value":1}}"#, "quantity_invalid"),
    ];
    let deep = format!(r#"{{"quantity":{}1{}}}"#, "[".repeat(4000), "]".repeat(4000));
    let long = format!(r#"{{"quantity":1{}}}"#, " ".repeat(16 * 1024));
    let chunked = format!("4001\r\n{}\r\n0\r\n\r\n", " ".repeat(0x4001));
    let to = "POST /SALE/orders";
    bodies.extend([
        bad(to, &[JSON, &key], deep, 400, "body_invalid"),
        bad(to, &[JSON, &key], b"{\"quantity\":1\xff}".to_vec(), 400, "body_invalid"),
        bad(to, &[JSON, &key], long, 413, "body_too_large"),
        bad(
            to,
            &[JSON, &key, "Transfer-Encoding: chunked"],
            chunked,
            413,
            "body_too_large",
        ),
        bad(to, &[&key], ONE, 415, "content_type"),
        bad(to, &[&key, "Content-Type:"], ONE, 415, "content_type"),
        bad(
            to,
            &[&key, JSON, "Content-Encoding: gzip"],
            ONE,
            415,
            "content_encoding",
        ),
        bad(to, &[&key, JSON, "Content-Encoding: br"], "", 415, "content_encoding"),
        bad(to, &[&key, "Content-Type: text/plain"], ONE, 415, "content_type"),
        bad(to, &[&key, "Content-Type: application/xml"], ONE, 415, "content_type"),
        bad(to, &[&key, "Content-Type: application/jsonp"], ONE, 415, "content_type"),
        bad(
            to,
            &[&key, "Content-Type: application/x-www-form-urlencoded"],
            "quantity=1",
            415,
            "content_type",
        ),
        bad(
            to,
            &[&key, "Content-Type: multipart/form-data; boundary=x"],
            ONE,
            415,
            "content_type",
        ),
    ]);
    bodies
}

fn paths_and_methods() -> Vec<Bad> {
    let key = format!("Idempotency-Key: {KEY}");
    let buys = [JSON, key.as_str()];
    let long = "a".repeat(4000);
    vec![
        bad("POST /v1/sales/shop/none/orders", &buys, ONE, 404, "sale_unknown"),
        bad("POST /v1/sales/none/none/orders", &buys, ONE, 404, "sale_unknown"),
        bad("POST /v1/sales/shop/..%2fnone/orders", &buys, ONE, 404, "sale_unknown"),
        bad("POST /v1/sales/shop/%00/orders", &buys, ONE, 404, "sale_unknown"),
        bad("POST /v1/sales/shop/%ff/orders", &buys, ONE, 400, "path_invalid"),
        bad(
            "POST /v1/sales/shop/%27%20OR%201=1/orders",
            &buys,
            ONE,
            404,
            "sale_unknown",
        ),
        bad(
            format!("POST /v1/sales/shop/{long}/orders"),
            &buys,
            ONE,
            404,
            "sale_unknown",
        ),
        bad("POST /SALE/orders/", &buys, ONE, 404, "route_unknown"),
        bad("POST /SALE/Orders", &buys, ONE, 404, "route_unknown"),
        bad("GET /v1/sales/shop/none/request", &[&key], "", 404, "sale_unknown"),
        bad("GET /v1/sales/shop/none", &[], "", 404, "sale_unknown"),
        bad("GET /v1/sales/shop/%c3%28", &[], "", 400, "path_invalid"),
        bad("GET /v1/sales/shop", &[], "", 404, "route_unknown"),
        bad("GET /v1/sales//none", &[], "", 404, "sale_unknown"),
        bad("POST /", &[], "", 405, "method_not_allowed"),
        bad("GET /healthz/", &[], "", 404, "route_unknown"),
        bad("GET /v2/sales", &[], "", 404, "route_unknown"),
        bad("GET /metrics", &[], "", 404, "route_unknown"),
        bad("GET /seckill/buy", &[], "", 404, "route_unknown"),
        bad("GET /SALE/orders", &[], "", 405, "method_not_allowed"),
        bad("PUT /SALE/orders", &buys, ONE, 405, "method_not_allowed"),
        bad("DELETE /SALE", &[], "", 405, "method_not_allowed"),
        bad("POST /SALE/request", &buys, ONE, 405, "method_not_allowed"),
        bad("POST /v1/sales", &buys, ONE, 405, "method_not_allowed"),
        bad("PATCH /v1/orders/1", &[], "", 405, "method_not_allowed"),
        bad("BREW /SALE/orders", &[], "", 405, "method_not_allowed"),
    ]
}

fn order_numbers() -> Vec<Bad> {
    let numbers = [
        "1",
        "0",
        "-1",
        "1ABCDEFGHJKMNPQRSTVWXYZ0123",
        "100000000000000000000000000",
        "1ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "1ABCDEFGHJKMNPQRSTVWXYZ012I",
        "1ABCDEFGHJKMNPQRSTVWXYZ01234",
        "00000001%2F1%2F1",
        "%F0%9F%98%80",
        "1%00",
        "null",
    ];
    let mut cases: Vec<Bad> = numbers
        .iter()
        .map(|number| bad(format!("GET /v1/orders/{number}"), &[], "", 404, "order_unknown"))
        .collect();
    // The key of this version may be on another server.
    cases.push(bad(
        "GET /v1/orders/20123456789ABCDEFGHJKMNPQRS",
        &[],
        "",
        503,
        "not_ready",
    ));
    cases.push(bad("GET /v1/orders/%ff", &[], "", 400, "path_invalid"));
    cases.push(bad("GET /v1/orders/", &[], "", 404, "route_unknown"));
    cases.push(bad("GET /v1/orders", &[], "", 404, "route_unknown"));
    cases
}

/// Requests that the HTTP layer refuses, without a body.
fn invalid_http() -> Vec<Bad> {
    let long = format!("X-Long: {}", "x".repeat(20_000));
    let many: Vec<String> = (0..200).map(|i| format!("X-{i}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    vec![
        bad("GET /v1/sales", &[&long], "", 431, ""),
        bad("GET /v1/sales", &many, "", 431, ""),
        bad("GET", &[], "", 400, ""),
        bad("GET /v1/sales\u{1} /", &[], "", 400, ""),
        bad("GET /v1/sales", &["no header"], "", 400, ""),
        bad("POST /SALE/orders", &["Content-Length: x"], "", 400, ""),
        bad(
            "POST /SALE/orders",
            &["Content-Length: 1", "Content-Length: 2"],
            "",
            400,
            "",
        ),
    ]
}

#[tokio::test]
async fn bad_input_is_refused_with_a_code_and_a_detail() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    // Otherwise the log may know the sales that the ledger does not know.
    harness.store().await;
    let cases: Vec<Bad> = [keys(), bodies(), paths_and_methods(), order_numbers()]
        .into_iter()
        .flatten()
        .collect();
    assert!(cases.len() >= 60, "{}", cases.len());
    let cases = cases.into_iter().map(|case| (case, true));
    let mut wrong = Vec::new();
    for (case, has_problem) in cases.chain(invalid_http().into_iter().map(|case| (case, false))) {
        let mut request = case.request;
        request.line = request.line.replace("/SALE", &path(&sale));
        let response = harness.send(request.clone()).await;
        let body = &response.body;
        let has_detail =
            body["detail"].as_str().is_some_and(|detail| detail.len() > 10) && body["status"] == case.status;
        if (response.status, response.code()) != (case.status, case.code) || has_detail != has_problem {
            wrong.push(format!(
                "{} {:?} {:.80}\n    expected {} {}, got {} {}",
                request.line,
                request.headers,
                String::from_utf8_lossy(&request.body),
                case.status,
                case.code,
                response.status,
                response.text
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 5);
}

#[tokio::test]
async fn method_not_allowed_lists_the_allowed_methods() {
    let harness = Harness::start().await;
    let sale = harness.announce(1, open()).await;
    let response = harness.get(&format!("{}/orders", path(&sale))).await;
    assert_eq!(response.is(405, "method_not_allowed").headers["allow"], "POST");
    assert_eq!(response.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn a_body_that_never_arrives_times_out() {
    let harness = Harness::start().await;
    let sale = harness.announce(1, open()).await;
    let headers = [JSON, &key_header(KEY), "Content-Length: 14"];
    let request = Request::new(format!("POST {}/orders", path(&sale)), &headers, "");
    harness.send(request).await.is(408, "body_timeout");
}
