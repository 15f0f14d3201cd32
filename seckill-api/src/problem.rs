//! Every answer except success, as problem details (RFC 9457) with a stable `code`.
//!
//! Two rules: a fault never causes the answer "sold out", and an unknown outcome never causes an answer that says that
//! nothing was bought.
use std::fmt::{self, Display, Formatter};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use seckill_protocol::index::Millis;
use seckill_protocol::{OrderNo, Quantity};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::clock;
use crate::idempotency_key::KeyError;
use crate::limits::{MAX_BODY_BYTES, MAX_QUANTITY};
use crate::rate_limit::Exceeded;

/// `Display` writes the `detail`: what is wrong, and what to do.
#[derive(Debug, Clone, thiserror::Error, strum::EnumDiscriminants)]
#[strum_discriminants(name(ProblemKind), doc = "A problem without its data.", derive(strum::VariantArray))]
pub enum Problem {
    #[error("{}", KeyError::Missing)]
    KeyMissing,
    #[error("{0}")]
    KeyInvalid(KeyError),
    #[error("The body is invalid: {0}. Send a JSON object such as {{\"quantity\": 1}}.")]
    BodyInvalid(String),
    #[error("The quantity {0} is invalid. Send a whole number from 1 to {MAX_QUANTITY}.")]
    QuantityInvalid(String),
    #[error("The quantity {quantity} is invalid. Send a whole number from 1 to {most}.")]
    QuantityTooLarge { quantity: Quantity, most: Quantity },
    #[error("The path is invalid: {0}. Send a path of plain or percent-encoded UTF-8.")]
    PathInvalid(String),
    #[error("The request has no token. Log in, and send the header Authorization: Bearer TOKEN.")]
    TokenMissing,
    #[error(
        "The token is malformed: {0}. Send one header Authorization: Bearer TOKEN, with the token as it was issued."
    )]
    TokenMalformed(&'static str),
    #[error("The token has expired. Get a new token, and send the request again, with the same key.")]
    TokenExpired,
    #[error("The token is not valid yet. Send the request again later, or get a new token.")]
    TokenNotYetValid,
    #[error("The token is from another issuer. Log in at the issuer of this sale.")]
    TokenWrongIssuer,
    #[error("The token is for another audience. Ask the issuer for a token with the audience of this shop.")]
    TokenWrongAudience,
    #[error(
        "The issuer does not publish the key of the token. Get a new token, or wait 30 seconds if the issuer has just changed its keys."
    )]
    TokenUnknownKey,
    #[error("The signature of the token is wrong. Send the token as it was issued, or get a new one.")]
    TokenBadSignature,
    #[error("The signature algorithm of the token is not accepted. Use a client with another signature algorithm.")]
    TokenAlgorithmRefused,
    #[error("There is no sale {0}. GET /v1/sales lists all sales.")]
    SaleUnknown(String),
    #[error("There is no order with this number. Check that the number is complete: 27 letters and digits.")]
    OrderUnknown,
    #[error("This server does not have the key of this order number yet. Send the request again.")]
    NumberUnreadable,
    #[error("Nothing was bought with this key. To buy, send the purchase (again) with this key.")]
    RequestUnknown,
    #[error("There is no route {0}. The routes are /v1/sales and /v1/orders/NUMBER.")]
    RouteUnknown(String),
    #[error("This path does not support the method {0}. The Allow header lists the supported methods.")]
    MethodNotAllowed(http::Method),
    #[error("The body did not arrive in time. Send the request again, with the same key.")]
    BodyTimeout,
    #[error("The sale starts at {}. Send the purchase again then, with the same key.", clock::rfc3339(*.starts_at))]
    NotStarted { starts_at: Millis },
    #[error("{}", SoldOutDetail { left: *.left, reserved_until: *.reserved_until })]
    SoldOut { left: u64, reserved_until: Option<Millis> },
    #[error("You hold as many units as one buyer may buy.")]
    LimitReached { held: Option<OrderNo> },
    #[error("You have made as many orders in this sale as one buyer may.")]
    TooManyOrders,
    #[error("The sale has ended.")]
    Ended,
    #[error("A paid order can't be cancelled here. Ask the shop for a refund.")]
    AlreadyPaid,
    #[error("It is not known yet whether the order is cancelled. Send the request again: it can't cancel twice.")]
    CancelUnknown,
    #[error("The order is in quarantine until a person has checked it. Try again later.")]
    OrderHeld,
    #[error("This route was removed. {0}")]
    RouteRemoved(&'static str),
    #[error("The body is longer than {MAX_BODY_BYTES} bytes; a purchase needs less than 100.")]
    BodyTooLarge,
    #[error("The Content-Type is {0}. Send application/json.")]
    ContentType(String),
    #[error("The Content-Encoding is {0}. Send the body without compression.")]
    ContentEncoding(String),
    #[error(
        "This key was sent with another quantity before. Use a new key for a new purchase; retry with the same body."
    )]
    KeyReused,
    #[error("Too many requests of this {}. Send this one again in {} s, with the same key.", .0.policy, .0.retry_after_seconds)]
    RateLimited(Exceeded),
    #[error("The server failed. Send the request again, with the same key: it can't buy twice.")]
    Internal,
    #[error("The sale is suspended and may be resumed. Try again later, with the same key.")]
    Suspended,
    #[error("The sale is temporarily unavailable. This request bought nothing. Send it again, with the same key.")]
    NotReady,
    #[error("Tokens can't be checked now. This request bought nothing. Send it again, with the same key.")]
    IssuerUnavailable,
    #[error("Too many requests are waiting. This request bought nothing. Send it again, with the same key.")]
    Overloaded,
    #[error(
        "It is not known yet whether this request bought anything. Send it again, with the same key: it can't buy twice."
    )]
    OutcomeUnknown,
}

