//! Sales with tiers of buyers.
use seckill_ledger::{Sale, SaleTerms};
use seckill_order_log::Entry;
use seckill_protocol::tiers::TierRule;
use seckill_protocol::{Buyer, KeyHash, Record, Tiers, index};
use serde_json::{Value, json};

use crate::access::{BUYER_KEY, Issuer, with_token};
use crate::client::{Request, Response};
use crate::harness::*;

const SECOND: u64 = 1000;

/// Gold opens ten minutes early, may have two units, and has `reserved` units until five minutes after the start.
fn gold(reserved: u64, reserved_for_general: u64) -> Option<Tiers> {
    Some(Tiers {
        tiers: vec![TierRule {
            name: "gold".into(),
            values: vec!["gold".into(), "vip".into()],
            opens_before_seconds: 600,
            reserved,
            reserved_for_seconds: 300,
        }],
        reserved_for_general,
    })
}

/// The start is so many seconds from now. A general buyer may have one unit.
fn starting_in(seconds: i64) -> SaleTerms {
    let opens_at = now().saturating_add_signed(seconds * 1000);
    SaleTerms {
        opens_at,
        closes_at: opens_at + 3600 * SECOND,
        limit_per_buyer: 1,
        tier_limits: [2, 0, 0, 0],
        ..open()
    }
}

async fn show(harness: &Harness, sale: &Sale, token: Option<&str>) -> Response {
    let request = Request::get(&path(sale));
    match token {
        Some(token) => harness.send(with_token(request, token)).await,
        None => harness.send(request).await,
    }
}

async fn start() -> (Harness, Issuer) {
    Harness::with_issuer().await
}

#[tokio::test]
async fn a_tier_buys_before_the_start_and_leaves_the_units_of_general_buyers() {
    let (harness, issuer) = start().await;
    let sale = harness
        .sell_tiers_to(issuer.name(), gold(0, 3), 5, starting_in(300), None)
        .await;
    let general = issuer.token("bob");
    let refused = harness.buy_as(&general, &sale, "1").await;
    let starts_at = refused.is(409, "not_started").body["starts_at"].clone();
    assert_eq!(show(&harness, &sale, None).await.body["starts_at"], starts_at);
    for buyer in ["alice", "anna"] {
        let bought = harness
            .buy_as(&issuer.token_with(buyer, &["buyer", "vip"]), &sale, "1")
            .await;
        assert_eq!(bought.status, 201, "{bought:?}");
    }
    let refused = harness.buy_as(&issuer.token_with("adam", &["gold"]), &sale, "1").await;
    let body = &refused.is(409, "sold_out").body;
    assert_eq!((&body["remaining"], &body["reserved_until"]), (&json!(0), &starts_at));
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
}

#[tokio::test]
async fn a_tier_that_opens_later_is_told_when() {
    let (harness, issuer) = start().await;
    let sale = harness
        .sell_tiers_to(issuer.name(), gold(0, 0), 5, starting_in(1200), None)
        .await;
    let starts = async |token: &str| {
        let refused = harness.buy_as(token, &sale, "1").await;
        refused.is(409, "not_started").body["starts_at"].clone()
    };
    let (gold, general) = (issuer.token_with("alice", &["gold"]), issuer.token("bob"));
    assert_ne!(starts(&gold).await, starts(&general).await);
    assert_eq!(
        starts(&gold).await,
        show(&harness, &sale, Some(&gold)).await.body["opens_at"]
    );
}

