//! One buyer: it wants one order, and does what a good client does until it knows whether it has it.
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use http_body_util::Full;
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::answer::{Kind, Meaning, meaning};
use crate::connections::{Connections, Failure};
use crate::places::Places;
use crate::plan::{Plan, Route};

/// A server that asks for more patience than this is not waited for any longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What became of a buyer.
pub(crate) struct Settled {
    pub kind: Kind,
    pub order_no: Option<String>,
    /// What the answer said, unless the buyer won.
    pub said: Option<String>,
    pub from_send: Duration,
    pub from_schedule: Duration,
    pub retries: u32,
}

/// What a buyer sends with each of its requests.
struct Buyer<'a> {
    key: String,
    token: Option<&'a HeaderValue>,
}

/// Buys, asking again with the same key where that can't buy twice.
pub(crate) async fn buy(
    plan: &Plan,
    connections: &Connections,
    places: &Places,
    number: usize,
    scheduled: Instant,
) -> Settled {
    let buyer = Buyer {
        key: Uuid::new_v4().to_string(),
        token: plan.tokens.get(number % plan.tokens.len().max(1)),
    };
    let mut retries = 0;
    // Whether one of the requests may have bought without telling.
    let mut unknown = false;
    loop {
        let (asked, from_send) = ask(plan, connections, places, &buyer).await;
        let settled = |kind, order_no, said| Settled {
            kind,
            order_no,
            said,
            from_send,
            from_schedule: scheduled.elapsed(),
            retries,
        };
        let (after, kind, why) = match asked {
            Ok(Meaning::Won { order_no }) => return settled(Kind::Won, Some(order_no), None),
            Ok(Meaning::Lost(kind, said)) => return settled(kind, None, Some(said)),
            Ok(Meaning::Again { after, kind, why }) => (after, kind, why),
            Err(Failure::Unknown(why)) if matches!(plan.route, Route::Legacy { .. }) => {
                return settled(Kind::Unanswered, None, Some(why));
            }
            Err(failure) => (None, Kind::Unanswered, failure.why()),
        };
        unknown |= kind == Kind::Unanswered;
        if retries + 1 >= plan.attempts {
            let kind = if unknown { Kind::Unanswered } else { kind };
            return settled(kind, None, Some(why));
        }
        sleep(wait(after, retries)).await;
        retries += 1;
    }
}

/// One request, and how long it took from the moment it had its place in flight.
async fn ask(
    plan: &Plan,
    connections: &Connections,
    places: &Places,
    buyer: &Buyer<'_>,
) -> (Result<Meaning, Failure>, Duration) {
    let _place = places.take().await;
    let sent = Instant::now();
    let answer = match timeout(plan.timeout, connections.exchange(request(&plan.route, buyer))).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Unknown(format!("no answer within {:?}", plan.timeout))),
    };
    let meaning = answer.map(|a| meaning(&plan.route, a.status(), a.headers(), a.body()));
    (meaning, sent.elapsed())
}

fn request(route: &Route, buyer: &Buyer<'_>) -> Request<Full<Bytes>> {
    let (path, body) = match route {
        Route::V1 {
            namespace,
            name,
            quantity,
        } => (
            format!("/v1/sales/{namespace}/{name}/orders"),
            format!(r#"{{"quantity":{quantity}}}"#),
        ),
        Route::Legacy { item_id } => ("/seckill/buy".to_string(), format!(r#"{{"item_id":{item_id}}}"#)),
    };
    let mut request = Request::post(path).header(CONTENT_TYPE, "application/json");
    if matches!(route, Route::V1 { .. }) {
        request = request.header("idempotency-key", &buyer.key);
    }
    if let Some(token) = buyer.token {
        request = request.header(AUTHORIZATION, token);
    }
    // A checked name and a UUID: nothing in it that a header or a path could refuse.
    request.body(Full::from(body)).unwrap_or_default()
}

/// As long as the server asked for, else 0.1 s, 0.2 s, ... to 5 s; with up to a half on top, so that those refused
/// together don't come back together.
fn wait(after: Option<Duration>, retries: u32) -> Duration {
    let base = after
        .unwrap_or_else(|| Duration::from_millis(100 << retries.min(6)).min(Duration::from_secs(5)))
        .min(LONGEST_WAIT);
    base.mul_f64(1.0 + 0.5 * rand::rng().random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buyer_waits_at_least_as_long_as_it_was_asked_to() {
        for _ in 0..100 {
            let waited = wait(Some(Duration::from_secs(2)), 0);
            assert!(
                waited >= Duration::from_secs(2) && waited <= Duration::from_secs(3),
                "{waited:?}"
            );
        }
        assert!(wait(Some(Duration::from_secs(86_400)), 0) <= LONGEST_WAIT.mul_f64(1.5));
        assert!(wait(None, 99) <= Duration::from_millis(7_500));
    }

    #[test]
    fn a_v1_request_carries_the_key_and_a_legacy_one_has_none() {
        let token = HeaderValue::from_static("Bearer t");
        let known = Buyer {
            key: "k".into(),
            token: Some(&token),
        };
        let v1 = request(&Route::v1("shop/phones", 2).expect("valid"), &known);
        assert_eq!(v1.uri(), "/v1/sales/shop/phones/orders");
        assert_eq!(v1.headers()["idempotency-key"], "k");
        assert_eq!(v1.headers()[AUTHORIZATION], "Bearer t");
        let anonymous = Buyer { token: None, ..known };
        let legacy = request(&Route::Legacy { item_id: 7 }, &anonymous);
        assert_eq!(legacy.uri(), "/seckill/buy");
        assert!(!legacy.headers().contains_key("idempotency-key"));
        assert!(!legacy.headers().contains_key(AUTHORIZATION));
    }
}
