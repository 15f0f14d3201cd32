//! An issuer over HTTP: a discovery document and a key set, which a test changes, delays and counts.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::keys::Key;

/// How long a port may still be in use after its listener was closed.
const PORT_WAIT: Duration = Duration::from_secs(30);

pub struct TestIssuer {
    /// The claim `iss` of its tokens.
    pub url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The task that accepts connections. It ends with this value.
    server: JoinSet<()>,
}

struct Shared {
    url: String,
    keys: Mutex<Value>,
    fetches: AtomicU64,
    /// Whether answers are held back.
    held: watch::Sender<bool>,
}

impl TestIssuer {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_on(listener, keys)
    }

    pub fn start_on(listener: TcpListener, keys: &[&Key]) -> Self {
        let address = listener.local_addr().expect("bound");
        let url = format!("http://{address}");
        let shared = Arc::new(Shared {
            url: url.clone(),
            keys: Mutex::default(),
            fetches: AtomicU64::default(),
            held: watch::Sender::default(),
        });
        let mut issuer = TestIssuer {
            url,
            address,
            shared,
            server: JoinSet::new(),
        };
        issuer.publish(keys);
        issuer.serve(listener);
        issuer
    }

    fn serve(&mut self, listener: TcpListener) {
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(key_set))
            .route("/moved", get(async || Redirect::temporary("/keys")))
            .route("/long", get(async || " ".repeat(1024 * 1024) + r#"{"keys":[]}"#))
            .with_state(self.shared.clone());
        self.server.spawn(async move {
            // It ends with this task.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                let service = TowerToHyperService::new(routes.clone());
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(connection);
                while connections.try_join_next().is_some() {}
            }
        });
    }

    /// Replaces the published keys.
    pub fn publish(&self, keys: &[&Key]) {
        self.publish_raw(json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}));
    }

    pub fn publish_raw(&self, document: Value) {
        *self.shared.keys.lock().expect("not poisoned") = document;
    }

    /// Answers are held back until [`TestIssuer::answer`].
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    pub fn answer(&self) {
        self.shared.held.send_replace(false);
    }

    /// Requests for the key set so far.
    pub fn fetches(&self) -> u64 {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// Closes all connections and refuses further ones, until [`TestIssuer::start_again`].
    pub async fn stop(&mut self) {
        self.server.shutdown().await;
    }

    /// Listens on the same port as before.
    pub async fn start_again(&mut self) {
        // A process that another thread starts has a copy of the old socket until it runs its program.
        let started = Instant::now();
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(started.elapsed() < PORT_WAIT, "{}: {error}", self.address),
            }
            sleep(Duration::from_millis(20)).await;
        };
        self.serve(listener);
    }
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    let url = &shared.url;
    axum::Json(json!({"issuer": url, "jwks_uri": format!("{url}/keys")})).into_response()
}

async fn key_set(State(shared): State<Arc<Shared>>) -> Response {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    let mut held = shared.held.subscribe();
    held.wait_for(|held| !held).await.expect("not dropped");
    let keys = shared.keys.lock().expect("not poisoned").clone();
    axum::Json(keys).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_stopped_issuer_comes_back_on_the_same_port_with_its_keys() {
        let key = Key::ec("a");
        let mut issuer = TestIssuer::start(&[&key]).await;
        // A connection that is idle is closed too.
        let mut idle = TcpStream::connect(issuer.address).await.expect("connects");
        idle.write_all(b"GET /keys HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = [0; 12];
        idle.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        issuer.stop().await;
        let stopped = Instant::now();
        while TcpStream::connect(issuer.address).await.is_ok() {
            assert!(stopped.elapsed() < PORT_WAIT, "it still listens");
            sleep(Duration::from_millis(20)).await;
        }
        idle.read_to_end(&mut Vec::new()).await.expect("closed");

        issuer.start_again().await;
        let mut connection = TcpStream::connect(issuer.address).await.expect("connects");
        let request = b"GET /keys HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        connection.write_all(request).await.expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.contains(&key.jwk()["x"].to_string()), "{answer}");
        assert_eq!(issuer.fetches(), 2);
    }
}
