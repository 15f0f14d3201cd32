//! What can be asked.
pub mod legacy;
mod orders;
mod request;
mod sales;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Uri};
use tower::{Service, layer::layer_fn};

use crate::api::Api;
use crate::input::shortened;
use crate::metrics::{Answer, Metrics};
use crate::problem::{Code, Problem};

/// Every request is answered by then. What it waits for has shorter limits of its own, but for its place in a batch.
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
    routes.layer(layer_fn(move |routes| Answered {
        routes,
        metrics: metrics.clone(),
    }))
}

async fn unknown_route(uri: Uri) -> Problem {
    Problem::RouteUnknown(shortened(uri.path()))
}

/// axum adds the Allow header.
async fn unknown_method(method: Method) -> Problem {
    Problem::MethodNotAllowed(method)
}

/// Every request is answered, in time and whatever happens, and counted. One layer does all of it, and it is not made of
/// axum's `from_fn`: each step costs every request some allocations.
#[derive(Clone)]
struct Answered<R> {
    routes: R,
    metrics: Arc<Metrics>,
}

impl<R> Service<Request> for Answered<R>
where
    R: Service<Request, Response = Response, Error = Infallible>,
    R::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.routes.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let route = match request.extensions().get::<MatchedPath>() {
            Some(path) => path.as_str().to_owned(),
            None => "unknown".to_owned(),
        };
        let in_flight = InFlight::begin(self.metrics.clone());
        // What a request changes is changed in single steps, so a panic leaves it whole.
        let answered = AssertUnwindSafe(self.routes.call(request)).catch_unwind();
        Box::pin(async move {
            let response = match tokio::time::timeout(ANSWERED_WITHIN, answered).await {
                Ok(Ok(Ok(response))) => response,
                // Rust has written the panic to stderr.
                Ok(Err(_)) => Problem::Internal.into_response(),
                Err(_) => Problem::OutcomeUnknown.into_response(),
            };
            let answer = Answer {
                route,
                status: response.status().as_u16(),
                code: response.extensions().get::<Code>().map_or("ok", |code| code.0),
            };
            in_flight.0.answers.get_or_create(&answer).inc();
            Ok(response)
        })
    }
}

/// Counts a request also when its client goes away in the middle.
struct InFlight(Arc<Metrics>);

impl InFlight {
    fn begin(metrics: Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        InFlight(metrics)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::StatusCode;
    use seckill_service::metrics::registry::Registry;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_is_answered_and_counted() {
        let metrics = Metrics::register(&mut Registry::default());
        let breaks = || async {
            if true {
                panic!("on purpose")
            }
        };
        let routes = Router::new().route("/breaks", get(breaks));
        let request = Request::get("/breaks").body(Body::empty()).unwrap();
        let response = bounded_and_measured(routes, metrics.clone()).oneshot(request).await;
        assert_eq!(response.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
        let answer = Answer {
            route: "/breaks".to_owned(),
            status: 500,
            code: "internal",
        };
        assert_eq!(metrics.answers.get_or_create(&answer).get(), 1);
        assert_eq!(metrics.in_flight.get(), 0);
    }
}
