//! An HTTP client for single requests. It keeps the whole response, which the limit server repeats.
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

/// The response of a real server, without the headers that every server writes by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordedResponse {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Buys one unit and returns the response.
pub async fn buy_once(address: SocketAddr, sale: &str) -> Result<RecordedResponse> {
    let body = r#"{"quantity":1}"#;
    let key = Uuid::new_v4();
    let request = format!(
        "POST /v1/sales/{sale}/orders HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         idempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    parse(&exchange(address, &request).await?)
}

/// The status of a GET request.
pub async fn get_status(address: SocketAddr, path: &str) -> Result<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    Ok(parse(&exchange(address, &request).await?)?.status)
}

async fn exchange(address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

fn parse(text: &str) -> Result<RecordedResponse> {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("a response without the end of its headers")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let Some(Ok(status)) = status.map(str::parse) else {
        bail!("not an HTTP response: {head}");
    };
    let by_every_server = ["date", "content-length", "connection"];
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| !by_every_server.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(RecordedResponse {
        status,
        headers,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_parsed_without_the_headers_of_every_server() {
        let text =
            "HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\nDate: now\r\ncontent-length: 2\r\n\r\n{}";
        let response = parse(text).expect("HTTP");
        assert_eq!((response.status, response.body.as_str()), (409, "{}"));
        assert_eq!(
            response.headers,
            [("content-type".to_owned(), "application/json".to_owned())]
        );
        assert!(parse("nonsense").is_err());
    }
}
