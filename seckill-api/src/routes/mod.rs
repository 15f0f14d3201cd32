//! What can be asked.
pub mod legacy;
mod orders;
mod request;
mod sales;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{Method, Uri};
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::Api;
use crate::input::shortened;
use crate::metrics::{Answer, Metrics};
use crate::problem::{Code, Problem};

/// Every request is answered by then. What it waits for has shorter limits of its own.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

pub fn v1(api: Arc<Api>) -> Router {
    let metrics = api.metrics.clone();
    let routes = Router::new()
        .route("/v1/sales", get(sales::list))
        .route("/v1/sales/{namespace}/{name}", get(sales::one))
        .route("/v1/sales/{namespace}/{name}/orders", post(orders::buy))
        .route("/v1/sales/{namespace}/{name}/request", get(request::earlier))
        .route("/v1/orders/{order_no}", get(orders::one).delete(orders::cancel))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .with_state(api);
    bounded_and_measured(routes, metrics)
}

pub(crate) fn bounded_and_measured(routes: Router, metrics: Arc<Metrics>) -> Router {
    routes
        .layer(CatchPanicLayer::custom(|_| Problem::Internal.into_response()))
        .layer(from_fn(within_the_limit))
        .layer(from_fn_with_state(metrics, measured))
}

async fn unknown_route(uri: Uri) -> Problem {
    Problem::RouteUnknown(shortened(uri.path()))
}

/// axum adds the Allow header.
async fn unknown_method(method: Method) -> Problem {
    Problem::MethodNotAllowed(method)
}

async fn within_the_limit(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWERED_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::OutcomeUnknown.into_response(),
    }
}

async fn measured(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "unknown".to_owned(),
    };
    let in_flight = InFlight::begin(&metrics);
    let response = next.run(request).await;
    drop(in_flight);
    let answer = Answer {
        route,
        status: response.status().as_u16(),
        code: response.extensions().get::<Code>().map_or("ok", |code| code.0),
    };
    metrics.answers.get_or_create(&answer).inc();
    response
}

/// Counts a request also when its client goes away in the middle.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.in_flight.inc();
        InFlight(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}
