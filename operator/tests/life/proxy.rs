//! A proxy between an operator and the real API server, which simulates faults of the API server.
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::listen_again;

type Request = http::Request<Body>;
type Response = http::Response<UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>>;

/// A fault of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Two of three requests get 429.
    Busy,
    /// Each request is delayed.
    Slow(Duration),
    /// Each request for such a resource is delayed.
    SlowResource(&'static str, Duration),
    /// Changes of replicas get 429.
    BusyScaling,
    /// Statuses and events that are written get no answer.
    SilentWrites,
    /// A watch of FlashSales ends with an event 410 Expired.
    ExpiredEvent,
    /// A watch of FlashSales gets the answer 410 Expired. A version that has expired stays expired.
    ExpiredAnswer,
    /// A watch of FlashSales is accepted, and then gets no events.
    DeadWatch,
    /// The resource FlashSale does not exist. (The test can't delete the real CRD, because all tests share the
    /// cluster.)
    NotServed,
    /// Lists of FlashSales are empty, as from an API server with a stale cache.
    EmptyLists,
    /// There is no FlashSale: not in a list, and not by its name.
    EmptyCluster,
    /// FlashSales with `coolDownSeconds: 7` have a field `rehearsal`, which only a newer version of the resource has.
    NewerResource,
}

/// The state that all connections share.
struct Server {
    upstream: Client,
    fault: Mutex<Fault>,
    requests: AtomicU64,
    /// The requests that neither watch nor renew a Lease.
    asked: Mutex<Vec<String>>,
    dead_watches: AtomicU64,
    silent_writes: AtomicU64,
    abandoned_writes: AtomicU64,
    /// Expired versions, as `resourceVersion=N` in the query of a watch.
    expired: Mutex<HashSet<String>>,
}

pub struct Proxy {
    address: String,
    server: Arc<Server>,
    listening: Option<JoinHandle<()>>,
}

impl Proxy {
    pub async fn start(upstream: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut proxy = Proxy {
            address: listener.local_addr().expect("an address").to_string(),
            server: Arc::new(Server {
                upstream,
                fault: Mutex::new(Fault::None),
                requests: AtomicU64::default(),
                asked: Mutex::default(),
                dead_watches: AtomicU64::default(),
                silent_writes: AtomicU64::default(),
                abandoned_writes: AtomicU64::default(),
                expired: Mutex::default(),
            }),
            listening: None,
        };
        proxy.listen(listener);
        proxy
    }

    fn listen(&mut self, listener: TcpListener) {
        let server = self.server.clone();
        self.listening = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        }));
    }

    /// A client like the operator's own, which goes through the proxy.
    pub fn client(&self) -> Client {
        let url = format!("http://{}", self.address).parse().expect("a URL");
        Client::try_from(Config::new(url)).expect("a client")
    }

    /// Sets the fault, and closes all connections, so that open watches get the fault too.
    pub async fn set(&mut self, fault: Fault) {
        self.set_for_new_requests(fault);
        self.refuse().await;
        self.accept().await;
    }

    pub fn set_for_new_requests(&self, fault: Fault) {
        *self.server.fault.lock().expect("nobody panics") = fault;
    }

    pub fn dead_watches(&self) -> u64 {
        self.server.dead_watches.load(Ordering::Relaxed)
    }

    /// Writes that got no answer, and those of them that the client gave up.
    pub fn silent_writes(&self) -> (u64, u64) {
        let server = &self.server;
        (
            server.silent_writes.load(Ordering::SeqCst),
            server.abandoned_writes.load(Ordering::SeqCst),
        )
    }

    /// The requests since the last call that neither watch nor renew a Lease.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.server.asked.lock().expect("nobody panics"))
    }

    /// Closes all connections and refuses new ones.
    pub async fn refuse(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    pub async fn accept(&mut self) {
        self.listen(listen_again(&self.address).await);
    }
}