struct SoldOutDetail {
    left: u64,
    reserved_until: Option<Millis>,
}

impl Display for SoldOutDetail {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.left, self.reserved_until) {
            (0, None) => f.write_str("All units are sold."),
            (left, Some(until)) => write!(
                f,
                "Only {left} units are left for you; more are kept for other buyers until {}. Send the purchase again then, \
                 with the same key.",
                clock::rfc3339(until)
            ),
            (left, None) => write!(
                f,
                "Only {left} units are left, fewer than you asked for. Ask for fewer, with a new key."
            ),
        }
    }
}

/// The beginning of a text from the client, for a `detail`.
pub fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

/// The code of a problem, as an extension of the response: the label of the metrics.
#[derive(Debug, Clone, Copy)]
pub struct Code(pub &'static str);

impl Problem {
    pub fn code(&self) -> &'static str {
        self.definition().code
    }

    pub fn status(&self) -> StatusCode {
        self.definition().status
    }

    /// Whether the same request may succeed in a moment.
    pub fn is_temporary(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    fn definition(&self) -> Definition {
        ProblemKind::from(self).definition()
    }

    /// The value of Retry-After, in seconds.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Problem::NotStarted { starts_at } => Some(seconds_until(*starts_at)),
            Problem::SoldOut {
                reserved_until: Some(at),
                ..
            } => Some(seconds_until(*at)),
            Problem::Suspended | Problem::NumberUnreadable | Problem::IssuerUnavailable => Some(5),
            Problem::RateLimited(exceeded) => Some(exceeded.retry_after_seconds),
            Problem::OrderHeld => Some(60),
            Problem::NotReady | Problem::Overloaded | Problem::OutcomeUnknown | Problem::CancelUnknown => Some(1),
            _ => None,
        }
    }
}

/// At least one.
fn seconds_until(at: Millis) -> u64 {
    at.saturating_sub(clock::now()).div_ceil(1000).max(1)
}

/// What all problems of a kind have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    pub status: StatusCode,
    /// Stable, for programs. Several kinds may share one.
    pub code: &'static str,
    pub title: &'static str,
}

/// What a request to a sale whose buyers have an identity can also get.
pub const TOKEN_PROBLEMS: [ProblemKind; 10] = [
    ProblemKind::TokenMissing,
    ProblemKind::TokenMalformed,
    ProblemKind::TokenExpired,
    ProblemKind::TokenNotYetValid,
    ProblemKind::TokenWrongIssuer,
    ProblemKind::TokenWrongAudience,
    ProblemKind::TokenUnknownKey,
    ProblemKind::TokenBadSignature,
    ProblemKind::TokenAlgorithmRefused,
    ProblemKind::IssuerUnavailable,
];

