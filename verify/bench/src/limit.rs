//! The HTTP server that does nothing but read a request and answer it: what ours could be at most.
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

/// What a real server answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// As the API reads it.
#[derive(Deserialize)]
struct Purchase {
    #[serde(default)]
    quantity: u32,
}

#[derive(Clone)]
struct Ready {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

pub async fn serve(listen: SocketAddr, answer: &Path) -> Result<()> {
    let answer: Answer = serde_json::from_slice(&std::fs::read(answer)?)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        headers.append(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    let ready = Ready {
        status: StatusCode::from_u16(answer.status)?,
        headers,
        body: answer.body,
    };
    let router = Router::new()
        .route("/v1/sales/{namespace}/{name}/orders", post(purchase))
        .with_state(ready);
    // It listens as ours does. Nagle's algorithm is off, too; what can't be set shows in the figures.
    let listener = seckill_api::server::listen(listen)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).await?)
}

async fn purchase(
    State(ready): State<Ready>,
    UrlPath((_namespace, _name)): UrlPath<(String, String)>,
    headers: HeaderMap,
    Json(purchase): Json<Purchase>,
) -> Response {
    if !headers.contains_key("idempotency-key") || purchase.quantity == 0 {
        return StatusCode::BAD_REQUEST.into_response();
    }
    (ready.status, ready.headers, ready.body).into_response()
}

/// Buys once, to learn what a buyer is answered.
pub async fn answer_of(address: SocketAddr, sale: &str) -> Result<Answer> {
    let body = r#"{"quantity":1}"#;
    let key = Uuid::new_v4();
    let request = format!(
        "POST /v1/sales/{sale}/orders HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         idempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    parse(&exchange(address, &request).await?)
}

/// The status of a GET.
pub async fn status_of(address: SocketAddr, path: &str) -> Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    Ok(parse(&exchange(address, &request).await?)?.status)
}

async fn exchange(address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("an answer without an end of its head")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let Some(Ok(status)) = status.map(str::parse) else {
        bail!("no HTTP: {head}");
    };
    // Those that every server writes by itself.
    let own = ["date", "content-length", "connection"];
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| !own.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(Answer {
        status,
        headers,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_without_what_every_server_writes() {
        let text =
            "HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\nDate: now\r\ncontent-length: 2\r\n\r\n{}";
        let answer = parse(text).expect("HTTP");
        assert_eq!((answer.status, answer.body.as_str()), (409, "{}"));
        assert_eq!(
            answer.headers,
            [("content-type".to_owned(), "application/json".to_owned())]
        );
        assert!(parse("nonsense").is_err());
    }
}
