//! The verification under test, with one issuer called `main`.
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use seckill_api::identity::config::{IssuerConfig, parse};
use seckill_api::identity::refresh::RefreshIntervals;
use seckill_api::identity::{Identity, Issuers};
use seckill_api::metrics::Metrics;
use seckill_service::metrics::encoding::text::encode;
use seckill_service::metrics::registry::Registry;
use seckill_service::{Clock, Shutdown};
use seckill_test_issuer::{Key, TestIssuer};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub const AUDIENCE: &str = "seckill";
/// For what a test waits for. It is far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// No fetch happens by itself in a test.
pub const RARELY: RefreshIntervals = RefreshIntervals {
    max_age: Duration::from_secs(600),
    min_interval: Duration::from_secs(30),
};
/// Keys are fetched all the time.
pub const OFTEN: RefreshIntervals = RefreshIntervals {
    max_age: Duration::from_millis(10),
    min_interval: Duration::from_millis(10),
};

pub struct Harness {
    issuers: Issuers,
    registry: Registry,
    shutdown: Shutdown,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub fn config(issuer: &TestIssuer, more: Value) -> IssuerConfig {
    config_of(&issuer.url, more)
}

pub fn config_of(url: &str, more: Value) -> IssuerConfig {
    let mut config = json!({"name": "main", "url": url, "audiences": [AUDIENCE]});
    let fields = config.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    let file = json!({"issuers": [config]}).to_string();
    parse(&file).expect("valid").remove(0)
}

impl Harness {
    /// Waits until the keys are loaded.
    pub async fn start(issuer: &TestIssuer, intervals: RefreshIntervals) -> Self {
        let harness = Self::with(config(issuer, json!({})), intervals);
        harness.wait_until_loaded().await;
        harness
    }

    pub fn with(config: IssuerConfig, intervals: RefreshIntervals) -> Self {
        let mut registry = Registry::default();
        let (metrics, shutdown) = (Metrics::register(&mut registry), Shutdown::new());
        let issuers = Issuers::start(&[config], intervals, metrics, &shutdown).expect("valid");
        Harness {
            issuers,
            registry,
            shutdown,
        }
    }

    pub async fn wait_until_loaded(&self) {
        wait_until("the keys are loaded", async || {
            self.code("a.b.c").await != "issuer_unavailable"
        })
        .await;
    }

    pub async fn verify_headers(&self, headers: &HeaderMap) -> Result<Identity, String> {
        let verified = self.issuers.verify("main", headers).await;
        verified.map_err(|problem| problem.code().to_owned())
    }

    /// The subject, or the code of the problem.
    pub async fn verify(&self, token: &str) -> Result<String, String> {
        let identity = self.verify_headers(&bearer(token)).await?;
        assert_eq!(&*identity.issuer, "main");
        Ok(identity.subject.to_string())
    }

    /// The code of the problem; `ok` without one.
    pub async fn code(&self, token: &str) -> String {
        self.verify(token).await.map_or_else(|code| code, |_| "ok".to_owned())
    }

    /// The value of a counter with these labels; 0 if there is none.
    pub fn count(&self, metric: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("encoded");
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    }
}

pub fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

/// Seconds since 1970.
pub fn now() -> u64 {
    Clock::system().now() / 1000
}

/// The claims of a valid token, with some replaced. `null` removes one.
pub fn claims(issuer: &TestIssuer, more: Value) -> Value {
    let mut claims = json!({"iss": issuer.url, "aud": AUDIENCE, "sub": "buyer|1/2", "exp": now() + 300, "iat": now()});
    let fields = claims.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => drop(fields.insert(name.clone(), value.clone())),
        }
    }
    claims
}

/// A valid token that no other call returns.
pub fn fresh(issuer: &TestIssuer, key: &Key) -> String {
    key.token(&claims(issuer, json!({"jti": uuid::Uuid::new_v4()})))
}

pub async fn wait_until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(2)).await;
    }
}
