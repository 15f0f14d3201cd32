//! The limit: an HTTP server that only reads a purchase and answers it. No seckill-api can be faster.
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use serde::Deserialize;

use crate::client::RecordedResponse;

/// The body of a purchase, as seckill-api reads it.
#[derive(Deserialize)]
struct Purchase {
    #[serde(default)]
    quantity: u32,
}

#[derive(Clone)]
struct PreparedResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

pub async fn serve(listen: SocketAddr, response: &Path) -> Result<()> {
    let recorded: RecordedResponse = serde_json::from_slice(&std::fs::read(response)?)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &recorded.headers {
        headers.append(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    let response = PreparedResponse {
        status: StatusCode::from_u16(recorded.status)?,
        headers,
        body: recorded.body,
    };
    let router = Router::new()
        .route("/v1/sales/{namespace}/{name}/orders", post(purchase))
        .with_state(response);
    // The listener is that of seckill-api, also without Nagle's algorithm. If that fails, the figures show it.
    let listener = seckill_api::server::listen(listen)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).await?)
}

async fn purchase(
    State(response): State<PreparedResponse>,
    UrlPath((_namespace, _name)): UrlPath<(String, String)>,
    headers: HeaderMap,
    Json(purchase): Json<Purchase>,
) -> Response {
    if !headers.contains_key("idempotency-key") || purchase.quantity == 0 {
        return StatusCode::BAD_REQUEST.into_response();
    }
    (response.status, response.headers, response.body).into_response()
}
