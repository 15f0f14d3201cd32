//! The routes of the old demo, so that its client works without changes. They have their own port and are off by default.
//!
//! The old client sends no keys, so each purchase is a new buyer with a key generated here. A client that loses the answer
//! can't ask for it again, unlike a client of the `/v1` routes.
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures::{StreamExt, stream};
use http::{StatusCode, Uri};
use seckill_ledger::OrderStatus;
use seckill_protocol::tiers::GENERAL;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::middleware;
use crate::api::Api;
use crate::catalogue::ListedSale;
use crate::extract::read_body;
use crate::idempotency_key::Caller;
use crate::limits::{LEGACY_PURCHASE_TIMEOUT, MAX_CONCURRENT_SAMPLES};
use crate::orders::Reader;
use crate::problem::{Code, Problem};
use crate::purchase::{Bought, Outcome, Purchase};
use crate::unknown_sales::SaleReference;

const RETRY_DELAY: Duration = Duration::from_millis(50);

pub fn router(api: Arc<Api>) -> Router {
    let around = middleware::Around::of(&api).with_body_refused(|problem| body_refused(problem).into_response());
    let users = "Buyers have no accounts: see Idempotency-Key in the documentation of /v1.";
    let items = "Create sales and their items with kubectl apply of a FlashSale.";
    let removed = |why: &'static str| any(async move || Problem::RouteRemoved(why));
    let routes = Router::new()
        .route("/seckill/buy", post(buy))
        .route("/seckill/query_order", get(query_order))
        .route("/items/get-list", get(list))
        .route("/items/get-info", get(info))
        .route("/user/{*rest}", removed(users))
        .route("/items/add", removed(items))
        .route("/items/update", removed(items))
        .route("/items/delete", removed(items))
        .route("/seckill/create", removed(items))
        .fallback(middleware::unknown_route)
        .method_not_allowed_fallback(middleware::unknown_method)
        .with_state(api);
    middleware::wrap(routes, around)
}

/// The failures that the client of the old demo knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LegacyError {
    /// The text is for people.
    Internal(String),
    ItemNotFound,
    NoSale,
    OutOfStock,
    OutsideWindow,
    OrderNotFound,
    /// Of a sale that needs a token. These routes take none.
    InvalidToken,
    WrongType(String),
    Missing(&'static str),
}

impl LegacyError {
    fn code(&self) -> &'static str {
        match self {
            LegacyError::Internal(_) => "500",
            LegacyError::ItemNotFound => "41001",
            LegacyError::NoSale => "42001",
            LegacyError::OutOfStock => "42002",
            LegacyError::OutsideWindow => "42003",
            LegacyError::OrderNotFound => "42004",
            LegacyError::InvalidToken => "42005",
            LegacyError::WrongType(_) => "90001",
            LegacyError::Missing(_) => "90004",
        }
    }

    fn message(&self) -> String {
        match self {
            LegacyError::Internal(what) => format!("internal error: {what}"),
            LegacyError::ItemNotFound => "item not found".into(),
            LegacyError::NoSale => "no sale for the item".into(),
            LegacyError::OutOfStock => "out of stock".into(),
            LegacyError::OutsideWindow => "sale is not open".into(),
            LegacyError::OrderNotFound => "order not found".into(),
            LegacyError::InvalidToken => "invalid token".into(),
            LegacyError::WrongType(what) => format!("wrong parameter type: {what}"),
            LegacyError::Missing(parameter) => format!("missing parameter: {parameter}"),
        }
    }
}

