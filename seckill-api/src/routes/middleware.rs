//! Around the routes of both listeners: bodies, a ledger that needs a newer program, rate limit, time limit, panics, metrics,
//! and requests that no route takes.
//!
//! The body is read before anything is answered, also if the answer does not depend on it. hyper closes a connection with an
//! unread body after the answer. A proxy may just then send the next request of another buyer on it, and answers that buyer
//! with a 503 of its own.
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Uri, header};
use tower::{Service, layer::layer_fn};

use crate::api::Api;
use crate::catalogue::TooOld;
use crate::client_address::Peer;
use crate::extract::read_body;
use crate::limits::REQUEST_TIMEOUT;
use crate::metrics::{AnswerLabels, Metrics};
use crate::problem::{Code, Problem, excerpt};
use crate::rate_limit::RateLimits;

/// Load balancers ask all the time, perhaps all from one address.
const HEALTH_ROUTES: [&str; 2] = ["/", "/healthz"];

pub async fn unknown_route(uri: Uri) -> Problem {
    Problem::RouteUnknown(excerpt(uri.path()))
}

/// axum adds the Allow header.
pub async fn unknown_method(method: Method) -> Problem {
    Problem::MethodNotAllowed(method)
}

/// What each request needs.
#[derive(Clone)]
pub struct Around {
    metrics: Arc<Metrics>,
    too_old: TooOld,
    rate_limits: Arc<RateLimits>,
    /// The answer to a body that can't be read.
    body_refused: fn(Problem) -> Response,
}

impl Around {
    pub fn of(api: &Api) -> Self {
        Around {
            metrics: api.metrics.clone(),
            too_old: api.catalogue.too_old(),
            rate_limits: api.rate_limits.clone(),
            body_refused: Problem::into_response,
        }
    }

    /// The same for routes whose answers have another form.
    pub fn with_body_refused(self, body_refused: fn(Problem) -> Response) -> Self {
        Around { body_refused, ..self }
    }

    /// The problem of a request that is not worth its route.
    fn refuse(&self, route: &str, request: &Request) -> Option<Problem> {
        if self.too_old.get() {
            return Some(Problem::NotReady);
        }
        let peer = request.extensions().get::<Peer>()?;
        if HEALTH_ROUTES.contains(&route) {
            return None;
        }
        let charged = self.rate_limits.charge_address(peer.0, request.headers());
        charged.err().map(Problem::from)
    }
}

/// Answers every request in time, also after a panic, and counts it.
pub fn wrap(routes: Router, around: Around) -> Router {
    routes.layer(layer_fn(move |routes| Middleware {
        routes,
        around: around.clone(),
    }))
}

/// One layer instead of several of axum's `from_fn`: each layer costs every request some allocations.
#[derive(Clone)]
struct Middleware<R> {
    routes: R,
    around: Around,
}

impl<R> Service<Request> for Middleware<R>
where
    R: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
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
        let timed_out = problem_of_timeout(request.method());
        let in_flight = InFlightGuard::begin(self.around.metrics.clone());
        let (refused, body_refused) = (self.around.refuse(&route, &request), self.around.body_refused);
        // The service that was polled is the one that is ready.
        let next = self.routes.clone();
        let mut routes = std::mem::replace(&mut self.routes, next);
        let response = async move {
            let request = match with_body(request).await {
                Ok(request) => request,
                Err(problem) => return closing(body_refused(problem)),
            };
            match refused {
                Some(problem) => problem.into_response(),
                None => {
                    let Ok(response) = routes.call(request).await;
                    response
                }
            }
        };
        Box::pin(async move {
            // Shared state changes in single steps, so a panic leaves it consistent.
            let response = AssertUnwindSafe(response).catch_unwind();
            let response = match tokio::time::timeout(REQUEST_TIMEOUT, response).await {
                Ok(Ok(response)) => response,
                // The panic hook has written the panic to stderr.
                Ok(Err(_)) => Problem::Internal.into_response(),
                Err(_) => timed_out.into_response(),
            };
            Ok(in_flight.answered(route, response))
        })
    }
}

