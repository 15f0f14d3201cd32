//! The routes of the old demo, so that its client runs unchanged. On a port of their own, off by default.
//!
//! Its buyers have no keys: each purchase is a buyer of its own, with a key made here. So a client that lost an answer
//! can't ask for it again; the `/v1` routes can do better.
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
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::api::Api;
use crate::buyer::Caller;
use crate::catalogue::Listed;
use crate::input;
use crate::problem::{Code, Problem};
use crate::purchase::{Bought, Outcome, Purchase};

/// Less than [`super::ANSWERED_WITHIN`], so that the answer is one that the old client can read.
const DECIDED_WITHIN: Duration = Duration::from_secs(8);
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const SAMPLES_AT_ONCE: usize = 16;

pub fn router(api: Arc<Api>) -> Router {
    let metrics = api.metrics.clone();
    let users = "Buyers have no accounts here: see Idempotency-Key in the documentation of /v1.";
    let items = "Sales and their items are made with kubectl apply of a FlashSale.";
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
        .fallback(super::unknown_route)
        .method_not_allowed_fallback(super::unknown_method)
        .with_state(api);
    super::bounded_and_measured(routes, metrics)
}

/// What the old demo's client knows as failures.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// What it is said to be is for a person to read.
    Internal(String),
    ItemNotFound,
    NoSale,
    OutOfStock,
    OutsideWindow,
    OrderNotFound,
    WrongType(String),
    Missing(&'static str),
}

impl Failure {
    fn code(&self) -> &'static str {
        match self {
            Failure::Internal(_) => "500",
            Failure::ItemNotFound => "41001",
            Failure::NoSale => "42001",
            Failure::OutOfStock => "42002",
            Failure::OutsideWindow => "42003",
            Failure::OrderNotFound => "42004",
            Failure::WrongType(_) => "90001",
            Failure::Missing(_) => "90004",
        }
    }

    fn message(&self) -> String {
        match self {
            Failure::Internal(what) => format!("internal error: {what}"),
            Failure::ItemNotFound => "item not found".into(),
            Failure::NoSale => "no sale for the item".into(),
            Failure::OutOfStock => "out of stock".into(),
            Failure::OutsideWindow => "not in the time of the sale".into(),
            Failure::OrderNotFound => "order not found".into(),
            Failure::WrongType(what) => format!("wrong parameter type: {what}"),
            Failure::Missing(parameter) => format!("missing parameter: {parameter}"),
        }
    }
}