impl IntoResponse for LegacyError {
    /// The body has both forms that clients of the old demo read.
    fn into_response(self) -> Response {
        let (code, message) = (self.code(), self.message());
        let status = match self {
            LegacyError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        let body = json!({
            "status": { "code": code, "message": message },
            "code": code,
            "message": message,
        });
        let mut response = (status, Json(body)).into_response();
        response.extensions_mut().insert(Code(code));
        response
    }
}

fn try_again(problem: Problem) -> LegacyError {
    LegacyError::Internal(format!("{}, try again", problem.code()))
}

fn ok(mut members: Value) -> Response {
    members["status"] = json!({ "code": "10000", "message": "ok" });
    Json(members).into_response()
}

async fn left(api: &Api, listed: &ListedSale) -> Option<u64> {
    api.remaining(listed, GENERAL).await.map(|remaining| remaining.left)
}

/// `POST /seckill/buy` `{"item_id":1}`
async fn buy(State(api): State<Arc<Api>>, body: Body) -> Result<Response, LegacyError> {
    let body = read_object(body).await?;
    let item = match body.get("item_id") {
        None => return Err(LegacyError::Missing("item_id")),
        Some(item) => item
            .as_i64()
            .ok_or_else(|| LegacyError::WrongType("item_id must be a whole number".into()))?,
    };
    let found = api.find_sale(SaleReference::Item(item)).await;
    let listed = found.map_err(try_again)?.ok_or(LegacyError::NoSale)?;
    if listed.sale.issuer.is_some() {
        return Err(LegacyError::InvalidToken);
    }
    let Caller { buyer, tier, key } = Caller::generate();
    let purchase = Purchase {
        sale: listed.sale.id,
        buyer,
        tier,
        key,
        quantity: 1,
        span: None,
    };
    let decided = match timeout(LEGACY_PURCHASE_TIMEOUT, retry_until_known(&api, purchase)).await {
        Ok(decided) => decided,
        Err(_) => Err(Problem::OutcomeUnknown),
    };
    match decided {
        Ok(bought) => Ok(ok(json!({ "order_id": bought.order_no.as_str() }))),
        Err(problem) => Err(legacy_error(problem, &api, &listed).await),
    }
}

/// The client does not know the key, so the server retries until the outcome is known.
async fn retry_until_known(api: &Arc<Api>, purchase: Purchase) -> Result<Bought, Problem> {
    loop {
        match api.purchase(&purchase).await {
            Ok(Outcome::Bought(bought)) => return Ok(bought),
            Ok(Outcome::Pending) | Err(Problem::OutcomeUnknown) => sleep(RETRY_DELAY).await,
            Err(problem) => return Err(problem),
        }
    }
}

async fn legacy_error(problem: Problem, api: &Api, listed: &ListedSale) -> LegacyError {
    match problem {
        Problem::SoldOut { .. } => LegacyError::OutOfStock,
        Problem::NotStarted { .. } | Problem::Suspended => LegacyError::OutsideWindow,
        Problem::Ended if left(api, listed).await == Some(0) => LegacyError::OutOfStock,
        Problem::Ended => LegacyError::OutsideWindow,
        Problem::SaleUnknown(_) => LegacyError::NoSale,
        Problem::OutcomeUnknown => LegacyError::Internal("outcome unknown, the item may have been bought".into()),
        problem => LegacyError::Internal(format!("{}, try again", problem.code().replace('_', " "))),
    }
}

/// `GET /seckill/query_order`, with the number in a JSON body or as `?order_id=`
async fn query_order(State(api): State<Arc<Api>>, uri: Uri, body: Body) -> Result<Response, LegacyError> {
    let number = match parameter(&uri, "order_id") {
        Some(number) => number,
        None => match read_object(body).await?.get("order_id") {
            None => return Err(LegacyError::Missing("order_id")),
            Some(Value::String(number)) => number.clone(),
            Some(_) => return Err(LegacyError::WrongType("order_id must be a string".into())),
        },
    };
    let found = match api.find_order(&number, Reader::Anonymous).await {
        Ok(found) => found,
        Err(Problem::OrderUnknown) => return Err(LegacyError::OrderNotFound),
        Err(problem) => return Err(try_again(problem)),
    };
    let status = match found.stored.map(|order| order.status) {
        None => "processing",
        Some(OrderStatus::Placed | OrderStatus::PendingPayment | OrderStatus::Paid) => "success",
        Some(OrderStatus::Cancelled | OrderStatus::Expired) => "failed",
    };
    Ok(ok(json!({
        "order_id": found.order_no.as_str(),
        "item_name": found.listed.sale.item["name"],
        "order_status": status,
    })))
}

/// `GET /items/get-list`
async fn list(State(api): State<Arc<Api>>) -> Response {
    let (all, catalogue) = (api.catalogue.all(), api.catalogue.snapshot());
    let mut numbers: Vec<i64> = all.iter().filter_map(|listed| listed.sale.item_id).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let listed: Vec<_> = numbers
        .into_iter()
        .filter_map(|number| catalogue.by_item(number))
        .collect();
    let items: Vec<Value> = stream::iter(listed)
        .map(|listed| item(api.clone(), listed))
        .buffered(MAX_CONCURRENT_SAMPLES)
        .collect()
        .await;
    ok(json!({ "items": items }))
}

/// `GET /items/get-info?id=1`
async fn info(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, LegacyError> {
    let number = parameter(&uri, "id").ok_or(LegacyError::Missing("id"))?;
    let number: i64 = number
        .parse()
        .map_err(|_| LegacyError::WrongType("id must be a whole number".into()))?;
    let found = api.find_sale(SaleReference::Item(number)).await;
    let listed = found.map_err(try_again)?.ok_or(LegacyError::ItemNotFound)?;
    Ok(ok(json!({ "item": item(api, listed).await })))
}

async fn item(api: Arc<Api>, listed: Arc<ListedSale>) -> Value {
    let sale = &listed.sale;
    json!({
        "id": sale.item_id,
        "name": sale.item["name"],
        // The old client reads a number. The exact price is the decimal string of /v1.
        "price": sale.price.parse::<f64>().unwrap_or_default(),
        // The old client has no value for "unknown". The ledger's number lags a little, but it is a true one.
        "stock": left(&api, &listed).await.unwrap_or(sale.total.saturating_sub(sale.sold)),
        "intro": sale.item["description"].as_str().unwrap_or_default(),
        "created_at": sale.created_at_ms.div_euclid(1000),
        "updated_at": sale.updated_at_ms.div_euclid(1000),
    })
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    parameters
        .into_iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value)
}

fn body_refused(problem: Problem) -> LegacyError {
    LegacyError::WrongType(problem.to_string())
}

/// The Content-Type is not checked, because the old client does not always send it.
async fn read_object(body: Body) -> Result<Value, LegacyError> {
    let bytes = read_body(body).await.map_err(body_refused)?;
    if bytes.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err(LegacyError::WrongType("the body must be a JSON object".into())),
        Err(error) => Err(LegacyError::WrongType(format!(
            "the body must be a JSON object: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn an_error_has_both_forms() {
        let response = LegacyError::OutOfStock.into_response();
        assert_eq!(response.status(), 400);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let expected = json!({
            "status": { "code": "42002", "message": "out of stock" },
            "code": "42002",
            "message": "out of stock",
        });
        assert_eq!(body, expected);
    }
}
