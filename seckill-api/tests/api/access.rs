//! Sales whose buyers have an identity.
use seckill_api::buyers::Buyers;
use seckill_api::identity::Issuers;
use seckill_api::identity::config::parse;
use seckill_api::identity::refresh::RefreshIntervals;
use seckill_api::metrics::Metrics;
use seckill_api::rate_limit::RateLimitConfig;
use seckill_ledger::{Sale, SaleTerms};
use seckill_service::Shutdown;
use seckill_service::metrics::registry::Registry;
use seckill_test_issuer::{Key, TestIssuer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Request, Response};
use crate::harness::*;

pub const BUYER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const AUDIENCE: &str = "seckill";

/// The issuer `main`, and the key with which it signs.
pub struct Issuer {
    server: TestIssuer,
    key: Key,
    shutdown: Shutdown,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Issuer {
    pub fn name(&self) -> &'static str {
        "main"
    }

    /// Another one for each call.
    pub fn token(&self, subject: &str) -> String {
        self.token_until(subject, now() / 1000 + 600)
    }

    /// Of a buyer with these roles.
    pub fn token_with(&self, subject: &str, roles: &[&str]) -> String {
        self.key.token(&json!({
            "iss": self.server.url, "aud": AUDIENCE, "sub": subject, "exp": now() / 1000 + 600, "jti": Uuid::new_v4(),
            "roles": roles,
        }))
    }

    pub fn expired_token(&self, subject: &str) -> String {
        self.token_until(subject, now() / 1000 - 600)
    }

    fn token_until(&self, subject: &str, expires: u64) -> String {
        self.key.token(&json!({
            "iss": self.server.url, "aud": AUDIENCE, "sub": subject, "exp": expires, "jti": Uuid::new_v4(),
        }))
    }
}

/// Open, and a buyer may have so many units.
fn limited(limit_per_buyer: u32) -> SaleTerms {
    SaleTerms {
        limit_per_buyer,
        ..open()
    }
}

pub fn with_token(mut request: Request, token: &str) -> Request {
    request.headers.push(format!("Authorization: Bearer {token}"));
    request
}

impl Harness {
    /// A harness that knows an issuer, and has its keys.
    pub async fn with_issuer() -> (Harness, Issuer) {
        Self::with_issuer_and_limits(RateLimitConfig::default()).await
    }

    async fn with_issuer_and_limits(rate_limits: RateLimitConfig) -> (Harness, Issuer) {
        let key = Key::ec("a");
        let server = TestIssuer::start(&[&key]).await;
        let config =
            json!({"issuers": [{"name": "main", "url": server.url, "audiences": [AUDIENCE], "tierClaim": "/roles"}]});
        let configs = parse(&config.to_string()).expect("valid");
        let (metrics, shutdown) = (Metrics::register(&mut Registry::default()), Shutdown::new());
        let issuers = Issuers::start(&configs, RefreshIntervals::default(), metrics, &shutdown).expect("valid");
        let buyers = Buyers::new(issuers, Some(BUYER_KEY.parse().expect("a key")));
        let harness = Harness::with_buyers(buyers, rate_limits).await;
        let issuer = Issuer { server, key, shutdown };
        let sale = harness.sell_to(issuer.name(), 1, over()).await;
        eventually("the keys of the issuer are loaded", async || {
            harness.earlier_as(&issuer.token("nobody"), &sale, "1").await.status == 404
        })
        .await;
        (harness, issuer)
    }

    pub async fn buy_as(&self, token: &str, sale: &Sale, key: &str) -> Response {
        self.send(with_token(purchase(sale, key, 1), token)).await
    }

    async fn earlier_as(&self, token: &str, sale: &Sale, key: &str) -> Response {
        let line = format!("GET {}/request", path(sale));
        self.send(with_token(Request::new(line, &[&key_header(key)], ""), token))
            .await
    }

    pub async fn order_as(&self, token: &str, number: &str) -> Response {
        let request = Request::get(&format!("/v1/orders/{number}"));
        self.send(with_token(request, token)).await
    }

    pub async fn cancel_as(&self, token: &str, number: &str) -> Response {
        let request = Request::new(format!("DELETE /v1/orders/{number}"), &[], "");
        self.while_storing(self.send(with_token(request, token))).await
    }
}

#[tokio::test]
async fn two_tokens_of_one_buyer_share_the_limit() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_to(issuer.name(), 10, limited(2)).await;
    let (first, second) = (issuer.token("alice"), issuer.token("alice"));
    assert_ne!(first, second);
    let bought = harness.buy_as(&first, &sale, "1").await;
    assert_eq!(bought.status, 201, "{bought:?}");
    // A retry gets the same order, whichever token it brings.
    for token in [&first, &second] {
        assert_eq!(harness.buy_as(token, &sale, "1").await.body, bought.body);
        assert_eq!(harness.earlier_as(token, &sale, "1").await.body, bought.body);
    }
    let another = harness.buy_as(&second, &sale, "2").await;
    assert_eq!(another.status, 201, "{another:?}");
    for token in [&first, &second] {
        let refused = harness.buy_as(token, &sale, "3").await;
        assert_eq!(
            refused.is(409, "limit_reached").body["order_no"],
            bought.body["order_no"]
        );
    }
    // The next buyer has a limit of his own.
    assert_eq!(harness.buy_as(&issuer.token("bob"), &sale, "3").await.status, 201);
}

