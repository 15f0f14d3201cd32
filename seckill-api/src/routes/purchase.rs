//! Buying, and the result of an earlier purchase.
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;

use super::view::{OrderView, Price};
use crate::api::Api;
use crate::catalogue::ListedSale;
use crate::extract::{NamedSale, RequestedQuantity};
use crate::idempotency_key::Caller;
use crate::problem::Problem;
use crate::purchase::{Bought, Outcome, Purchase};

/// `POST /v1/sales/{namespace}/{name}/orders`
pub async fn buy(
    State(api): State<Arc<Api>>,
    NamedSale(listed): NamedSale,
    Caller { buyer, key }: Caller,
    RequestedQuantity(quantity): RequestedQuantity,
) -> Result<Response, Problem> {
    let purchase = Purchase {
        sale: listed.sale.id,
        buyer,
        key,
        quantity,
    };
    let outcome = api.purchase(&purchase).await?;
    Ok(outcome_response(&listed, outcome, StatusCode::CREATED))
}

/// `GET /v1/sales/{namespace}/{name}/request`
pub async fn earlier(
    State(api): State<Arc<Api>>,
    NamedSale(listed): NamedSale,
    Caller { buyer, key }: Caller,
) -> Result<Response, Problem> {
    let outcome = api.earlier_purchase(listed.sale.id, buyer, key).await?;
    Ok(outcome_response(&listed, outcome, StatusCode::OK))
}

fn outcome_response(listed: &ListedSale, outcome: Outcome, bought: StatusCode) -> Response {
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
                price: Price::of_sale(&listed.sale),
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
            let pending = PendingView {
                sale,
                status: "pending",
                detail: "It is not known yet whether this request bought anything. Send a GET request to the Location, \
                         or the purchase again, with the same key: it can't buy twice.",
            };
            (StatusCode::ACCEPTED, headers, Json(pending)).into_response()
        }
    }
}

#[derive(Serialize)]
struct PendingView {
    sale: String,
    status: &'static str,
    detail: &'static str,
}
