use seckill_ledger::SaleTerms;
use seckill_protocol::index::SaleState;

use crate::client::Request;
use crate::harness::*;

#[tokio::test]
async fn a_sale_is_shown_with_its_window_state_and_remaining_units() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    harness.buy_several(&sale, &key(), 2).await;
    let shown = harness.get(&path(&sale)).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert_eq!(shown.headers["cache-control"], "public, max-age=1");
    assert!(shown.headers.contains_key("date") && shown.headers.contains_key("server-time"));
    let body = &shown.body;
    assert_eq!(body["sale"], format!("{}/{}", sale.namespace, sale.name));
    assert_eq!(body["item"]["name"], "Phone");
    assert_eq!(body["item"]["price"], serde_json::Value::Null);
    assert_eq!(body["price"]["amount"], "499");
    assert_eq!((&body["state"], &body["remaining"]), (&"open".into(), &3.into()));
    assert!(body["starts_at"].as_str() < body["ends_at"].as_str());
    assert_eq!(body["limit_per_buyer"], serde_json::Value::Null);
    assert_eq!(body["max_per_order"], 1000);
    let single = SaleTerms {
        max_per_order: 1,
        ..open()
    };
    let single = harness.announce(5, single).await;
    assert_eq!(harness.get(&path(&single)).await.body["max_per_order"], 1);
}

#[tokio::test]
async fn each_state_is_shown() {
    let harness = Harness::start().await;
    let suspended = SaleTerms {
        state: SaleState::Suspended,
        ..open()
    };
    let sold_out = harness.sell(1, open()).await;
    harness.buy(&sold_out, &key()).await;
    let sales = [
        (harness.announce(7, not_open_yet()).await, "scheduled", 7),
        (harness.sell(7, not_open_yet()).await, "scheduled", 7),
        (harness.sell(7, open()).await, "open", 7),
        (harness.sell(7, suspended).await, "suspended", 7),
        (harness.sell(7, over()).await, "ended", 7),
        (sold_out, "sold_out", 0),
    ];
    for (sale, state, remaining) in &sales {
        let shown = harness.get(&path(sale)).await;
        assert_eq!(
            (&shown.body["state"], &shown.body["remaining"]),
            (&(*state).into(), &(*remaining).into()),
            "{shown:?}"
        );
    }
    let list = harness.get("/v1/sales").await;
    let list = list.body["sales"].as_array().expect("a list");
    assert_eq!(list.len(), sales.len());
    assert!(list.is_sorted_by_key(|sale| sale["sale"].as_str()));
}

#[tokio::test]
async fn an_unchanged_sale_is_not_sent_again() {
    let harness = Harness::start().await;
    let sale = harness.announce(5, not_open_yet()).await;
    for path in [path(&sale), "/v1/sales".to_owned()] {
        let first = harness.get(&path).await;
        let tag = first.headers["etag"].to_str().expect("text");
        let get_if_none_match = async |tag: &str| {
            let header = format!("If-None-Match: {tag}");
            harness.send(Request::new(format!("GET {path}"), &[&header], "")).await
        };
        let again = get_if_none_match(tag).await;
        assert_eq!((again.status, &again.body), (304, &serde_json::Value::Null));
        assert_eq!(again.headers["etag"], first.headers["etag"]);
        let other = get_if_none_match("\"x\"").await;
        assert_eq!((other.status, &other.body), (200, &first.body));
    }
    let shown = harness.get(&path(&sale)).await;
    harness.preheat(&sale).await;
    harness.change(&sale, open()).await;
    assert_ne!(harness.get(&path(&sale)).await.headers["etag"], shown.headers["etag"]);
}