#[tokio::test]
async fn the_rate_of_a_buyer_is_limited_whichever_token_it_sends() {
    let (harness, issuer) = Harness::with_issuer_and_limits(RateLimitConfig {
        per_buyer: 1,
        ..RateLimitConfig::default()
    })
    .await;
    let sale = harness.sell_to(issuer.name(), 10, open()).await;
    let mut refused = None;
    for _ in 0..30 {
        let response = harness.earlier_as(&issuer.token("alice"), &sale, "1").await;
        refused = refused.or((response.status == 429).then_some(response));
    }
    let refused = refused.expect("a burst of ten, and then one in a second");
    assert_eq!(
        refused.is(429, "rate_limited").headers["ratelimit-policy"],
        r#""buyer";q=10;w=10"#
    );
    let bought = harness.buy_as(&issuer.token("bob"), &sale, "1").await;
    assert_eq!(bought.status, 201, "{bought:?}");
}

#[tokio::test]
async fn the_limit_outlives_the_index() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_to(issuer.name(), 10, limited(1)).await;
    let alice = issuer.token("alice");
    let bought = harness.buy_as(&alice, &sale, "1").await;
    assert_eq!(bought.status, 201, "{bought:?}");
    harness.stock.drop_sale(sale.id).await.expect("Redis answers");
    harness.rebuild(&sale).await;
    harness.refresh().await;
    harness.buy_as(&alice, &sale, "2").await.is(409, "limit_reached");
    assert_eq!(harness.buy_as(&alice, &sale, "1").await.body, bought.body);
}

#[tokio::test]
async fn a_cancelled_unit_can_be_bought_again() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_to(issuer.name(), 10, limited(1)).await;
    let alice = issuer.token("alice");
    let bought = harness.buy_as(&alice, &sale, "1").await;
    harness.buy_as(&alice, &sale, "2").await.is(409, "limit_reached");
    let cancelled = harness.cancel_as(&alice, bought.order_no()).await;
    assert_eq!(
        (cancelled.status, &cancelled.body["status"]),
        (200, &json!("cancelled"))
    );
    harness.adjust(&sale).await;
    assert_eq!(harness.buy_as(&alice, &sale, "2").await.status, 201);
    harness.buy_as(&alice, &sale, "3").await.is(409, "limit_reached");
    // The key that bought the cancelled order stays used.
    let retried = harness.buy_as(&alice, &sale, "1").await;
    assert_eq!(retried.body["status"], "cancelled");
}

#[tokio::test]
async fn an_order_is_visible_to_its_buyer_only() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_to(issuer.name(), 10, limited(2)).await;
    let (alice, bob) = (issuer.token("alice"), issuer.token("bob"));
    let bought = harness.buy_as(&alice, &sale, "1").await;
    let number = bought.order_no();
    let is_hidden = async || {
        harness.order_as(&bob, number).await.is(404, "order_unknown");
        harness.cancel_as(&bob, number).await.is(404, "order_unknown");
        harness
            .get(&format!("/v1/orders/{number}"))
            .await
            .is(401, "token_missing");
        harness.cancel(number).await.is(401, "token_missing");
    };
    // MySQL does not have the order: the holdings in Redis say whose it is.
    let shown = harness.order_as(&alice, number).await;
    assert_eq!((shown.status, &shown.body["status"]), (200, &json!("processing")));
    harness.order_as(&bob, number).await.is(404, "order_unknown");
    harness
        .get(&format!("/v1/orders/{number}"))
        .await
        .is(401, "token_missing");
    harness.rebuild(&sale).await;
    harness.refresh().await;
    assert_eq!(harness.order_as(&alice, number).await.status, 200);
    harness.order_as(&bob, number).await.is(404, "order_unknown");

    harness.store().await;
    let shown = harness.order_as(&alice, number).await;
    assert_eq!((shown.status, &shown.body["status"]), (200, &json!("placed")));
    is_hidden().await;
    harness.settle(&sale).await;
    harness.refresh().await;
    assert_eq!(harness.order_as(&alice, number).await.status, 200);
    is_hidden().await;
    assert_eq!(harness.row(&sale).await.sold, 1);
}

#[tokio::test]
async fn an_order_is_not_denied_to_its_buyer_while_the_index_is_missing() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_to(issuer.name(), 10, limited(2)).await;
    let alice = issuer.token("alice");
    let bought = harness.buy_as(&alice, &sale, "1").await;
    harness.stock.drop_sale(sale.id).await.expect("Redis answers");
    for token in [&alice, &issuer.token("bob")] {
        harness.order_as(token, bought.order_no()).await.is(503, "not_ready");
    }
    harness.store().await;
    assert_eq!(harness.order_as(&alice, bought.order_no()).await.status, 200);
}

