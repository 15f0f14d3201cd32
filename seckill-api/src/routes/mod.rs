//! The routes. `purchase` is the way in of a purchase.
pub mod legacy;
mod middleware;
mod openapi;
mod orders;
mod purchase;
mod sales;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::cors::CorsOrigins;

/// The routes that the OpenAPI document describes.
fn documented_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::document_without_routes())
        .routes(routes!(sales::list))
        .routes(routes!(sales::show))
        .routes(routes!(purchase::buy))
        .routes(routes!(purchase::earlier))
        .routes(routes!(orders::show, orders::cancel))
}

/// The OpenAPI document of the /v1 routes.
pub fn openapi_document() -> OpenApi {
    documented_routes().split_for_parts().1
}

async fn healthy() -> &'static str {
    "ok\n"
}

/// `cors`: pages of these origins may call the API from a browser.
pub fn v1(api: Arc<Api>, cors: Option<CorsOrigins>) -> Router {
    let around = middleware::Around::of(&api);
    let (routes, document) = documented_routes().split_for_parts();
    let routes = routes
        .merge(openapi::routes(&document))
        // For load balancers that check the port of the Service: cloud providers' ask for `/` by default. Readiness, with its
        // reasons, is on the admin port.
        .route("/", get(healthy))
        .route("/healthz", get(healthy))
        .fallback(middleware::unknown_route)
        .method_not_allowed_fallback(middleware::unknown_method)
        .with_state(api);
    let routes = middleware::wrap(routes, around);
    match cors {
        None => routes,
        Some(origins) => routes.layer(origins.layer()),
    }
}
