//! Buying, and what became of an order.
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;

use crate::api::Api;
use crate::buyer::Caller;
use crate::cancel::Cancelled;
use crate::catalogue::Listed;
use crate::clock;
use crate::input::{NamedSale, Wanted};
use crate::orders::Found;
use crate::problem::Problem;
use crate::purchase::{Bought, Outcome, Purchase};

/// `POST /v1/sales/{namespace}/{name}/orders`
pub async fn buy(
    State(api): State<Arc<Api>>,
    NamedSale(listed): NamedSale,
    Caller { buyer, key }: Caller,
    Wanted(quantity): Wanted,
) -> Result<Response, Problem> {
    let purchase = Purchase {
        sale: listed.sale.id,
        buyer,
        key,
        quantity,
    };
    let outcome = api.purchase(&purchase).await?;
    Ok(told(&listed, outcome, StatusCode::CREATED))
}

/// `GET /v1/orders/{order_no}`
pub async fn one(
    State(api): State<Arc<Api>>,
    number: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(number) = number.map_err(|rejection| Problem::PathInvalid(rejection.body_text()))?;
    Ok(shown(StatusCode::OK, api.find_order(&number).await?))
}

/// `DELETE /v1/orders/{order_no}`
pub async fn cancel(
    State(api): State<Arc<Api>>,
    number: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(number) = number.map_err(|rejection| Problem::PathInvalid(rejection.body_text()))?;
    Ok(match api.cancel(&number).await? {
        Cancelled::Done(found) => shown(StatusCode::OK, found),
        Cancelled::Pending(found) => {
            let location = format!("/v1/orders/{}", found.order_no);
            let headers = [(header::LOCATION, location), (header::RETRY_AFTER, "1".to_owned())];
            (headers, shown(StatusCode::ACCEPTED, found)).into_response()
        }
    })
}

fn shown(status: StatusCode, found: Found) -> Response {
    let Found {
        order_no,
        listed,
        stored,
        ..
    } = found;
    let order = OrderView {
        order_no: order_no.to_string(),
        sale: listed.name(),
        status: stored.as_ref().map_or("processing", |order| order.status.as_str()),
        quantity: stored.as_ref().map(|order| order.quantity),
        price: Price {
            amount: match &stored {
                Some(order) => order.price.clone(),
                None => listed.sale.price.clone(),
            },
            currency: listed.sale.currency.clone(),
        },
        created_at: stored
            .and_then(|order| u64::try_from(order.created_at_ms).ok())
            .map(clock::rfc3339),
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(order)).into_response()
}

#[derive(Serialize)]
pub struct OrderView {
    order_no: String,
    sale: String,
    /// Not known before the order is stored, if the number is all that was asked with.
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<u32>,
    price: Price,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

/// Of one unit.
#[derive(Serialize)]
pub struct Price {
    pub amount: String,
    pub currency: String,
}

/// The answer to a purchase, and to the question what an earlier one came to.
pub fn told(listed: &Listed, outcome: Outcome, bought: StatusCode) -> Response {
    match outcome {
        Outcome::Bought(Bought {
            order_no,
            quantity,
            status,
        }) => {
            let location = format!("/v1/orders/{order_no}");
            let order = OrderView {
                order_no: order_no.to_string(),
                sale: listed.name(),
                quantity: Some(quantity),
                price: Price {
                    amount: listed.sale.price.clone(),
                    currency: listed.sale.currency.clone(),
                },
                status,
                created_at: None,
            };
            let headers = [
                (header::LOCATION, location),
                (header::CACHE_CONTROL, "no-store".to_owned()),
            ];
            (bought, headers, Json(order)).into_response()
        }
        Outcome::Pending => {
            let sale = listed.name();
            let headers = [
                (header::LOCATION, format!("/v1/sales/{sale}/request")),
                (header::CACHE_CONTROL, "no-store".to_owned()),
                (header::RETRY_AFTER, "1".to_owned()),
            ];
            let pending = Pending {
                sale,
                status: "pending",
                detail: "It is not known yet whether this bought. Ask at the Location with the same key, or send the \
                         purchase again with it: it can't buy twice.",
            };
            (StatusCode::ACCEPTED, headers, Json(pending)).into_response()
        }
    }
}

#[derive(Serialize)]
struct Pending {
    sale: String,
    status: &'static str,
    detail: &'static str,
}