#[tokio::test]
async fn keys_of_two_buyers_do_not_collide() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_to(issuer.name(), 10, limited(1)).await;
    let (alice, bob) = (issuer.token("alice"), issuer.token("bob"));
    let of_alice = harness.buy_as(&alice, &sale, "order-1").await;
    harness
        .earlier_as(&bob, &sale, "order-1")
        .await
        .is(404, "request_unknown");
    let of_bob = harness.buy_as(&bob, &sale, "order-1").await;
    assert_eq!((of_alice.status, of_bob.status), (201, 201), "{of_bob:?}");
    assert_ne!(of_alice.order_no(), of_bob.order_no());
    // After the end the ledger tells them apart.
    harness.settle(&sale).await;
    harness.refresh().await;
    for (token, bought) in [(&alice, &of_alice), (&bob, &of_bob)] {
        let earlier = harness.earlier_as(token, &sale, "order-1").await;
        assert_eq!(earlier.order_no(), bought.order_no());
    }
    harness
        .earlier_as(&issuer.token("carol"), &sale, "order-1")
        .await
        .is(404, "request_unknown");
}

#[tokio::test]
async fn the_token_is_checked_before_anything_else() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sold_out = harness.sell_to(issuer.name(), 1, limited(1)).await;
    let token = issuer.token("alice");
    assert_eq!(harness.buy_as(&token, &sold_out, "1").await.status, 201);
    let sales = [
        sold_out,
        harness.sell_to(issuer.name(), 1, not_open_yet()).await,
        harness.sell_to(issuer.name(), 1, over()).await,
    ];
    for sale in &sales {
        for bad_token in ["", "x.y.z", &issuer.expired_token("alice")] {
            let refused = harness.buy_as(bad_token, sale, "1").await;
            assert_eq!(refused.status, 401, "{refused:?}");
            assert!(refused.headers.contains_key("www-authenticate"), "{refused:?}");
        }
        // Neither key nor body is looked at.
        let line = format!("POST {}/orders", path(sale));
        harness
            .send(Request::new(line, &[], "{"))
            .await
            .is(401, "token_missing");
        harness.earlier(sale, &key()).await.is(401, "token_missing");
    }
    let line = format!("POST {}/orders", path(&sales[0]));
    let without_key = with_token(Request::new(line, &[], "{"), &token);
    harness.send(without_key).await.is(400, "key_missing");
    let invalid = harness.buy_as(&token, &sales[0], "a b").await;
    let detail = &invalid.is(400, "key_invalid").body["detail"];
    assert!(detail.as_str().expect("text").contains("1 to 128"), "{detail}");
}

#[tokio::test]
async fn an_anonymous_sale_runs_beside_it() {
    let (harness, issuer) = Harness::with_issuer().await;
    let anonymous = harness.sell(5, open()).await;
    let sale = harness.sell_to(issuer.name(), 5, limited(1)).await;
    let show = async |sale: &Sale| {
        let shown = harness.get(&path(sale)).await;
        (shown.body["access"].clone(), shown.body["limit_per_buyer"].clone())
    };
    assert_eq!(show(&anonymous).await, (Value::Null, Value::Null));
    assert_eq!(show(&sale).await, (json!({"issuer": issuer.name()}), json!(1)));
    let key = key();
    let bought = harness.buy(&anonymous, &key).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    // Its keys must be hard to guess, and a token changes nothing.
    harness.buy(&anonymous, "1").await.is(400, "key_invalid");
    let with_token = harness.buy_as("no.valid.token", &anonymous, &key).await;
    assert_eq!(with_token.body, bought.body);
    assert_eq!(
        harness.get(&format!("/v1/orders/{}", bought.order_no())).await.status,
        200
    );
    assert_eq!(harness.buy_as(&issuer.token("alice"), &sale, &key).await.status, 201);
}

#[tokio::test]
async fn the_old_routes_sell_anonymous_sales_only() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_item_to(issuer.name(), 5, limited(1), Some(7)).await;
    let refused = harness.legacy("POST /seckill/buy", r#"{"item_id":7}"#).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("42005")));
    assert_eq!(refused.body["message"], "invalid token");
    let bought = harness.buy_as(&issuer.token("alice"), &sale, "1").await;
    let line = format!("GET /seckill/query_order?order_id={}", bought.order_no());
    for stored in [false, true] {
        let refused = harness.legacy(&line, "").await;
        assert_eq!(refused.body["code"], "42004", "stored: {stored}");
        harness.store().await;
    }
}

#[tokio::test]
async fn without_a_key_of_buyers_only_anonymous_sales_sell() {
    let harness = Harness::start().await;
    let sale = harness.sell_to("main", 5, limited(1)).await;
    harness.buy_as("a.b.c", &sale, "1").await.is(503, "not_ready");
    let anonymous = harness.sell(5, open()).await;
    assert_eq!(harness.buy(&anonymous, &key()).await.status, 201);
}

#[tokio::test]
async fn a_sale_of_an_issuer_that_is_not_configured_is_refused() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sale = harness.sell_to("another", 5, limited(1)).await;
    let refused = harness.buy_as(&issuer.token("alice"), &sale, "1").await;
    refused.is(503, "issuer_unavailable");
}
