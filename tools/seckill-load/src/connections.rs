//! Keep-alive connections. The last one used is used next, so that there are only as many as the load needs.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::target::Target;

/// The longest answer that is read.
const MAX_BODY: usize = 256 * 1024;

/// A request without an answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server has surely not seen it.
    NotSent(String),
    /// The server may have acted on it.
    Unknown(String),
}

impl Failure {
    pub fn why(self) -> String {
        match self {
            Failure::NotSent(why) | Failure::Unknown(why) => why,
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

pub(crate) struct Connections {
    target: Target,
    idle: Mutex<Vec<Sender>>,
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

    /// How many connections were opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Sends one request and reads the whole answer.
    pub async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
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
                    return Err(Failure::NotSent(format!("connection closed at once: {closed}")));
                }
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.whole(response, sender).await,
                Err(mut error) => match error.take_message() {
                    // An idle connection that the server had closed: not a fault, nothing was sent.
                    Some(unsent) if !fresh => request = unsent,
                    Some(_) => return Err(Failure::NotSent(cause(error.error()))),
                    None => return Err(Failure::Unknown(cause(error.error()))),
                },
            }
        }
    }

    async fn whole(
        &self,
        response: Response<hyper::body::Incoming>,
        sender: Sender,
    ) -> Result<Response<Bytes>, Failure> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|e| Failure::Unknown(format!("answer broke off: {e}")))?;
        self.lock().push(sender);
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    async fn open(&self) -> Result<Sender, Failure> {
        let not_sent = |what: &str, e: &dyn std::error::Error| Failure::NotSent(format!("{what}: {}", cause(e)));
        let stream = TcpStream::connect(self.target.address)
            .await
            .map_err(|e| not_sent("no connection", &e))?;
        stream.set_nodelay(true).map_err(|e| not_sent("TCP_NODELAY", &e))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| not_sent("HTTP", &e))?;
        // What goes wrong on the connection is reported to the request on it.
        tokio::spawn(async move { _ = connection.await });
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(sender)
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.lock();
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with what caused it: hyper's own text alone is "error trying to connect".
fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