impl IntoResponse for Failure {
    /// In both forms that its readers know.
    fn into_response(self) -> Response {
        let (code, message) = (self.code(), self.message());
        let status = match self {
            Failure::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
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

fn ok(mut members: Value) -> Response {
    members["status"] = json!({ "code": "10000", "message": "ok" });
    Json(members).into_response()
}

/// `POST /seckill/buy` `{"item_id":1}`
async fn buy(State(api): State<Arc<Api>>, body: Body) -> Result<Response, Failure> {
    let body = object(body).await?;
    let item = match body.get("item_id") {
        None => return Err(Failure::Missing("item_id")),
        Some(item) => item
            .as_i64()
            .ok_or_else(|| Failure::WrongType("item_id is a whole number".into()))?,
    };
    let found = api.catalogue.surely(|catalogue| catalogue.by_item(item)).await;
    let listed = found.ok_or(Failure::NoSale)?;
    let Caller { buyer, key } = Caller::made_here();
    let purchase = Purchase {
        sale: listed.sale.id,
        buyer,
        key,
        quantity: 1,
    };
    let decided = match timeout(DECIDED_WITHIN, until_known(&api, purchase)).await {
        Ok(decided) => decided,
        Err(_) => Err(Problem::OutcomeUnknown),
    };
    match decided {
        Ok(bought) => Ok(ok(json!({ "order_id": bought.order_no.as_str() }))),
        Err(problem) => Err(failure_of(problem, &api, &listed).await),
    }
}

/// The key is ours, so it is for us to ask again until the outcome is known.
async fn until_known(api: &Arc<Api>, purchase: Purchase) -> Result<Bought, Problem> {
    loop {
        match api.purchase(&purchase).await {
            Ok(Outcome::Bought(bought)) => return Ok(bought),
            Ok(Outcome::Pending) | Err(Problem::OutcomeUnknown) => sleep(AGAIN_AFTER).await,
            Err(problem) => return Err(problem),
        }
    }
}

async fn failure_of(problem: Problem, api: &Api, listed: &Listed) -> Failure {
    match problem {
        Problem::SoldOut { .. } => Failure::OutOfStock,
        Problem::NotStarted { .. } | Problem::Suspended => Failure::OutsideWindow,
        Problem::Ended if api.remaining(listed).await == Some(0) => Failure::OutOfStock,
        Problem::Ended => Failure::OutsideWindow,
        Problem::SaleUnknown(_) => Failure::NoSale,
        Problem::OutcomeUnknown => Failure::Internal("outcome unknown, the item may have been bought".into()),
        problem => Failure::Internal(format!("{}, try again", problem.code().replace('_', " "))),
    }
}

/// `GET /seckill/query_order`, the number in a JSON body or as `?order_id=`
async fn query_order(State(api): State<Arc<Api>>, uri: Uri, body: Body) -> Result<Response, Failure> {
    let number = match parameter(&uri, "order_id") {
        Some(number) => number,
        None => match object(body).await?.get("order_id") {
            None => return Err(Failure::Missing("order_id")),
            Some(Value::String(number)) => number.clone(),
            Some(_) => return Err(Failure::WrongType("order_id is a string".into())),
        },
    };
    let found = match api.find_order(&number).await {
        Ok(found) => found,
        Err(Problem::OrderUnknown) => return Err(Failure::OrderNotFound),
        Err(problem) => return Err(Failure::Internal(format!("{}, try again", problem.code()))),
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
    let all = api.catalogue.all();
    let mut numbers: Vec<i64> = all.iter().filter_map(|listed| listed.sale.item_id).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let holders: Vec<_> = numbers
        .into_iter()
        .filter_map(|number| api.catalogue.by_item(number))
        .collect();
    let items: Vec<Value> = stream::iter(holders)
        .map(|listed| item(api.clone(), listed))
        .buffered(SAMPLES_AT_ONCE)
        .collect()
        .await;
    ok(json!({ "items": items }))
}

/// `GET /items/get-info?id=1`
async fn info(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Failure> {
    let number = parameter(&uri, "id").ok_or(Failure::Missing("id"))?;
    let number: i64 = number
        .parse()
        .map_err(|_| Failure::WrongType("id is a whole number".into()))?;
    let found = api.catalogue.surely(|catalogue| catalogue.by_item(number)).await;
    let listed = found.ok_or(Failure::ItemNotFound)?;
    Ok(ok(json!({ "item": item(api, listed).await })))
}

async fn item(api: Arc<Api>, listed: Arc<Listed>) -> Value {
    let sale = &listed.sale;
    json!({
        "id": sale.item_id,
        "name": sale.item["name"],
        // A number, as the old client reads it; what is to be paid stands in /v1 as a decimal string.
        "price": sale.price.parse::<f64>().unwrap_or_default(),
        // The old client knows no "unknown". The ledger's figure is a little behind, but it is no guess.
        "stock": api.remaining(&listed).await.unwrap_or(sale.total.saturating_sub(sale.sold)),
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

/// A body without a look at its Content-Type, which the old client does not always send.
async fn object(body: Body) -> Result<Value, Failure> {
    let bytes = input::bytes(body)
        .await
        .map_err(|problem| Failure::WrongType(problem.to_string()))?;
    if bytes.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err(Failure::WrongType("the body is a JSON object".into())),
        Err(error) => Err(Failure::WrongType(format!("the body is a JSON object; {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_failure_has_both_forms() {
        let response = Failure::OutOfStock.into_response();
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