/// The request with its whole body in memory.
async fn with_body(request: Request) -> Result<Request, Problem> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = read_body(body).await?;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// The answer to a request whose body was not read to its end.
fn closing(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A request that only reads has no outcome that could be unknown.
fn problem_of_timeout(method: &Method) -> Problem {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => Problem::NotReady,
        Method::DELETE => Problem::CancelUnknown,
        _ => Problem::OutcomeUnknown,
    }
}

/// Counts a request in progress, also when its client disconnects.
struct InFlightGuard(Arc<Metrics>);

impl InFlightGuard {
    fn begin(metrics: Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        InFlightGuard(metrics)
    }

    /// Counts the answer.
    fn answered(self, route: String, response: Response) -> Response {
        let labels = AnswerLabels {
            route,
            status: response.status().as_u16(),
            code: response.extensions().get::<Code>().map_or("ok", |code| code.0),
        };
        self.0.answers.get_or_create(&labels).inc();
        response
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use http::StatusCode;
    use seckill_service::metrics::registry::Registry;
    use tower::ServiceExt as _;

    use super::*;
    use crate::rate_limit::RateLimitConfig;

    #[test]
    fn a_read_that_times_out_has_no_unknown_outcome() {
        for (method, code) in [
            (Method::GET, "not_ready"),
            (Method::HEAD, "not_ready"),
            (Method::POST, "outcome_unknown"),
            (Method::DELETE, "outcome_unknown"),
        ] {
            assert_eq!(problem_of_timeout(&method).code(), code);
        }
    }

    fn around(metrics: Arc<Metrics>, rate_limits: RateLimitConfig) -> Around {
        Around {
            metrics,
            too_old: TooOld::default(),
            rate_limits: Arc::new(RateLimits::new(rate_limits)),
            body_refused: Problem::into_response,
        }
    }

    #[tokio::test]
    async fn an_address_with_too_many_requests_is_refused_except_for_health() {
        let metrics = Metrics::register(&mut Registry::default());
        let config = RateLimitConfig {
            per_address: 1,
            trusted_proxies: 1,
            ..RateLimitConfig::default()
        };
        let healthy = || get(async || "ok");
        let routes = Router::new().route("/v1/sales", healthy()).route("/healthz", healthy());
        let routes = wrap(routes, around(metrics.clone(), config));
        let get = async |path: &str, forwarded: &str| {
            let request = Request::get(path).header("x-forwarded-for", forwarded);
            let request = request.extension(Peer([192, 0, 2, 1].into()));
            let response = routes.clone().oneshot(request.body(Body::empty()).unwrap()).await;
            response.unwrap()
        };
        let spoofed = "198.51.100.1, 203.0.113.9";
        for _ in 0..10 {
            assert_eq!(get("/v1/sales", spoofed).await.status(), StatusCode::OK);
        }
        let refused = get("/v1/sales", "198.51.100.2, 203.0.113.9").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(refused.headers()["ratelimit"], r#""address";r=0;t=1"#);
        assert_eq!(refused.headers()["ratelimit-policy"], r#""address";q=10;w=10"#);
        assert_eq!(get("/v1/sales", "203.0.113.10").await.status(), StatusCode::OK);
        assert_eq!(get("/healthz", spoofed).await.status(), StatusCode::OK);
        let labels = AnswerLabels {
            route: "/v1/sales".to_owned(),
            status: 429,
            code: "rate_limited",
        };
        assert_eq!(metrics.answers.get_or_create(&labels).get(), 1);
    }

    #[tokio::test]
    async fn a_request_that_panics_is_answered_and_counted() {
        let metrics = Metrics::register(&mut Registry::default());
        let panics = || async {
            if true {
                panic!("on purpose")
            }
        };
        let routes = Router::new().route("/panics", get(panics));
        let request = Request::get("/panics").body(Body::empty()).unwrap();
        let response = wrap(routes, around(metrics.clone(), RateLimitConfig::default()))
            .oneshot(request)
            .await;
        assert_eq!(response.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
        let labels = AnswerLabels {
            route: "/panics".to_owned(),
            status: 500,
            code: "internal",
        };
        assert_eq!(metrics.answers.get_or_create(&labels).get(), 1);
        assert_eq!(metrics.in_flight.get(), 0);
    }
}
