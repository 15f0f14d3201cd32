//! One buyer: it wants one order, and retries as a correct client does until it knows the result.
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use http_body_util::Full;
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::answer::{AnswerKind, ParsedAnswer, parse};
use crate::connections::{Connections, ExchangeError};
use crate::permits::Permits;
use crate::plan::{Plan, Route};

/// Upper bound on Retry-After.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The result of one buyer.
pub(crate) struct BuyerResult {
    pub number: usize,
    pub kind: AnswerKind,
    pub order_no: Option<String>,
    /// The text of the last answer, unless the buyer won.
    pub said: Option<String>,
    pub answered_at: Instant,
    pub from_send: Duration,
    pub from_schedule: Duration,
    pub retries: u32,
}

/// The credentials that a buyer sends with each request.
struct Credentials<'a> {
    key: String,
    token: Option<&'a HeaderValue>,
}

/// Buys, and retries with the same key where a retry can't buy twice.
pub(crate) async fn buy(
    plan: &Plan,
    connections: &Connections,
    permits: &Permits,
    number: usize,
    scheduled: Instant,
) -> BuyerResult {
    let credentials = Credentials {
        key: Uuid::new_v4().to_string(),
        token: plan.token(number),
    };
    let mut retries = 0;
    // Whether one of the requests may have bought without an answer.
    let mut unknown = false;
    loop {
        let (answer, from_send) = send(plan, connections, permits, &credentials).await;
        let finish = |kind, order_no, said| BuyerResult {
            number,
            kind,
            order_no,
            said,
            answered_at: Instant::now(),
            from_send,
            from_schedule: scheduled.elapsed(),
            retries,
        };
        let (after, kind, reason) = match answer {
            Ok(ParsedAnswer::Won { order_no }) => return finish(AnswerKind::Won, Some(order_no), None),
            Ok(ParsedAnswer::Lost(kind, said)) => return finish(kind, None, Some(said)),
            Ok(ParsedAnswer::Retry { after, kind, reason }) => (after, kind, reason),
            Err(ExchangeError::Unknown(reason)) if matches!(plan.route, Route::Legacy { .. }) => {
                return finish(AnswerKind::Unanswered, None, Some(reason));
            }
            Err(error) => (None, AnswerKind::Unanswered, error.reason()),
        };
        unknown |= kind == AnswerKind::Unanswered;
        if retries + 1 >= plan.attempts {
            let kind = if unknown { AnswerKind::Unanswered } else { kind };
            return finish(kind, None, Some(reason));
        }
        sleep(retry_delay(after, retries)).await;
        retries += 1;
    }
}

/// Sends one request, and measures the time from its permit to the answer.
async fn send(
    plan: &Plan,
    connections: &Connections,
    permits: &Permits,
    credentials: &Credentials<'_>,
) -> (Result<ParsedAnswer, ExchangeError>, Duration) {
    let _permit = permits.acquire().await;
    let sent = Instant::now();
    let answer = match timeout(plan.timeout, connections.exchange(request(&plan.route, credentials))).await {
        Ok(answer) => answer,
        Err(_) => Err(ExchangeError::Unknown(format!("no answer within {:?}", plan.timeout))),
    };
    let parsed = answer.map(|a| parse(&plan.route, a.status(), a.headers(), a.body()));
    (parsed, sent.elapsed())
}

fn request(route: &Route, credentials: &Credentials<'_>) -> Request<Full<Bytes>> {
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
        request = request.header("idempotency-key", &credentials.key);
    }
    if let Some(token) = credentials.token {
        request = request.header(AUTHORIZATION, token);
    }
    // The sale name is validated and the key is a UUID, so the path and the headers are valid.
    request.body(Full::from(body)).unwrap_or_default()
}

/// The time that the server asked for, or 0.1 s, 0.2 s, ... up to 5 s. Up to a half of it is added at random, so that
/// buyers who were refused together do not retry together.
fn retry_delay(after: Option<Duration>, retries: u32) -> Duration {
    let base = after
        .unwrap_or_else(|| Duration::from_millis(100 << retries.min(6)).min(Duration::from_secs(5)))
        .min(MAX_RETRY_AFTER);
    base.mul_f64(1.0 + 0.5 * rand::rng().random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buyer_waits_at_least_for_retry_after() {
        for _ in 0..100 {
            let waited = retry_delay(Some(Duration::from_secs(2)), 0);
            assert!(
                waited >= Duration::from_secs(2) && waited <= Duration::from_secs(3),
                "{waited:?}"
            );
        }
        assert!(retry_delay(Some(Duration::from_secs(86_400)), 0) <= MAX_RETRY_AFTER.mul_f64(1.5));
        assert!(retry_delay(None, 99) <= Duration::from_millis(7_500));
    }

    #[test]
    fn only_a_v1_request_has_the_key() {
        let token = HeaderValue::from_static("Bearer t");
        let identified = Credentials {
            key: "k".into(),
            token: Some(&token),
        };
        let v1 = request(&Route::v1("shop/phones", 2).expect("valid"), &identified);
        assert_eq!(v1.uri(), "/v1/sales/shop/phones/orders");
        assert_eq!(v1.headers()["idempotency-key"], "k");
        assert_eq!(v1.headers()[AUTHORIZATION], "Bearer t");
        let anonymous = Credentials {
            token: None,
            ..identified
        };
        let legacy = request(&Route::Legacy { item_id: 7 }, &anonymous);
        assert_eq!(legacy.uri(), "/seckill/buy");
        assert!(!legacy.headers().contains_key("idempotency-key"));
        assert!(!legacy.headers().contains_key(AUTHORIZATION));
    }
}