impl ProblemKind {
    pub fn definition(self) -> Definition {
        use ProblemKind::*;
        let (status, code, title) = match self {
            KeyMissing => (StatusCode::BAD_REQUEST, "key_missing", "Missing Idempotency-Key"),
            KeyInvalid => (StatusCode::BAD_REQUEST, "key_invalid", "Invalid Idempotency-Key"),
            BodyInvalid => (StatusCode::BAD_REQUEST, "body_invalid", "Invalid body"),
            QuantityInvalid | QuantityTooLarge => (StatusCode::BAD_REQUEST, "quantity_invalid", "Invalid quantity"),
            PathInvalid => (StatusCode::BAD_REQUEST, "path_invalid", "Invalid path"),
            TokenMissing => (StatusCode::UNAUTHORIZED, "token_missing", "Missing token"),
            TokenMalformed => (StatusCode::UNAUTHORIZED, "token_malformed", "Malformed token"),
            TokenExpired => (StatusCode::UNAUTHORIZED, "token_expired", "Token expired"),
            TokenNotYetValid => (StatusCode::UNAUTHORIZED, "token_not_yet_valid", "Token not yet valid"),
            TokenWrongIssuer => (StatusCode::UNAUTHORIZED, "token_wrong_issuer", "Wrong issuer"),
            TokenWrongAudience => (StatusCode::UNAUTHORIZED, "token_wrong_audience", "Wrong audience"),
            TokenUnknownKey => (StatusCode::UNAUTHORIZED, "token_unknown_key", "Unknown signing key"),
            TokenBadSignature => (StatusCode::UNAUTHORIZED, "token_bad_signature", "Wrong signature"),
            TokenAlgorithmRefused => (
                StatusCode::UNAUTHORIZED,
                "token_algorithm_refused",
                "Signature algorithm not accepted",
            ),
            SaleUnknown => (StatusCode::NOT_FOUND, "sale_unknown", "Sale not found"),
            OrderUnknown => (StatusCode::NOT_FOUND, "order_unknown", "Order not found"),
            RequestUnknown => (StatusCode::NOT_FOUND, "request_unknown", "No purchase with this key"),
            RouteUnknown => (StatusCode::NOT_FOUND, "route_unknown", "Route not found"),
            MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
            ),
            BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body timeout"),
            NotStarted => (StatusCode::CONFLICT, "not_started", "Not started"),
            SoldOut => (StatusCode::CONFLICT, "sold_out", "Sold out"),
            LimitReached => (StatusCode::CONFLICT, "limit_reached", "Limit reached"),
            TooManyOrders => (StatusCode::CONFLICT, "too_many_orders", "Too many orders"),
            AlreadyPaid => (StatusCode::CONFLICT, "already_paid", "Already paid"),
            Ended => (StatusCode::GONE, "ended", "Sale ended"),
            RouteRemoved => (StatusCode::GONE, "route_removed", "Route removed"),
            BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large"),
            ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content_type",
                "Unsupported content type",
            ),
            ContentEncoding => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content_encoding",
                "Unsupported content encoding",
            ),
            KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "key_reused", "Idempotency-Key reused"),
            RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests"),
            Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
            Suspended => (StatusCode::SERVICE_UNAVAILABLE, "suspended", "Sale suspended"),
            NotReady | NumberUnreadable => (StatusCode::SERVICE_UNAVAILABLE, "not_ready", "Not ready"),
            IssuerUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "issuer_unavailable",
                "Issuer unavailable",
            ),
            Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            CancelUnknown => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
            OrderHeld => (StatusCode::SERVICE_UNAVAILABLE, "order_held", "Order in quarantine"),
            OutcomeUnknown => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
        };
        Definition { status, code, title }
    }

    /// The value of WWW-Authenticate, as RFC 6750 says: no error if the request has no token.
    fn challenge(self, Definition { status, title, .. }: Definition) -> Option<HeaderValue> {
        match self {
            ProblemKind::TokenMissing => Some(HeaderValue::from_static("Bearer")),
            _ if status == StatusCode::UNAUTHORIZED => {
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{title}\"");
                HeaderValue::try_from(challenge).ok()
            }
            _ => None,
        }
    }

    /// Whether an answer has the header Retry-After.
    pub fn has_retry_after(self) -> bool {
        matches!(self, ProblemKind::NotStarted | ProblemKind::RateLimited)
            || self.definition().status == StatusCode::SERVICE_UNAVAILABLE
    }
}

impl From<Exceeded> for Problem {
    fn from(exceeded: Exceeded) -> Self {
        Problem::RateLimited(exceeded)
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Missing => Problem::KeyMissing,
            other => Problem::KeyInvalid(other),
        }
    }
}

