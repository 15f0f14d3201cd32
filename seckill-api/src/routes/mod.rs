//! The routes. `purchase` is the way in of a purchase.
pub mod legacy;
mod middleware;
mod orders;
mod purchase;
mod sales;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::api::Api;
use crate::cors::CorsOrigins;

async fn healthy() -> &'static str {
    "ok\n"
}

/// `cors`: pages of these origins may call the API from a browser.
pub fn v1(api: Arc<Api>, cors: Option<CorsOrigins>) -> Router {
    let (metrics, too_old) = (api.metrics.clone(), api.catalogue.too_old());
    let routes = Router::new()
        .route("/v1/sales", get(sales::list))
        .route("/v1/sales/{namespace}/{name}", get(sales::show))
        .route("/v1/sales/{namespace}/{name}/orders", post(purchase::buy))
        .route("/v1/sales/{namespace}/{name}/request", get(purchase::earlier))
        .route("/v1/orders/{order_no}", get(orders::show).delete(orders::cancel))
        // For load balancers that check the port of the Service: cloud providers' ask for `/` by default. Readiness, with its
        // reasons, is on the admin port.
        .route("/", get(healthy))
        .route("/healthz", get(healthy))
        .fallback(middleware::unknown_route)
        .method_not_allowed_fallback(middleware::unknown_method)
        .with_state(api);
    let routes = middleware::wrap(routes, metrics, too_old);
    match cors {
        None => routes,
        Some(origins) => routes.layer(origins.layer()),
    }
}
