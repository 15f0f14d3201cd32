//! A pool of keep-alive connections. It reuses the most recently used one, so that it opens only as many as needed.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::target::Target;

/// Longer answers count as failed.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// A request without a complete answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The server has not received the request.
    NotSent(String),
    /// The server may have processed the request.
    Unknown(String),
}

impl ExchangeError {
    pub fn reason(self) -> String {
        match self {
            ExchangeError::NotSent(reason) | ExchangeError::Unknown(reason) => reason,
        }
    }
}

type Connection = SendRequest<Full<Bytes>>;

pub(crate) struct Connections {
    target: Target,
    idle: Mutex<Vec<Connection>>,
    opened: AtomicU64,
}

impl Connections {
    pub fn to(target: Target) -> Self {
        Connections {
            target,
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
        }
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Sends one request and reads the complete answer.
    pub async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ExchangeError> {
        for (name, value) in &self.target.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        loop {
            let (mut sender, fresh) = match self.take_idle() {
                Some(sender) => (sender, false),
                None => (self.open().await?, true),
            };
            if let Err(closed) = sender.ready().await {
                if fresh {
                    return Err(ExchangeError::NotSent(format!("new connection closed: {closed}")));
                }
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.read_answer(response, sender).await,
                Err(mut error) => match error.take_message() {
                    // The server had closed the idle connection: nothing was sent, so this is no failure.
                    Some(unsent) if !fresh => request = unsent,
                    Some(_) => return Err(ExchangeError::NotSent(cause(error.error()))),
                    None => return Err(ExchangeError::Unknown(cause(error.error()))),
                },
            }
        }
    }

    async fn read_answer(
        &self,
        response: Response<hyper::body::Incoming>,
        sender: Connection,
    ) -> Result<Response<Bytes>, ExchangeError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES)
            .collect()
            .await
            .map_err(|e| ExchangeError::Unknown(format!("answer incomplete: {e}")))?;
        self.lock().push(sender);
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    async fn open(&self) -> Result<Connection, ExchangeError> {
        let not_sent = |what: &str, e: &dyn std::error::Error| ExchangeError::NotSent(format!("{what}: {}", cause(e)));
        let stream = TcpStream::connect(self.target.address)
            .await
            .map_err(|e| not_sent("no connection", &e))?;
        stream.set_nodelay(true).map_err(|e| not_sent("TCP_NODELAY", &e))?;
        let sender = match &self.target.tls {
            None => begin_http(stream).await?,
            Some(tls) => begin_http(tls.handshake(stream).await.map_err(|e| not_sent("TLS", &e))?).await?,
        };
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(sender)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn begin_http<S>(stream: S) -> Result<Connection, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|e| ExchangeError::NotSent(format!("HTTP: {}", cause(&e))))?;
    // The request on the connection gets the error of the connection.
    tokio::spawn(async move { _ = connection.await });
    Ok(sender)
}

/// The text of an error and of its causes: hyper's own text says little.
fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
