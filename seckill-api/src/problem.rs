//! Everything that can be answered but success, as problem details (RFC 9457) with a stable `code`.
//!
//! Two rules: a buyer is never told "sold out" for a fault, and never told "failed" when the outcome is unknown.
use std::fmt::{self, Display, Formatter};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use seckill_protocol::OrderNo;
use seckill_protocol::index::Millis;
use serde::{Serialize, Serializer};

use crate::buyer::KeyError;
use crate::clock;
use crate::input::{MAX_BODY, MAX_QUANTITY};

/// What `Display` says is the `detail`: what is the matter, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("body: {0}; send a JSON object such as {{\"quantity\": 1}}")]
    BodyInvalid(String),
    #[error("quantity: {0}; send a whole number from 1 to {MAX_QUANTITY}")]
    QuantityInvalid(String),
    #[error("path: {0}; send a path of plain or percent-encoded UTF-8")]
    PathInvalid(String),
    #[error("There is no sale {0}. GET /v1/sales lists those that there are.")]
    SaleUnknown(String),
    #[error("There is no order with this number. Check that it was copied whole: 27 letters and digits.")]
    OrderUnknown,
    #[error("Nothing was bought with this key. To buy, send the purchase (again) with it.")]
    RequestUnknown,
    #[error("There is nothing at {0}. The routes are /v1/sales and /v1/orders/NUMBER.")]
    RouteUnknown(String),
    #[error("This path does not know the method {0}. The Allow header says which it knows.")]
    MethodNotAllowed(http::Method),
    #[error("The body did not arrive in time. Send the request again, with the same key.")]
    BodyTimeout,
    #[error("The sale starts at {}. Send the purchase again then, with the same key.", clock::rfc3339(*.starts_at))]
    NotStarted { starts_at: Millis },
    #[error("{}", SoldOut(*.left))]
    SoldOut { left: u64 },
    #[error("You hold as many as one buyer may.")]
    LimitReached { held: Option<OrderNo> },
    #[error("The sale has ended.")]
    Ended,
    #[error("The order is paid for and can't be cancelled here. Ask the shop to refund it.")]
    AlreadyPaid,
    #[error("It is not known yet whether this cancelled the order. Send it again: it can't cancel twice.")]
    CancelUnknown,
    #[error("The order is being looked at by a person and can't be changed for now. Try again later.")]
    OrderHeld,
    #[error("This route is gone. {0}")]
    RouteRemoved(&'static str),
    #[error("body: longer than {MAX_BODY} bytes; a purchase needs less than 100")]
    BodyTooLarge,
    #[error("Content-Type: {0}; send application/json")]
    ContentType(String),
    #[error("This key bought another quantity before. A new purchase needs a new key; a retry sends the same body.")]
    KeyReused,
    #[error("This is our fault. Send the request again, with the same key; it can't buy twice.")]
    Internal,
    #[error("The sale is suspended and may go on. Try again later, with the same key.")]
    Suspended,
    #[error(
        "The sale can't be served for a moment. Nothing was bought by this request. Send it again, with the same key."
    )]
    NotReady,
    #[error("Too many requests are waiting. Nothing was bought by this request. Send it again, with the same key.")]
    Overloaded,
    #[error("It is not known yet whether this request bought. Send it again with the same key: it can't buy twice.")]
    OutcomeUnknown,
}

struct SoldOut(u64);

impl Display for SoldOut {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("All are sold."),
            left => write!(
                f,
                "Only {left} are left, fewer than you asked for. Ask for fewer, with a new key."
            ),
        }
    }
}

