//! The OpenAPI 3.1 document of the /v1 routes, and a page that shows it.
//!
//! The routes and types carry their own descriptions; the problems come from the one table in `problem`. A test compares
//! the document with `docs/openapi.json`, and the API's tests check every answer against it.
use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use http::{HeaderName, HeaderValue, header};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, InfoBuilder, License, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{IntoParams, OpenApi as _, ToSchema};

use crate::problem::{ProblemDetails, ProblemKind};

/// Redoc 2.5.4. Its license is beside it.
const REDOC: &str = include_str!("../../assets/redoc.standalone.js");
const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Seckill HTTP API</title></head>
<body><redoc spec-url="openapi.json"></redoc><script src="docs/redoc.js"></script></body>
</html>
"#;
/// The page loads nothing from elsewhere. Redoc writes styles into the page and searches in a worker.
const PAGE_POLICY: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; \
     worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const CACHEABLE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));

#[derive(utoipa::OpenApi)]
#[openapi(
    components(schemas(ProblemDetails)),
    tags((name = "sales", description = "What is for sale"), (name = "orders", description = "Buying and cancelling")),
    servers((url = "/"))
)]
struct Base;

/// The part of the document that no route or type has.
pub(super) fn document_without_routes() -> OpenApi {
    let mut document = Base::openapi();
    document.info = InfoBuilder::new()
        .title("Seckill")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The HTTP API that buyers buy from. Every failure is an `application/problem+json` document with a stable `code`.",
        ))
        .license(Some(License::builder().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(
            "A token of the issuer that the sale names in `access`. Other sales need none.",
        ));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(token.build()));
    document
}

/// Serves the document and the page.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    // The document has only strings as keys.
    let json = document.to_json().unwrap_or_default();
    let (json_type, script_type) = ("application/json", "text/javascript; charset=utf-8");
    Router::new()
        .route(
            "/openapi.json",
            get(async move || ([CACHEABLE], [(header::CONTENT_TYPE, json_type)], json)),
        )
        .route("/docs", get(async || ([CACHEABLE], [PAGE_POLICY], Html(PAGE))))
        .route(
            "/docs/redoc.js",
            get(async move || ([CACHEABLE], [(header::CONTENT_TYPE, script_type)], REDOC)),
        )
}

/// Declares a type that stands for the problems of an operation, with those of a list of `problem`.
macro_rules! problems {
    ($name:ident $(+ $shared:ident)?: $($kind:ident),+ $(,)?) => {
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
                let kinds = [$($crate::problem::ProblemKind::$kind),+];
                $crate::routes::openapi::problem_responses(&[&kinds[..] $(, &$crate::problem::$shared)?].concat())
            }
        }
    };
}
pub(super) use problems;

/// One response for each status, with all codes that it can have. Every operation can have too many requests.
pub(super) fn problem_responses(kinds: &[ProblemKind]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut retried = BTreeSet::new();
    for kind in kinds.iter().chain(&[ProblemKind::RateLimited]) {
        let problem = kind.definition();
        let codes = by_status.entry(problem.status.as_str().to_owned()).or_default();
        codes.insert(problem.code, problem.title);
        if kind.has_retry_after() {
            retried.insert(problem.status.as_str().to_owned());
        }
    }
    let responses = by_status.into_iter().map(|(status, codes)| {
        let description: Vec<String> = codes.iter().map(|(code, title)| format!("`{code}`: {title}")).collect();
        let code = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(codes.into_keys()));
        let schema = AllOfBuilder::new()
            .item(Ref::from_schema_name("Problem"))
            .item(ObjectBuilder::new().property("code", code));
        let mut response = ResponseBuilder::new().description(description.join("; ")).content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(schema)).build(),
        );
        if retried.contains(&status) {
            let seconds = HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(Type::Integer)))
                .description(Some("Seconds to wait, if a retry makes sense"));
            response = response.header("Retry-After", seconds.build());
        }
        (status, RefOr::T(response.build()))
    });
    responses.collect()
}

fn one_of(values: &'static [&'static str]) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    RefOr::T(schema.enum_values(Some(values.iter().copied())).into())
}

/// `processing`: safe in the log, not in the database yet.
pub(super) fn order_status() -> RefOr<Schema> {
    one_of(&[
        "processing",
        "placed",
        "pending_payment",
        "paid",
        "cancelled",
        "expired",
    ])
}

pub(super) fn sale_state() -> RefOr<Schema> {
    one_of(&["scheduled", "open", "sold_out", "suspended", "ended"])
}

pub(super) fn pending() -> RefOr<Schema> {
    one_of(&["pending"])
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description: `extract` reads the request")]
pub(super) struct SalePath {
    /// Namespace of the FlashSale
    namespace: String,
    /// Name of the FlashSale
    name: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description: `extract` reads the request")]
pub(super) struct OrderPath {
    /// Number of the order
    order_no: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a description: `idempotency_key` reads the request")]
pub(super) struct KeyHeader {
    /// A random UUID, or 22 to 128 random characters of `A-Z a-z 0-9 . _ ~ + / = -`, perhaps in quotes. The key is the buyer:
    /// create one for each purchase, store it before the first attempt, and keep it secret. In a sale with `access` the token
    /// is the buyer, and the key needs 1 to 128 of these characters and no secrecy.
    #[param(
        rename = "Idempotency-Key",
        pattern = r#"^([A-Za-z0-9._~+/=-]{1,128}|"[A-Za-z0-9._~+/=-]{1,128}")$"#,
        example = "9b2f8a64-6f0e-4d9c-8f0e-2b1d3c4e5f60"
    )]
    idempotency_key: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "a description: `sales` reads the request")]
pub(super) struct IfNoneMatch {
    /// The `ETag` of an earlier answer
    #[param(rename = "If-None-Match", nullable = false)]
    if_none_match: Option<String>,
}

/// As in the FlashSale, without the price.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description: the answer has the item as it was applied")]
pub(super) struct Item {
    /// The seller's identifier of the item (stock keeping unit)
    sku: String,
    name: String,
    /// The number of the item on the legacy routes
    #[schema(nullable = false)]
    id: Option<i64>,
    #[schema(nullable = false)]
    description: Option<String>,
}
