//! What the old demo's client sends and reads.
use http::Method;
use serde_json::{Value, json};

use crate::shop::*;

#[track_caller]
fn failed(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    // Both forms, for old and new readers.
    assert_eq!(answer.body["code"], code, "{answer:?}");
    assert_eq!(answer.body["status"]["code"], code);
    assert_eq!(answer.body["status"]["message"], answer.body["message"]);
}

#[tokio::test]
async fn the_old_client_buys_and_asks() {
    let shop = Shop::new().await;
    let sale = shop.announce_item(1, open(), Some(1)).await;
    shop.preheat(&sale).await;
    let won = shop.old(Method::POST, "/seckill/buy", r#"{"item_id":1}"#).await;
    assert_eq!(won.status, 200, "{won:?}");
    assert_eq!(won.body["status"], json!({ "code": "10000", "message": "ok" }));
    let number = won.body["order_id"].as_str().expect("a number").to_owned();
    let lost = shop.old(Method::POST, "/seckill/buy", r#"{"item_id":1}"#).await;
    failed(&lost, 400, "42002");
    assert_eq!(lost.body["message"], "out of stock");

    let body = json!({ "order_id": number }).to_string();
    let asked = shop.old(Method::GET, "/seckill/query_order", body.clone()).await;
    let expected = json!({
        "status": { "code": "10000", "message": "ok" },
        "order_id": number,
        "item_name": "Phone",
        "order_status": "processing",
    });
    assert_eq!((asked.status.as_u16(), &asked.body), (200, &expected));
    shop.store().await;
    let by_query = shop
        .old(Method::GET, &format!("/seckill/query_order?order_id={number}"), "")
        .await;
    assert_eq!(by_query.body["order_status"], "success");
    assert_eq!(
        shop.old(Method::GET, "/seckill/query_order", body).await.body,
        by_query.body
    );

    shop.settle(&sale).await;
    shop.refresh().await;
    failed(
        &shop.old(Method::POST, "/seckill/buy", r#"{"item_id":1}"#).await,
        400,
        "42002",
    );
}

#[tokio::test]
async fn the_old_client_lists_items() {
    let shop = Shop::new().await;
    let sale = shop.announce_item(3, open(), Some(9)).await;
    shop.preheat(&sale).await;
    shop.announce(3, open()).await; // without a number: not for the old client
    let list = shop.old(Method::GET, "/items/get-list", "").await;
    let row = shop.row(&sale).await;
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
    let info = shop.old(Method::GET, "/items/get-info?id=9", "").await;
    assert_eq!(
        info.body,
        json!({ "status": { "code": "10000", "message": "ok" }, "item": item })
    );
}

#[tokio::test]
async fn the_first_sale_of_an_item_holds_its_number_while_it_runs() {
    let shop = Shop::new().await;
    let first = shop.announce_item(3, open(), Some(1)).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let second = shop.announce_item(7, open(), Some(1)).await;
    let stock = async || shop.old(Method::GET, "/items/get-info?id=1", "").await.body["item"]["stock"].clone();
    shop.preheat(&first).await;
    shop.preheat(&second).await;
    assert_eq!(stock().await, Value::from(3));
    shop.change(&first, over()).await;
    assert_eq!(stock().await, Value::from(7));
}

#[tokio::test]
async fn each_failure_has_its_old_code() {
    let shop = Shop::new().await;
    for (item, terms) in [(2, not_open_yet()), (3, over())] {
        let sale = shop.announce_item(3, terms, Some(item)).await;
        shop.preheat(&sale).await;
    }
    shop.announce_item(3, open(), Some(4)).await; // never preheated
    let long = format!(r#"{{"item_id":1,"x":"{}"}}"#, "x".repeat(20_000));
    let cases = [
        (Method::POST, "/seckill/buy", r#"{"item_id":1}"#, 400, "42001"),
        (Method::POST, "/seckill/buy", r#"{"item_id":2}"#, 400, "42003"),
        (Method::POST, "/seckill/buy", r#"{"item_id":3}"#, 400, "42003"),
        (Method::POST, "/seckill/buy", r#"{"item_id":4}"#, 500, "500"),
        (Method::POST, "/seckill/buy", "", 400, "90004"),
        (Method::POST, "/seckill/buy", "{}", 400, "90004"),
        (Method::POST, "/seckill/buy", r#"{"item_id":"1"}"#, 400, "90001"),
        (Method::POST, "/seckill/buy", r#"{"item_id":1.5}"#, 400, "90001"),
        (Method::POST, "/seckill/buy", r#"{"item_id":null}"#, 400, "90001"),
        (Method::POST, "/seckill/buy", "[1]", 400, "90001"),
        (Method::POST, "/seckill/buy", "item_id=1", 400, "90001"),
        (Method::POST, "/seckill/buy", long.as_str(), 400, "90001"),
        (Method::GET, "/seckill/query_order", "", 400, "90004"),
        (Method::GET, "/seckill/query_order", "{}", 400, "90004"),
        (Method::GET, "/seckill/query_order", r#"{"order_id":1}"#, 400, "90001"),
        (Method::GET, "/seckill/query_order", r#"{"order_id":"1"}"#, 400, "42004"),
        (Method::GET, "/seckill/query_order?order_id=1", "", 400, "42004"),
        (Method::GET, "/items/get-info", "", 400, "90004"),
        (Method::GET, "/items/get-info?id=", "", 400, "90001"),
        (Method::GET, "/items/get-info?id=x", "", 400, "90001"),
        (Method::GET, "/items/get-info?id=1", "", 400, "41001"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = shop.old(method.clone(), path, body.to_owned()).await;
        println!("{method} {path} {body:.40}");
        failed(&answer, status, code);
    }
}

#[tokio::test]
async fn what_was_taken_away_says_what_took_its_place() {
    let shop = Shop::new().await;
    for (method, path) in [
        (Method::POST, "/user/login"),
        (Method::GET, "/user/a/b"),
        (Method::POST, "/items/add"),
        (Method::POST, "/items/update"),
        (Method::DELETE, "/items/delete"),
        (Method::POST, "/seckill/create"),
    ] {
        let answer = shop.old(method, path, "{}").await;
        answer.is(410, "route_removed");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    shop.old(Method::GET, "/v1/sales", "").await.is(404, "route_unknown");
    shop.old(Method::GET, "/seckill/buy", "")
        .await
        .is(405, "method_not_allowed");
}
