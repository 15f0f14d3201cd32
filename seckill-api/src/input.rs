//! Paths and bodies, checked: what the routes take as their arguments.
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use seckill_protocol::Quantity;
use serde::Deserialize;
use serde_json::Value;

use crate::api::Api;
use crate::catalogue::Listed;
use crate::problem::Problem;

pub const MAX_BODY: usize = 16 * 1024;
/// More units than this in one order are a typing error or an attack.
pub const MAX_QUANTITY: Quantity = 1000;
/// A body of at most [`MAX_BODY`] that takes longer is held back on purpose.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// The sale that the path names: `{namespace}/{name}`.
pub struct NamedSale(pub Arc<Listed>);

impl FromRequestParts<Arc<Api>> for NamedSale {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, api).await;
        let Path((namespace, name)) = path.map_err(|rejection| Problem::PathInvalid(rejection.body_text()))?;
        let sale = format!("{namespace}/{name}");
        let found = api.catalogue.surely(|catalogue| catalogue.by_name(&sale)).await;
        found.map(Self).ok_or_else(|| Problem::SaleUnknown(shortened(&sale)))
    }
}

/// What a purchase asks for.
pub struct Wanted(pub Quantity);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrder {
    quantity: Value,
}

impl<S: Sync> FromRequest<S> for Wanted {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        content_type(request.headers())?;
        let bytes = bytes(request.into_body()).await?;
        // serde would take an array for an object.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(Problem::BodyInvalid("an array".into()));
        }
        let order: NewOrder =
            serde_json::from_slice(&bytes).map_err(|error| Problem::BodyInvalid(shortened(&error.to_string())))?;
        let asked = order.quantity.as_u64().and_then(|n| Quantity::try_from(n).ok());
        match asked {
            Some(quantity @ 1..=MAX_QUANTITY) => Ok(Wanted(quantity)),
            _ => Err(Problem::QuantityInvalid(shortened(&order.quantity.to_string()))),
        }
    }
}

fn content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let sent = headers
        .get(header::CONTENT_TYPE)
        .ok_or_else(|| Problem::ContentType("missing".into()))?;
    let sent = sent.to_str().unwrap_or("not ASCII");
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::ContentType(shortened(sent)))
}

/// A whole body.
pub async fn bytes(body: Body) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_WITHIN, Limited::new(body, MAX_BODY).collect()).await {
        Err(_) => Err(Problem::BodyTimeout),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::BodyTooLarge),
        Ok(Err(_)) => Err(Problem::BodyInvalid("it was cut off".into())),
    }
}

/// For an error message: enough to know it by.
pub fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn quantity_of(body: &'static str) -> Result<Quantity, Problem> {
        let request = Request::post("/").header(header::CONTENT_TYPE, "application/json; charset=utf-8");
        let wanted = Wanted::from_request(request.body(Body::from(body)).unwrap(), &()).await;
        wanted.map(|Wanted(quantity)| quantity)
    }

    #[tokio::test]
    async fn a_quantity_is_a_whole_number_in_bounds() {
        assert_eq!(quantity_of(r#"{"quantity":1}"#).await.unwrap(), 1);
        assert_eq!(quantity_of(r#" {"quantity" : 1000}"#).await.unwrap(), 1000);
        for bad in [
            "0",
            "-1",
            "1001",
            "1.5",
            "1e3",
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
    async fn what_is_no_purchase_is_refused_with_an_example() {
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