/// Problem details (RFC 9457). Decide by `code`, which is stable. `title` and `detail` are for people and may change.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDetails<'a> {
    #[schema(value_type = String, example = "urn:seckill:problem:not_started")]
    r#type: Displayed<Urn>,
    title: &'static str,
    status: u16,
    /// New codes may be added: handle an unknown code by its status.
    code: &'static str,
    /// What is wrong, and what to do.
    #[schema(value_type = String)]
    detail: Displayed<&'a Problem>,
    /// Of `not_started`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    starts_at: Option<String>,
    /// Of `sold_out`: fewer units than requested are left for this buyer, perhaps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    remaining: Option<u64>,
    /// Of `sold_out`: units are kept for other buyers until then, so this answer is not final.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    reserved_until: Option<String>,
    /// Of `limit_reached`: one of the buyer's orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    order_no: Option<&'a str>,
}

/// Serializes by `Display`, without a string in between.
struct Displayed<T>(T);

impl<T: Display> Serialize for Displayed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The `type` of the problem with this code.
struct Urn(&'static str);

impl Display for Urn {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("urn:seckill:problem:")?;
        f.write_str(self.0)
    }
}

impl<'a> ProblemDetails<'a> {
    fn new(problem: &'a Problem, Definition { status, code, title }: Definition) -> Self {
        ProblemDetails {
            r#type: Displayed(Urn(code)),
            title,
            status: status.as_u16(),
            code,
            detail: Displayed(problem),
            starts_at: match problem {
                Problem::NotStarted { starts_at } => Some(clock::rfc3339(*starts_at)),
                _ => None,
            },
            remaining: match problem {
                Problem::SoldOut { left, .. } => Some(*left),
                _ => None,
            },
            reserved_until: match problem {
                Problem::SoldOut {
                    reserved_until: Some(at),
                    ..
                } => Some(clock::rfc3339(*at)),
                _ => None,
            },
            order_no: match problem {
                Problem::LimitReached { held: Some(order_no) } => Some(order_no.as_str()),
                _ => None,
            },
        }
    }
}

/// The JSON of most problems is shorter.
const INITIAL_BODY_CAPACITY: usize = 320;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = ProblemKind::from(&self);
        let definition = kind.definition();
        let mut body = Vec::with_capacity(INITIAL_BODY_CAPACITY);
        // Writing strings and numbers into memory does not fail.
        let _ = serde_json::to_writer(&mut body, &ProblemDetails::new(&self, definition));
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = definition.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = kind.challenge(definition) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Problem::RateLimited(exceeded) = self {
            for (name, value) in exceeded.header_fields() {
                headers.insert(name, value);
            }
        }
        if matches!(self, Problem::ContentEncoding(_)) {
            headers.insert(header::ACCEPT_ENCODING, IDENTITY);
        }
        response.extensions_mut().insert(Code(definition.code));
        response
    }
}

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};
    use strum::VariantArray as _;

    fn sold_out(left: u64) -> Problem {
        Problem::SoldOut {
            left,
            reserved_until: None,
        }
    }

    async fn body(problem: Problem) -> (Response, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap();
        (Response::from_parts(parts, axum::body::Body::empty()), body)
    }

    #[tokio::test]
    async fn a_problem_is_problem_json_with_its_code() {
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
    async fn only_a_temporary_problem_has_retry_after() {
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
        for problem in [sold_out(0), Problem::Ended, Problem::KeyReused] {
            let (response, _) = body(problem).await;
            assert!(!response.headers().contains_key(header::RETRY_AFTER));
        }
    }

    #[tokio::test]
    async fn only_a_refused_token_has_a_challenge() {
        let challenge = |problem: Problem| problem.into_response().headers().get(header::WWW_AUTHENTICATE).cloned();
        assert_eq!(challenge(Problem::TokenMissing).unwrap(), "Bearer");
        assert_eq!(
            challenge(Problem::TokenExpired).unwrap(),
            r#"Bearer error="invalid_token", error_description="Token expired""#
        );
        for kind in ProblemKind::VARIANTS {
            let unauthorized = kind.definition().status == StatusCode::UNAUTHORIZED;
            assert_eq!(kind.challenge(kind.definition()).is_some(), unauthorized, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn sold_out_reports_the_units_left() {
        let (_, body) = body(sold_out(2)).await;
        assert_eq!(body["remaining"], 2);
        assert!(
            body["detail"]
                .as_str()
                .unwrap()
                .contains("Only 2 units are left, fewer")
        );
        assert!(body.get("reserved_until").is_none());
    }

    #[tokio::test]
    async fn units_that_are_kept_for_others_are_not_sold() {
        let problem = Problem::SoldOut {
            left: 0,
            reserved_until: Some(Millis::MAX),
        };
        let (response, body) = body(problem).await;
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        assert!(body["reserved_until"].is_string());
        assert!(body["detail"].as_str().unwrap().contains("with the same key"));
    }
}