/// Counts requests whose client has gone.
struct CountOnDrop<'a>(&'a AtomicU64);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Server {
    async fn answer(&self, request: http::Request<Incoming>) -> Response {
        let fault = *self.fault.lock().expect("nobody panics");
        let nth = self.requests.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if !query.contains("watch=true") && !path.contains("/leases") {
            let asked = format!("{} {path}", request.method());
            self.asked.lock().expect("nobody panics").push(asked);
        }
        let sales = path.contains("/flashsales");
        let watch = sales && query.contains("watch=true");
        let list = sales && path.ends_with("/flashsales") && !watch && request.method() == http::Method::GET;
        let parameters = query.split('&').map(str::to_owned);
        let version: String = parameters
            .filter(|parameter| watch && parameter.starts_with("resourceVersion="))
            .collect();
        let writes = path.ends_with("/status") || path.contains("/events");
        match fault {
            Fault::SilentWrites if writes && request.method() != http::Method::GET => {
                self.silent_writes.fetch_add(1, Ordering::SeqCst);
                let _abandoned = CountOnDrop(&self.abandoned_writes);
                std::future::pending().await
            }
            Fault::Busy if !nth.is_multiple_of(3) => {
                let mut busy = failure(429, "TooManyRequests");
                busy.headers_mut()
                    .insert("retry-after", http::HeaderValue::from_static("1"));
                return busy;
            }
            Fault::Slow(by) => tokio::time::sleep(by).await,
            Fault::SlowResource(resource, by) if path.contains(resource) => tokio::time::sleep(by).await,
            Fault::BusyScaling if path.ends_with("/scale") => return failure(429, "TooManyRequests"),
            Fault::ExpiredEvent | Fault::EmptyLists | Fault::EmptyCluster
                if watch && version != "resourceVersion=1" =>
            {
                let event = json!({"type": "ERROR", "object": status(410, "Expired")});
                return json_answer(200, &event);
            }
            Fault::ExpiredAnswer if watch => {
                self.expired.lock().expect("nobody panics").insert(version);
                return failure(410, "Expired");
            }
            _ if self.expired.lock().expect("nobody panics").contains(&version) => return failure(410, "Expired"),
            Fault::DeadWatch if watch => {
                self.dead_watches.fetch_add(1, Ordering::Relaxed);
                let silence = futures::stream::pending::<Result<Frame<Bytes>, _>>();
                return json_answer(200, &json!({})).map(|_| StreamBody::new(silence).boxed_unsync());
            }
            // The API server answers so for a resource that it does not know.
            Fault::NotServed if sales => {
                return text_answer(404, b"404 page not found\n".to_vec(), "text/plain");
            }
            Fault::EmptyLists | Fault::EmptyCluster if list => {
                let none = json!({
                    "apiVersion": "seckill.dev/v1alpha1",
                    "kind": "FlashSaleList",
                    "metadata": {"resourceVersion": "1"},
                    "items": [],
                });
                return json_answer(200, &none);
            }
            // A real watch would immediately deliver the sales that the list lacks.
            Fault::EmptyLists | Fault::EmptyCluster if watch => std::future::pending().await,
            Fault::EmptyCluster if sales => {
                let (_, name) = path.rsplit_once('/').unwrap_or_default();
                let mut missing = status(404, "NotFound");
                missing["details"] = json!({"name": name, "group": "seckill.dev", "kind": "flashsales"});
                return json_answer(404, &missing);
            }
            _ => {}
        }
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return failure(400, "BadRequest");
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Body::from(body.to_bytes()));
        (*request.method_mut(), *request.headers_mut()) = (head.method, head.headers);
        request.headers_mut().remove(http::header::HOST);
        *request.uri_mut() = path.parse().expect("a path");
        match self.upstream.send(request).await {
            Ok(mut answer) if fault == Fault::NewerResource && sales => {
                answer.headers_mut().remove(http::header::CONTENT_LENGTH);
                answer.map(|body| StreamBody::new(with_newer_field(body)).boxed_unsync())
            }
            Ok(answer) => answer.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(error) => failure(502, &error.to_string()),
        }
    }
}

/// Adds the field to each object, line by line: each event of a watch is a line.
fn with_newer_field(
    body: Body,
) -> impl Stream<Item = Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>> + Send {
    let state = (body.into_data_stream(), Vec::new());
    futures::stream::try_unfold(state, |(mut data, mut read): (_, Vec<u8>)| async move {
        loop {
            let end = read.iter().position(|byte| *byte == b'\n');
            let line: Vec<u8> = match end {
                Some(end) => read.drain(..=end).collect(),
                None => match data.try_next().await? {
                    Some(more) => {
                        read.extend_from_slice(&more);
                        continue;
                    }
                    None if read.is_empty() => return Ok(None),
                    None => std::mem::take(&mut read),
                },
            };
            let field = "\"coolDownSeconds\":7";
            let newer = String::from_utf8_lossy(&line).replace(field, &format!("{field},\"rehearsal\":true"));
            return Ok(Some((Frame::data(Bytes::from(newer)), (data, read))));
        }
    })
}

fn status(code: u16, reason: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "reason": reason,
        "message": format!("{reason}, simulated by the test"),
        "code": code,
    })
}

fn failure(code: u16, reason: &str) -> Response {
    json_answer(code, &status(code, reason))
}

fn json_answer(code: u16, object: &Value) -> Response {
    let mut text = serde_json::to_vec(object).expect("serializes");
    text.push(b'\n');
    text_answer(code, text, "application/json")
}

fn text_answer(code: u16, text: Vec<u8>, kind: &'static str) -> Response {
    let body = Full::from(text).map_err(|never| match never {}).boxed_unsync();
    let mut answer = http::Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).expect("a code");
    let kind = http::HeaderValue::from_static(kind);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}