#[tokio::test]
async fn a_sale_is_shown_as_to_the_buyer_of_the_token() {
    let (harness, issuer) = start().await;
    let sale = harness
        .sell_tiers_to(issuer.name(), gold(2, 0), 5, starting_in(-10), None)
        .await;
    let anyone = show(&harness, &sale, None).await;
    assert_eq!(
        (&anyone.body["tier"], &anyone.body["remaining"]),
        (&Value::Null, &json!(3))
    );
    assert_eq!(
        (&anyone.body["limit_per_buyer"], &anyone.body["state"]),
        (&json!(1), &json!("open"))
    );
    assert!(anyone.body["reserved_until"].is_string());
    assert_eq!(anyone.headers["cache-control"], "public, max-age=1");
    let mut vary = anyone.headers.get_all("vary").iter();
    assert!(vary.any(|vary| vary == "authorization"), "{anyone:?}");
    let tiers = &anyone.body["tiers"];
    assert_eq!(
        (&tiers[0]["name"], &tiers[0]["limit_per_buyer"]),
        (&json!("gold"), &json!(2))
    );
    let alice = show(&harness, &sale, Some(&issuer.token_with("alice", &["gold"]))).await;
    assert_eq!(
        (&alice.body["tier"], &alice.body["remaining"]),
        (&json!("gold"), &json!(5))
    );
    assert_eq!(
        (&alice.body["limit_per_buyer"], &alice.body["reserved_until"]),
        (&json!(2), &Value::Null)
    );
    assert_eq!(alice.headers["cache-control"], "private, max-age=1");
    // What gold buys of its reserve is kept from nobody any more.
    let gold = issuer.token_with("alice", &["gold"]);
    assert_eq!(harness.buy_as(&gold, &sale, "1").await.status, 201);
    eventually("the next sample shows it", async || {
        show(&harness, &sale, Some(&gold)).await.body["remaining"] == 4
    })
    .await;
    assert_eq!(show(&harness, &sale, None).await.body["remaining"], 3);
    show(&harness, &sale, Some("x.y.z")).await.is(401, "token_malformed");
    let plain = harness.sell_to(issuer.name(), 5, open()).await;
    let plain = show(&harness, &plain, None).await;
    assert_eq!(
        (&plain.body["tiers"], &plain.body["tier"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(plain.body["opens_at"], plain.body["starts_at"]);
}

#[tokio::test]
async fn general_buyers_get_what_is_kept_for_a_tier_after_its_release() {
    let (harness, issuer) = start().await;
    let sale = harness
        .sell_tiers_to(issuer.name(), gold(2, 0), 3, starting_in(-299), None)
        .await;
    let buy = async |buyer: &str| harness.buy_as(&issuer.token(buyer), &sale, "1").await;
    assert_eq!(buy("bob").await.status, 201);
    // It may be released before the next purchase.
    let refused = buy("bill").await;
    if refused.status != 201 {
        refused.is(409, "sold_out");
    }
    eventually("the reserve is released", async || buy("bill").await.status == 201).await;
    assert_eq!(buy("bess").await.status, 201);
    assert_eq!(buy("ben").await.is(409, "sold_out").body["remaining"], 0);
}

#[tokio::test]
async fn all_units_of_a_buyer_count_for_the_limit_of_the_present_tier() {
    let (harness, issuer) = start().await;
    let sale = harness
        .sell_tiers_to(issuer.name(), gold(0, 0), 9, starting_in(-10), None)
        .await;
    let (before, after) = (issuer.token("alice"), issuer.token_with("alice", &["gold"]));
    let first = harness.buy_as(&before, &sale, "1").await;
    assert_eq!(first.status, 201, "{first:?}");
    harness.buy_as(&before, &sale, "2").await.is(409, "limit_reached");
    let second = harness.buy_as(&after, &sale, "2").await;
    assert_eq!(second.status, 201, "{second:?}");
    harness.buy_as(&after, &sale, "3").await.is(409, "limit_reached");
    // The tier is lost again: the orders stay.
    harness.buy_as(&before, &sale, "3").await.is(409, "limit_reached");
    for token in [&before, &after] {
        assert_eq!(harness.buy_as(token, &sale, "1").await.body, first.body);
        assert_eq!(harness.buy_as(token, &sale, "2").await.body, second.body);
    }
}

#[tokio::test]
async fn a_retry_by_another_tier_publishes_the_order_as_it_was_reserved() {
    let (harness, issuer) = start().await;
    let sale = harness
        .sell_tiers_to(issuer.name(), gold(0, 0), 9, starting_in(-10), None)
        .await;
    // The process that reserved the unit died before it published the record.
    let buyer = Buyer::of_identity(&BUYER_KEY.parse().expect("a key"), issuer.name(), "alice");
    let request = index::Request {
        key: KeyHash::of_buyer(&buyer, "1"),
        buyer,
        quantity: 1,
        tier: 1,
    };
    let epoch = harness.row(&sale).await.live_epoch.expect("an index");
    let reserved = harness.stock.purchase(sale.id, epoch, &[request]).await;
    let (_, lost) = reserved.expect("Redis answers").expect("not fenced");
    let end = harness.log.end_offset(PART).await.expect("Kafka answers");
    let bought = harness.buy_as(&issuer.token("alice"), &sale, "1").await;
    assert_eq!(bought.status, 201, "{bought:?}");
    let mut published = Vec::new();
    let each = |entry: Entry| published.push(entry.record.expect("a record"));
    let now = harness.log.end_offset(PART).await.expect("Kafka answers");
    harness.log.read(PART, end, now, each).await.expect("Kafka answers");
    assert_eq!(published, [Record::Batch(lost.expect("reserved"))]);
    harness.store().await;
    let order = harness.order_as(&issuer.token("alice"), bought.order_no()).await;
    assert_eq!((order.status, &order.body["status"]), (200, &json!("placed")));
}

#[tokio::test]
async fn a_rebuilt_index_knows_what_each_tier_has_taken() {
    let (harness, issuer) = start().await;
    let sale = harness
        .sell_tiers_to(issuer.name(), gold(2, 0), 5, starting_in(-10), None)
        .await;
    let alice = issuer.token_with("alice", &["gold"]);
    let bought = harness.buy_as(&alice, &sale, "1").await;
    let another = harness.buy_as(&alice, &sale, "2").await;
    assert_eq!((bought.status, another.status), (201, 201));
    harness.buy_as(&issuer.token("bob"), &sale, "1").await;
    let taken = async || {
        let probe = harness.stock.probe(sale.id).await.expect("Redis answers");
        let index = probe.index.expect("an index");
        (index.left, index.taken)
    };
    assert_eq!(taken().await, (2, vec![1, 2]));
    for stored in [false, true] {
        harness.stock.drop_sale(sale.id).await.expect("Redis answers");
        harness.rebuild(&sale).await;
        harness.refresh().await;
        assert_eq!(taken().await, (2, vec![1, 2]), "stored: {stored}");
        harness.store().await;
    }
    // A cancelled order refills the reserve.
    let cancelled = harness.cancel_as(&alice, bought.order_no()).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    harness.adjust(&sale).await;
    assert_eq!(taken().await, (3, vec![1, 1]));
    for buyer in ["ben", "bess"] {
        assert_eq!(harness.buy_as(&issuer.token(buyer), &sale, "1").await.status, 201);
    }
    harness
        .buy_as(&issuer.token("bill"), &sale, "1")
        .await
        .is(409, "sold_out");
    harness.rebuild(&sale).await;
    harness.refresh().await;
    assert_eq!(taken().await, (1, vec![3, 1]));
    assert_eq!(harness.buy_as(&alice, &sale, "3").await.status, 201);
}
