//! Buying, and the result of an earlier purchase.
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::{self, problems};
use super::view::{OrderView, Price};
use crate::api::Api;
use crate::catalogue::ListedSale;
use crate::extract::{CallerOfSale, CallerSpan, PurchaseBody, RequestedQuantity};
use crate::idempotency_key::Caller;
use crate::problem::Problem;
use crate::purchase::{Bought, Outcome, Purchase};

/// Buys
///
/// 201 is a promise: the order is in the log on all in-sync replicas. Send the request again, with the same key, until the
/// answer is final: after a time-out, a broken connection, 202, 408, 500, 502, 503 and 504. A retry can't buy twice.
///
/// A sale with `access` needs a token of that issuer: then the subject of the token is the buyer.
#[utoipa::path(
    post, path = "/v1/sales/{namespace}/{name}/orders", operation_id = "buy", tag = "orders",
    security((), ("token" = [])),
    params(openapi::SalePath, openapi::KeyHeader),
    request_body = PurchaseBody,
    responses(
        (status = 201, description = "Bought", body = OrderView, headers(("Location" = String, description = "The order"))),
        (status = 202, description = "The log is slow: the purchase is neither won nor lost. Ask at the Location, or send it again",
            body = PendingView, headers(("Location" = String), ("Retry-After" = u64, description = "Seconds"))),
        BuyProblems,
    )
)]
pub async fn buy(
    State(api): State<Arc<Api>>,
    CallerOfSale(listed, Caller { buyer, tier, key }): CallerOfSale,
    CallerSpan(caller_span): CallerSpan,
    RequestedQuantity(quantity): RequestedQuantity,
) -> Result<Response, Problem> {
    let caller_span = caller_span.as_ref().and_then(|value| value.to_str().ok());
    let mut traced = api.traced.begin((listed.sale.id, key), || listed.name(), caller_span);
    let purchase = Purchase {
        sale: listed.sale.id,
        buyer,
        tier,
        key,
        quantity,
        span: traced.as_ref().map(|traced| traced.context().clone()),
    };
    let result = api.purchase(&purchase).await;
    let answer = result.map(|outcome| outcome_response(&listed, outcome, StatusCode::CREATED));
    if let Some(traced) = &mut traced {
        match &answer {
            Ok(response) => traced.answered(response.status(), None),
            Err(problem) => traced.answered(problem.status(), Some(problem.code())),
        }
    }
    answer
}

/// The result of an earlier purchase
///
/// It never buys. A sale with `access` needs the token of the buyer.
#[utoipa::path(
    get, path = "/v1/sales/{namespace}/{name}/request", operation_id = "showRequest", tag = "orders",
    security((), ("token" = [])),
    params(openapi::SalePath, openapi::KeyHeader),
    responses(
        (status = 200, description = "This key bought", body = OrderView,
            headers(("Location" = String, description = "The order"))),
        (status = 202, description = "The log is slow: the purchase is neither won nor lost", body = PendingView,
            headers(("Location" = String), ("Retry-After" = u64, description = "Seconds"))),
        EarlierProblems,
    )
)]
pub async fn earlier(
    State(api): State<Arc<Api>>,
    CallerOfSale(listed, Caller { buyer, key, .. }): CallerOfSale,
) -> Result<Response, Problem> {
    let outcome = api.earlier_purchase(listed.sale.id, buyer, key).await?;
    Ok(outcome_response(&listed, outcome, StatusCode::OK))
}

problems!(
    BuyProblems + TOKEN_PROBLEMS: KeyMissing, KeyInvalid, BodyInvalid, QuantityInvalid, PathInvalid, SaleUnknown,
    BodyTimeout, NotStarted, SoldOut, LimitReached, TooManyOrders, Ended, BodyTooLarge, ContentType, ContentEncoding,
    KeyReused, Internal, Suspended, NotReady, Overloaded, OutcomeUnknown, OrderHeld,
);
problems!(
    EarlierProblems + TOKEN_PROBLEMS: KeyMissing, KeyInvalid, PathInvalid, SaleUnknown, RequestUnknown, Internal,
    Suspended, NotReady, Overloaded, OutcomeUnknown, OrderHeld,
);

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

#[derive(Serialize, ToSchema)]
#[schema(as = Pending)]
struct PendingView {
    /// `namespace/name` of the FlashSale.
    sale: String,
    #[schema(schema_with = openapi::pending)]
    status: &'static str,
    /// For people.
    detail: &'static str,
}
