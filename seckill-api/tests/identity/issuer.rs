//! An issuer over HTTP: a discovery document and a key set, which a test changes, delays and counts.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::keys::Key;

pub struct TestIssuer {
    pub url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    url: String,
    keys: Mutex<Value>,
    fetches: AtomicU64,
    /// Whether answers are held back.
    held: watch::Sender<bool>,
}

impl TestIssuer {
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_on(listener, keys)
    }

    pub fn start_on(listener: TcpListener, keys: &[&Key]) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = Arc::new(Shared {
            url: url.clone(),
            keys: Mutex::default(),
            fetches: AtomicU64::default(),
            held: watch::Sender::default(),
        });
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(key_set))
            .route("/moved", get(async || Redirect::temporary("/keys")))
            .route("/long", get(async || " ".repeat(1024 * 1024) + r#"{"keys":[]}"#))
            .with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("serves") });
        let issuer = TestIssuer { url, shared, server };
        issuer.publish(keys);
        issuer
    }

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

    /// Refuses further connections.
    pub async fn stop(self) {
        self.server.abort();
        let _ = self.server.await; // aborted
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
