//! The HTTP client of the tests. It sends a request as it is on the wire, so that no library refuses to send a bad one.
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::contract;

#[derive(Clone)]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// `Name: value`
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// Null if the text is not JSON.
    pub body: Value,
}

impl Request {
    pub fn new(line: impl Into<String>, headers: &[&str], body: impl Into<Vec<u8>>) -> Self {
        Request {
            line: line.into(),
            headers: headers.iter().map(|header| (*header).to_owned()).collect(),
            body: body.into(),
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new(format!("GET {path}"), &[], "")
    }

    /// None if there is no HTTP response.
    pub async fn send(&self, address: SocketAddr) -> Option<Response> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        self.write(&mut stream).await;
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        let response = Response::parse(&String::from_utf8_lossy(&response))?;
        contract::check(&self.line, response.status, &response.headers, &response.body);
        Some(response)
    }

    /// Sends the request without waiting for the response. Dropping the connection is a client that goes away.
    pub async fn start(&self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        self.write(&mut stream).await;
        stream
    }

    async fn write(&self, stream: &mut TcpStream) {
        let mut head = format!("{} HTTP/1.1\r\nHost: seckill\r\nConnection: close\r\n", self.line);
        for header in &self.headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        let has_length = |header: &String| {
            let header = header.to_ascii_lowercase();
            header.starts_with("content-length") || header.starts_with("transfer-encoding")
        };
        if !self.body.is_empty() && !self.headers.iter().any(has_length) {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&self.body).await;
    }
}

impl Response {
    fn parse(response: &str) -> Option<Self> {
        let (head, text) = response.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| -> Option<(HeaderName, HeaderValue)> {
            let (name, value) = line.split_once(": ")?;
            Some((name.parse().ok()?, value.parse().ok()?))
        };
        Some(Response {
            status,
            headers: lines.filter_map(header).collect(),
            text: text.to_owned(),
            body: serde_json::from_str(text).unwrap_or_default(),
        })
    }

    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn order_no(&self) -> &str {
        self.body["order_no"]
            .as_str()
            .unwrap_or_else(|| panic!("no order: {self:?}"))
    }

    #[track_caller]
    pub fn is(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        self
    }
}
