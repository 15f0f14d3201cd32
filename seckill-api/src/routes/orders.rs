//! Showing and cancelling an order by its number.
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::openapi::{self, problems};
use super::view::{OrderView, Price};
use crate::api::Api;
use crate::cancel::CancelOutcome;
use crate::clock;
use crate::extract::OrderNumber;
use crate::orders::{FoundOrder, Reader};
use crate::problem::Problem;

/// An order
///
/// Anyone who knows the number can see the order. An order of a sale with `access` needs the token of its buyer; for everyone
/// else it does not exist.
#[utoipa::path(
    get, path = "/v1/orders/{order_no}", operation_id = "showOrder", tag = "orders",
    security((), ("token" = [])),
    params(openapi::OrderPath),
    responses((status = 200, description = "The order", body = OrderView), ShowProblems)
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    OrderNumber(number): OrderNumber,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let order = api.find_order(&number, Reader::Sender(&headers)).await?;
    Ok(order_response(StatusCode::OK, order))
}

/// Cancels an order
///
/// A retry is safe: an order that had ended before gets the same answer. The units go back on sale, once, within a second.
/// An order of a sale with `access` needs the token of its buyer.
#[utoipa::path(
    delete, path = "/v1/orders/{order_no}", operation_id = "cancelOrder", tag = "orders",
    security((), ("token" = [])),
    params(openapi::OrderPath),
    responses(
        (status = 200, description = "The order is cancelled", body = OrderView),
        (status = 202, description = "The cancellation is safe in the log, and its result is not known yet: ask at the Location",
            body = OrderView, headers(("Location" = String), ("Retry-After" = u64, description = "Seconds"))),
        CancelProblems,
    )
)]
pub async fn cancel(
    State(api): State<Arc<Api>>,
    OrderNumber(number): OrderNumber,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(match api.cancel(&number, Reader::Sender(&headers)).await? {
        CancelOutcome::Done(order) => order_response(StatusCode::OK, order),
        CancelOutcome::Pending(order) => {
            let location = format!("/v1/orders/{}", order.order_no);
            let headers = [(header::LOCATION, location), (header::RETRY_AFTER, "1".to_owned())];
            (headers, order_response(StatusCode::ACCEPTED, order)).into_response()
        }
    })
}

problems!(ShowProblems + TOKEN_PROBLEMS: PathInvalid, OrderUnknown, Internal, NotReady, Overloaded);
problems!(
    CancelProblems + TOKEN_PROBLEMS: PathInvalid, OrderUnknown, AlreadyPaid, Internal, NotReady, Overloaded,
    OutcomeUnknown, OrderHeld,
);

fn order_response(status: StatusCode, order: FoundOrder) -> Response {
    let FoundOrder {
        order_no,
        listed,
        stored,
        ..
    } = order;
    let mut price = Price::of_sale(&listed.sale);
    if let Some(stored) = &stored {
        stored.stated_price(&listed.sale).clone_into(&mut price.amount);
    }
    let view = OrderView {
        order_no: order_no.to_string(),
        sale: listed.name(),
        status: stored.as_ref().map_or("processing", |stored| stored.status.as_str()),
        quantity: stored.as_ref().map(|stored| stored.quantity),
        price,
        created_at: stored
            .and_then(|stored| u64::try_from(stored.created_at_ms).ok())
            .map(clock::rfc3339),
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(view)).into_response()
}
