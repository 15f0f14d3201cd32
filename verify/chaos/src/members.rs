//! Buyers with an identity. The run is their issuer: it signs their tokens and publishes its keys, which faults change.
//!
//! Some members are gold, and some are gold in one request and not in the next. A member buys several times, each time under
//! another key, and has two tokens.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rand::Rng as _;
use rand::rngs::StdRng;
use seckill_protocol::{Buyer, BuyerKey, KeyHash};
use seckill_test_issuer::{Key, TestIssuer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};

pub const ISSUER: &str = "main";
const AUDIENCE: &str = "seckill";
const PORT: u16 = 18090;
/// Of seckill-api, and of the checker.
pub const BUYER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// How many members buy in one sale.
pub const MEMBERS: usize = 100;
/// The tokens of a run are valid to its end.
const TOKEN_LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// seckill-api asks an issuer for an unknown key at most this often. A rotation that comes sooner refuses valid tokens.
const MIN_ROTATION_INTERVAL: Duration = Duration::from_secs(32);

/// The fields of a sale for members: gold has a limit of its own, opens before the start, and has so many units for some
/// seconds that the others find theirs sold out before the release.
pub fn tiered(stock: u64) -> Value {
    json!({
        "access": {"issuer": ISSUER},
        "limitPerBuyer": 3,
        "tiers": [{
            "name": "gold", "values": ["gold"], "opensBeforeSeconds": 2, "limitPerBuyer": 5,
            "reserved": 2 * stock / 3, "reservedForSeconds": 16,
        }],
        "reservedForGeneral": stock / 4,
    })
}

pub struct Members {
    url: String,
    issuer: tokio::sync::Mutex<TestIssuer>,
    signing: Mutex<Signing>,
}

struct Signing {
    key: Key,
    keys: u32,
    rotated_at: Option<Instant>,
    /// Of each member, with and without gold, two each.
    tokens: HashMap<(usize, bool, bool), String>,
}

impl Members {
    pub async fn start(address: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, PORT))
            .await
            .context("the port of the issuer")?;
        let key = Key::ec("key-1");
        let issuer = TestIssuer::start_on(listener, &[&key]);
        Ok(Members {
            url: issuer.url.clone(),
            issuer: tokio::sync::Mutex::new(issuer),
            signing: Mutex::new(Signing {
                key,
                keys: 1,
                rotated_at: None,
                tokens: HashMap::new(),
            }),
        })
    }

    /// The file of seckill-api.
    pub fn issuers_file(&self) -> String {
        let issuer = json!({"name": ISSUER, "url": self.url, "audiences": [AUDIENCE], "tierClaim": "/tier"});
        json!({"issuers": [issuer]}).to_string()
    }

    fn signing(&self) -> MutexGuard<'_, Signing> {
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of the tokens that the member has now.
    pub fn token(&self, member: usize, rng: &mut StdRng) -> String {
        let gold = match member % 4 {
            0 => true,
            1 => rng.random_bool(0.5),
            _ => false,
        };
        let second = rng.random_bool(0.5);
        let signing = &mut *self.signing();
        let token = signing.tokens.entry((member, gold, second));
        token
            .or_insert_with(|| {
                let tier = if gold { "gold" } else { "none" };
                let expires = SystemTime::now() + TOKEN_LIFETIME;
                signing.key.token(&json!({
                    "iss": self.url, "aud": AUDIENCE, "sub": subject(member), "tier": tier, "jti": second,
                    "exp": expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
                }))
            })
            .clone()
    }

    /// New tokens are signed by a new key. The old one stays published, as the tokens of logged-in members are valid.
    pub async fn rotate_keys(&self) -> String {
        let last = self.signing().rotated_at;
        if let Some(last) = last {
            sleep_until(last + MIN_ROTATION_INTERVAL).await;
        }
        let issuer = self.issuer.lock().await;
        let signing = &mut *self.signing();
        signing.keys += 1;
        let new = Key::ec(&format!("key-{}", signing.keys));
        issuer.publish(&[&new, &signing.key]);
        signing.rotated_at = Some(Instant::now());
        signing.key = new;
        signing.tokens.clear();
        format!("tokens are signed by {}", signing.key.id)
    }

    pub async fn stop_issuer(&self) {
        self.issuer.lock().await.stop().await;
    }

    pub async fn start_issuer(&self) {
        self.issuer.lock().await.start_again().await;
    }
}

fn subject(member: usize) -> String {
    format!("member-{member}")
}

/// As seckill-api stores the member, and its key.
pub fn stored(member: usize, key: &str) -> Result<(Buyer, KeyHash)> {
    let secret: BuyerKey = BUYER_KEY.parse().context("the key of buyers")?;
    let buyer = Buyer::of_identity(&secret, ISSUER, &subject(member));
    let key = KeyHash::of_buyer(&buyer, key);
    Ok((buyer, key))
}
