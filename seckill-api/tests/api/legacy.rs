//! The requests of the old demo's client, and the answers that it reads.
use serde_json::{Value, json};

use crate::client::Response;
use crate::harness::*;

#[track_caller]
fn failed(answer: &Response, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    // Both forms that clients of the old demo read.
    assert_eq!(answer.body["code"], code, "{answer:?}");
    assert_eq!(answer.body["status"]["code"], code);
    assert_eq!(answer.body["status"]["message"], answer.body["message"]);
}

#[tokio::test]
async fn the_old_client_buys_and_queries_its_order() {
    let harness = Harness::start().await;
    let sale = harness.announce_item(1, open(), Some(1)).await;
    harness.preheat(&sale).await;
    let won = harness.legacy("POST /seckill/buy", r#"{"item_id":1}"#).await;
    assert_eq!(won.status, 200, "{won:?}");
    assert_eq!(won.body["status"], json!({ "code": "10000", "message": "ok" }));
    let number = won.body["order_id"].as_str().expect("a number").to_owned();
    let lost = harness.legacy("POST /seckill/buy", r#"{"item_id":1}"#).await;
    failed(&lost, 400, "42002");
    assert_eq!(lost.body["message"], "out of stock");

    let body = json!({ "order_id": number }).to_string();
    let asked = harness.legacy("GET /seckill/query_order", &body).await;
    let expected = json!({
        "status": { "code": "10000", "message": "ok" },
        "order_id": number,
        "item_name": "Phone",
        "order_status": "processing",
    });
    assert_eq!((asked.status, &asked.body), (200, &expected));
    harness.store().await;
    let by_query = harness
        .legacy(&format!("GET /seckill/query_order?order_id={number}"), "")
        .await;
    assert_eq!(by_query.body["order_status"], "success");
    assert_eq!(
        harness.legacy("GET /seckill/query_order", &body).await.body,
        by_query.body
    );

    harness.settle(&sale).await;
    harness.refresh().await;
    failed(
        &harness.legacy("POST /seckill/buy", r#"{"item_id":1}"#).await,
        400,
        "42002",
    );
}

#[tokio::test]
async fn the_old_client_lists_items() {
    let harness = Harness::start().await;
    let sale = harness.announce_item(3, open(), Some(9)).await;
    harness.preheat(&sale).await;
    harness.announce(3, open()).await; // no item number, so not for the old client
    let list = harness.legacy("GET /items/get-list", "").await;
    let row = harness.row(&sale).await;
    let item = json!({
        "id": 9,
        "name": "Phone",
        "price": 499.0,
        "stock": 3,
        "intro": "A phone.",
        "created_at": row.created_at_ms / 1000,
        "updated_at": row.updated_at_ms / 1000,
    });
    assert_eq!(
        list.body,
        json!({ "status": { "code": "10000", "message": "ok" }, "items": [item] })
    );
    let info = harness.legacy("GET /items/get-info?id=9", "").await;
    assert_eq!(
        info.body,
        json!({ "status": { "code": "10000", "message": "ok" }, "item": item })
    );
}

#[tokio::test]
async fn the_first_sale_of_an_item_has_its_number_until_the_end() {
    let harness = Harness::start().await;
    let first = harness.announce_item(3, open(), Some(1)).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let second = harness.announce_item(7, open(), Some(1)).await;
    let stock = async || harness.legacy("GET /items/get-info?id=1", "").await.body["item"]["stock"].clone();
    harness.preheat(&first).await;
    harness.preheat(&second).await;
    assert_eq!(stock().await, Value::from(3));
    harness.change(&first, over()).await;
    assert_eq!(stock().await, Value::from(7));
}

#[tokio::test]
async fn each_failure_has_its_old_code() {
    let harness = Harness::start().await;
    for (item, terms) in [(2, not_open_yet()), (3, over())] {
        let sale = harness.announce_item(3, terms, Some(item)).await;
        harness.preheat(&sale).await;
    }
    harness.announce_item(3, open(), Some(4)).await; // never preheated
    // Otherwise the log may know the sale of item 1, which the ledger does not know.
    harness.store().await;
    let long = format!(r#"{{"item_id":1,"x":"{}"}}"#, "x".repeat(20_000));
    let cases = [
        ("POST /seckill/buy", r#"{"item_id":1}"#, 400, "42001"),
        ("POST /seckill/buy", r#"{"item_id":2}"#, 400, "42003"),
        ("POST /seckill/buy", r#"{"item_id":3}"#, 400, "42003"),
        ("POST /seckill/buy", r#"{"item_id":4}"#, 500, "500"),
        ("POST /seckill/buy", "", 400, "90004"),
        ("POST /seckill/buy", "{}", 400, "90004"),
        ("POST /seckill/buy", r#"{"item_id":"1"}"#, 400, "90001"),
        ("POST /seckill/buy", r#"{"item_id":1.5}"#, 400, "90001"),
        ("POST /seckill/buy", r#"{"item_id":null}"#, 400, "90001"),
        ("POST /seckill/buy", "[1]", 400, "90001"),
        ("POST /seckill/buy", "item_id=1", 400, "90001"),
        ("POST /seckill/buy", long.as_str(), 400, "90001"),
        ("GET /seckill/query_order", "", 400, "90004"),
        ("GET /seckill/query_order", "{}", 400, "90004"),
        ("GET /seckill/query_order", r#"{"order_id":1}"#, 400, "90001"),
        ("GET /seckill/query_order", r#"{"order_id":"1"}"#, 400, "42004"),
        ("GET /seckill/query_order?order_id=1", "", 400, "42004"),
        ("GET /items/get-info", "", 400, "90004"),
        ("GET /items/get-info?id=", "", 400, "90001"),
        ("GET /items/get-info?id=x", "", 400, "90001"),
        ("GET /items/get-info?id=1", "", 400, "41001"),
    ];
    for (line, body, status, code) in cases {
        let answer = harness.legacy(line, body).await;
        println!("{line} {body:.40}");
        failed(&answer, status, code);
    }
}

#[tokio::test]
async fn a_removed_route_names_its_replacement() {
    let harness = Harness::start().await;
    for line in [
        ("POST /user/login"),
        ("GET /user/a/b"),
        ("POST /items/add"),
        ("POST /items/update"),
        ("DELETE /items/delete"),
        ("POST /seckill/create"),
    ] {
        let answer = harness.legacy(line, "{}").await;
        answer.is(410, "route_removed");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    harness.legacy("GET /v1/sales", "").await.is(404, "route_unknown");
    harness
        .legacy("GET /seckill/buy", "")
        .await
        .is(405, "method_not_allowed");
}