/// The problem's code (of an answer that is none: `ok`), for the metrics.
#[derive(Debug, Clone, Copy)]
pub struct Code(pub &'static str);

impl Problem {
    pub fn code(&self) -> &'static str {
        self.facts().1
    }

    pub fn status(&self) -> StatusCode {
        self.facts().0
    }

    /// Whether the same request may be answered otherwise in a moment.
    pub fn may_pass(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    fn facts(&self) -> (StatusCode, &'static str, &'static str) {
        use Problem::*;
        match self {
            Key(KeyError::Missing) => (StatusCode::BAD_REQUEST, "key_missing", "Idempotency-Key is missing"),
            Key(_) => (StatusCode::BAD_REQUEST, "key_invalid", "Idempotency-Key is not one"),
            BodyInvalid(_) => (StatusCode::BAD_REQUEST, "body_invalid", "Body not understood"),
            QuantityInvalid(_) => (StatusCode::BAD_REQUEST, "quantity_invalid", "Quantity not possible"),
            PathInvalid(_) => (StatusCode::BAD_REQUEST, "path_invalid", "Path not understood"),
            SaleUnknown(_) => (StatusCode::NOT_FOUND, "sale_unknown", "No such sale"),
            OrderUnknown => (StatusCode::NOT_FOUND, "order_unknown", "No such order"),
            RequestUnknown => (StatusCode::NOT_FOUND, "request_unknown", "Nothing bought with this key"),
            RouteUnknown(_) => (StatusCode::NOT_FOUND, "route_unknown", "No such route"),
            MethodNotAllowed(_) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not known here",
            ),
            BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body did not arrive"),
            NotStarted { .. } => (StatusCode::CONFLICT, "not_started", "Not started"),
            SoldOut { .. } => (StatusCode::CONFLICT, "sold_out", "Sold out"),
            LimitReached { .. } => (StatusCode::CONFLICT, "limit_reached", "Limit reached"),
            AlreadyPaid => (StatusCode::CONFLICT, "already_paid", "Paid for already"),
            Ended => (StatusCode::GONE, "ended", "Ended"),
            RouteRemoved(_) => (StatusCode::GONE, "route_removed", "Route removed"),
            BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large"),
            ContentType(_) => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content_type",
                "Content type not understood",
            ),
            KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "key_reused", "Idempotency-Key reused"),
            Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
            Suspended => (StatusCode::SERVICE_UNAVAILABLE, "suspended", "Suspended"),
            NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not_ready", "Not ready"),
            Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            CancelUnknown => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
            OrderHeld => (StatusCode::SERVICE_UNAVAILABLE, "order_held", "Order held"),
            OutcomeUnknown => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
        }
    }

    /// Seconds.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Problem::NotStarted { starts_at } => Some(starts_at.saturating_sub(clock::now()).div_ceil(1000).max(1)),
            Problem::Suspended => Some(5),
            Problem::OrderHeld => Some(60),
            Problem::NotReady | Problem::Overloaded | Problem::OutcomeUnknown | Problem::CancelUnknown => Some(1),
            _ => None,
        }
    }
}

/// Problem details. What is not always there is for programs.
#[derive(Serialize)]
struct Details<'a> {
    r#type: Shown<Urn>,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: Shown<&'a Problem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_no: Option<&'a str>,
}

/// Written as it is displayed, straight to where it goes.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// By a problem's code.
struct Urn(&'static str);

impl Display for Urn {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "urn:seckill:problem:{}", self.0)
    }
}

impl<'a> Details<'a> {
    fn of(problem: &'a Problem) -> Self {
        let (status, code, title) = problem.facts();
        Details {
            r#type: Shown(Urn(code)),
            title,
            status: status.as_u16(),
            code,
            detail: Shown(problem),
            starts_at: match problem {
                Problem::NotStarted { starts_at } => Some(clock::rfc3339(*starts_at)),
                _ => None,
            },
            remaining: match problem {
                Problem::SoldOut { left } => Some(*left),
                _ => None,
            },
            order_no: match problem {
                Problem::LimitReached { held: Some(order_no) } => Some(order_no.as_str()),
                _ => None,
            },
        }
    }
}

/// Most problems' length in JSON is less.
const USUAL_LENGTH: usize = 320;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, _) = self.facts();
        let mut body = Vec::with_capacity(USUAL_LENGTH);
        // Strings and numbers, into memory: nothing that could fail.
        let _ = serde_json::to_writer(&mut body, &Details::of(&self));
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Code(code));
        response
    }
}

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    async fn body(problem: Problem) -> (Response, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap();
        (Response::from_parts(parts, axum::body::Body::empty()), body)
    }

    #[tokio::test]
    async fn a_problem_is_problem_json_with_a_stable_code() {
        let (response, body) = body(Problem::NotStarted { starts_at: Millis::MAX }).await;
        assert_eq!(response.status(), 409);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(body["type"], "urn:seckill:problem:not_started");
        assert_eq!((&body["status"], &body["code"]), (&json!(409), &json!("not_started")));
        assert!(body["detail"].as_str().unwrap().contains("with the same key"));
        assert!(body["starts_at"].is_string());
    }

    #[tokio::test]
    async fn what_may_pass_says_when_to_try_again_and_what_will_not_pass_does_not() {
        for problem in [
            Problem::NotReady,
            Problem::Overloaded,
            Problem::OutcomeUnknown,
            Problem::Suspended,
        ] {
            let (response, body) = body(problem).await;
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key(header::RETRY_AFTER), "{body}");
        }
        for problem in [Problem::SoldOut { left: 0 }, Problem::Ended, Problem::KeyReused] {
            let (response, _) = body(problem).await;
            assert!(!response.headers().contains_key(header::RETRY_AFTER));
        }
    }

    #[tokio::test]
    async fn sold_out_says_how_many_are_left() {
        let (_, body) = body(Problem::SoldOut { left: 2 }).await;
        assert_eq!(body["remaining"], 2);
        assert!(body["detail"].as_str().unwrap().contains("Only 2 are left"));
    }
}
