//! An issuer in this process.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use seckill_test_issuer::{Key, TestIssuer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::issuer::Issuer;

pub struct OwnIssuer {
    url: String,
    /// Of its first key.
    pem: String,
    /// Serves the keys.
    runtime: Runtime,
    server: Mutex<Server>,
}

struct Server {
    issuer: TestIssuer,
    /// The last one signs. All are published.
    keys: Vec<Key>,
}

impl OwnIssuer {
    pub fn start() -> Result<Self> {
        let address = std::env::var("SECKILL_NODE_ADDRESS").context("SECKILL_NODE_ADDRESS")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((address, 0)))?;
        let pem = Key::new_ec_pem();
        let keys = vec![Key::ec_from_pem(&pem)?];
        let issuer = {
            let _entered = runtime.enter();
            TestIssuer::start_on(listener, &[&keys[0]])
        };
        Ok(OwnIssuer {
            url: issuer.url.clone(),
            pem,
            runtime,
            server: Mutex::new(Server { issuer, keys }),
        })
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token_for(&self, audience: Value, buyer: usize) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "iss": self.url, "aud": audience, "sub": format!("buyer-{buyer}"), "iat": now, "exp": now + 600,
            "jti": Uuid::new_v4(), "tier": if buyer == 0 { "gold" } else { "none" },
        });
        let server = self.server();
        Ok(server.keys.last().context("no key")?.token(&claims))
    }
}

impl Issuer for OwnIssuer {
    fn url(&self) -> &str {
        &self.url
    }

    fn token(&self, buyer: usize) -> Result<String> {
        self.token_for(json!(["account", "seckill"]), buyer)
    }

    fn token_of_other_audience(&self, buyer: usize) -> Result<String> {
        self.token_for(json!("account"), buyer)
    }

    fn rotate_keys(&self) -> Result<()> {
        let mut server = self.server();
        let key = Key::ec(&format!("key-{}", server.keys.len()));
        server.keys.push(key);
        server.issuer.publish(&server.keys.iter().collect::<Vec<_>>());
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        self.runtime.block_on(self.server().issuer.stop());
        Ok(())
    }

    fn start(&self) -> Result<()> {
        self.runtime.block_on(self.server().issuer.start_again());
        Ok(())
    }

    fn key_pem(&self) -> Option<&str> {
        Some(&self.pem)
    }
}
