//! The arguments of the routes, extracted from paths, headers and bodies, and validated.
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use seckill_protocol::Quantity;
use seckill_service::traces::TRACEPARENT;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::Api;
use crate::buyers::IdentifiedBuyer;
use crate::catalogue::ListedSale;
use crate::idempotency_key::Caller;
use crate::limits::{BODY_TIMEOUT, MAX_BODY_BYTES, MAX_QUANTITY};
use crate::problem::{Problem, excerpt};
use crate::unknown_sales::SaleReference;

/// The sale that the path names: `{namespace}/{name}`.
pub struct NamedSale(pub Arc<ListedSale>);

impl FromRequestParts<Arc<Api>> for NamedSale {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, api).await;
        let Path((namespace, name)) = path.map_err(|rejection| Problem::PathInvalid(rejection.body_text()))?;
        let found = match SaleReference::of_name(&namespace, &name) {
            Some(reference) => api.find_sale(reference).await?,
            None => None,
        };
        found
            .map(Self)
            .ok_or_else(|| Problem::SaleUnknown(excerpt(&format!("{namespace}/{name}"))))
    }
}

/// The order number in the path.
pub struct OrderNumber(pub String);

impl<S: Send + Sync> FromRequestParts<S> for OrderNumber {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(number)) => Ok(Self(number)),
            Err(rejection) => Err(Problem::PathInvalid(rejection.body_text())),
        }
    }
}

/// The sale that the path names, the buyer, and the key.
pub struct CallerOfSale(pub Arc<ListedSale>, pub Caller);

impl FromRequestParts<Arc<Api>> for CallerOfSale {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let NamedSale(listed) = NamedSale::from_request_parts(parts, api).await?;
        let caller = match &listed.sale.issuer {
            None => Caller::from_headers(&parts.headers)?,
            Some(issuer) => {
                // Boxed: otherwise the future of every anonymous purchase would need room for it.
                let identified = Box::pin(api.identify(issuer, &parts.headers)).await?;
                let tier = identified.tier_in(&listed.sale);
                Caller::identified(identified.buyer, tier, &parts.headers)?
            }
        };
        Ok(CallerOfSale(listed, caller))
    }
}

/// The header by which a caller names its own span. None if nothing is traced.
pub struct CallerSpan(pub Option<HeaderValue>);

impl FromRequestParts<Arc<Api>> for CallerSpan {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Infallible> {
        let is_read = api.traced.is_on();
        Ok(CallerSpan(
            is_read.then(|| parts.headers.get(TRACEPARENT).cloned()).flatten(),
        ))
    }
}

impl Api {
    /// The buyer of a request, if that buyer may make another one.
    pub(crate) async fn identify(&self, issuer: &str, headers: &HeaderMap) -> Result<IdentifiedBuyer, Problem> {
        let identified = self.buyers.identified(issuer, headers).await?;
        self.rate_limits.charge_buyer(&identified.buyer)?;
        Ok(identified)
    }
}

/// The body of a purchase.
pub struct RequestedQuantity(pub Quantity);

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Purchase)]
pub struct PurchaseBody {
    /// Units, at most the sale's `max_per_order`. A purchase gets all of them or nothing.
    #[schema(value_type = u32, minimum = 1, maximum = 1000)]
    quantity: Value,
}

impl<S: Sync> FromRequest<S> for RequestedQuantity {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        require_json(request.headers())?;
        require_no_encoding(request.headers())?;
        let bytes = read_body(request.into_body()).await?; // in memory already
        // RFC 8259 lets a parser ignore the byte order mark that some tools write.
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
        // serde also deserializes a struct from an array.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(Problem::BodyInvalid("found an array".into()));
        }
        let body: PurchaseBody =
            serde_json::from_slice(bytes).map_err(|error| Problem::BodyInvalid(excerpt(&error.to_string())))?;
        match whole_number(&body.quantity) {
            Some(quantity @ 1..=MAX_QUANTITY) => Ok(RequestedQuantity(quantity)),
            _ => Err(Problem::QuantityInvalid(excerpt(&body.quantity.to_string()))),
        }
    }
}

/// JSON has one type of numbers: `2.0` is the whole number 2.
fn whole_number(value: &Value) -> Option<Quantity> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
    // Beyond the bounds of `Quantity`, it becomes the nearest one.
    Some(number as Quantity)
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let sent = headers
        .get(header::CONTENT_TYPE)
        .ok_or_else(|| Problem::ContentType("missing".into()))?;
    let sent = sent.to_str().unwrap_or("not ASCII");
    let media_type = sent.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::ContentType(excerpt(sent)))
}

fn require_no_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::CONTENT_ENCODING) {
        None => Ok(()),
        Some(sent) if sent.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(sent) => Err(Problem::ContentEncoding(excerpt(sent.to_str().unwrap_or("not ASCII")))),
    }
}

/// Reads a whole body, bounded in size and time.
pub async fn read_body(body: Body) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Err(_) => Err(Problem::BodyTimeout),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::BodyTooLarge),
        Ok(Err(_)) => Err(Problem::BodyInvalid("the body is incomplete".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn quantity_of(body: &'static str) -> Result<Quantity, Problem> {
        let request = Request::post("/").header(header::CONTENT_TYPE, "application/json; charset=utf-8");
        let requested = RequestedQuantity::from_request(request.body(Body::from(body)).unwrap(), &()).await;
        requested.map(|RequestedQuantity(quantity)| quantity)
    }

    #[tokio::test]
    async fn a_quantity_is_a_whole_number_in_bounds() {
        assert_eq!(quantity_of(r#"{"quantity":1}"#).await.unwrap(), 1);
        assert_eq!(quantity_of(r#" {"quantity" : 1000}"#).await.unwrap(), 1000);
        assert_eq!(quantity_of("\u{feff}{\"quantity\":2}").await.unwrap(), 2);
        assert_eq!(quantity_of(r#"{"quantity":3.0}"#).await.unwrap(), 3);
        assert_eq!(quantity_of(r#"{"quantity":1e3}"#).await.unwrap(), 1000);
        for bad in [
            "0",
            "-1",
            "1001",
            "1.5",
            "1e-1",
            "1e30",
            "\"1\"",
            "null",
            "true",
            "[1]",
            "18446744073709551616",
        ] {
            let body: &'static str = format!(r#"{{"quantity":{bad}}}"#).leak();
            let problem = quantity_of(body).await.expect_err(bad);
            assert_eq!(problem.code(), "quantity_invalid", "{bad}");
            assert!(problem.to_string().contains("from 1 to 1000"));
        }
    }

    #[tokio::test]
    async fn an_invalid_body_is_rejected_with_an_example() {
        for bad in [
            "",
            "{}",
            "1",
            "null",
            "[1]",
            "quantity=1",
            r#"{"quantity":1"#,
            r#"{"quantity":1,"quantity":2}"#,
            r#"{"quantity":1,"coupon":"x"}"#,
        ] {
            let problem = quantity_of(bad).await.expect_err(bad);
            assert_eq!(problem.code(), "body_invalid", "{bad}");
            assert!(problem.to_string().contains("such as"), "{problem}");
        }
    }
}
