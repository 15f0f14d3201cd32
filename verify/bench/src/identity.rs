//! Purchases by buyers whose tokens were verified before, beside anonymous purchases; and what the first verification of a
//! token costs.
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use http::HeaderValue;
use seckill_api::identity::Issuers;
use seckill_api::identity::config::parse;
use seckill_api::identity::refresh::RefreshIntervals;
use seckill_api::metrics::Metrics;
use seckill_load::{Arrival, Outcome};
use seckill_service::Shutdown;
use seckill_service::metrics::registry::Registry;
use seckill_test_issuer::{Key, TestIssuer};
use serde_json::json;

use crate::buyers::{all_won, rate, send_buyers, send_buyers_with, wait_until_served};
use crate::harness::{ActiveSale, Harness, Program, WAIT_TIMEOUT, open};
use crate::report::{Goal, Measured, Row};

/// Each has a token, and buys once in each sale. seckill-api remembers this many tokens.
const BUYERS: u32 = 20_000;
const IN_FLIGHT: usize = 256;
/// Tokens of each algorithm in a round.
const FIRST_TOKENS: u32 = 2_000;
const ISSUER: &str = "main";
const AUDIENCE: &str = "seckill";
const BUYER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub async fn identity(harness: &Harness, rounds: u32) -> Result<Measured> {
    const WHAT: &str = "purchases with tokens that were verified before, HTTP to 201 (limit: anonymous purchases)";
    let key = Key::ec("key");
    let issuer = TestIssuer::start(&[&key]).await;
    let tokens: Arc<[HeaderValue]> = (0..BUYERS).map(|n| header(&key, &issuer, n)).collect::<Result<_>>()?;
    let (worker, api) = (harness.worker().await?, api(harness, &issuer).await?);
    // The first purchases verify all tokens.
    let first = harness.offer_to(ISSUER, 1_000_000, open()).await?;
    wait_until_served(&api, &first).await?;
    wait_for_keys(&api, &first, &tokens).await?;
    buy(&api, &first, &tokens).await?;
    harness.wait_until_stored(first.sale.partition).await?;

    let (mut identified, mut anonymous) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let plain = harness.offer(1_000_000, open()).await?;
        wait_until_served(&api, &plain).await?;
        let won = send_buyers(api.target().await?, &plain.path(), BUYERS, Arrival::AtOnce, IN_FLIGHT).await?;
        harness.wait_until_stored(plain.sale.partition).await?;
        let sale = harness.offer_to(ISSUER, 1_000_000, open()).await?;
        wait_until_served(&api, &sale).await?;
        let members = buy(&api, &sale, &tokens).await?;
        for (outcome, sale) in [(&won, &plain), (&members, &sale)] {
            let checked = match all_won(outcome) {
                Ok(()) => harness.check(sale, outcome.counts.won).await,
                broken => broken,
            };
            if let Err(why) = checked {
                return Ok(vec![Row::broken(WHAT, why)].into());
            }
        }
        anonymous.push(rate(&won));
        identified.push(rate(&members));
    }
    drop((worker, api));
    let mut rows = vec![
        Row::new(WHAT, "/s", identified)
            .beside(anonymous)
            .goal(Goal::RatioAtLeast(0.95)),
    ];
    rows.extend(verifications(rounds).await?);
    Ok(rows.into())
}

async fn buy(api: &Program, sale: &ActiveSale, tokens: &Arc<[HeaderValue]>) -> Result<Outcome> {
    let (target, path) = (api.target().await?, sale.path());
    send_buyers_with(target, &path, BUYERS, Arrival::AtOnce, IN_FLIGHT, tokens.clone()).await
}

/// Waits until seckill-api has the keys of the issuer.
async fn wait_for_keys(api: &Program, sale: &ActiveSale, tokens: &Arc<[HeaderValue]>) -> Result<()> {
    let started = Instant::now();
    let one: Arc<[HeaderValue]> = tokens.iter().take(1).cloned().collect();
    loop {
        let target = api.target().await?;
        let outcome = send_buyers_with(target, &sale.path(), 1, Arrival::AtOnce, 1, one.clone()).await?;
        if outcome.counts.won == 1 {
            return Ok(());
        }
        ensure!(
            started.elapsed() < WAIT_TIMEOUT,
            "seckill-api does not accept tokens: {outcome:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A seckill-api that knows the issuer.
async fn api(harness: &Harness, issuer: &TestIssuer) -> Result<Program> {
    let (issuers, key) = (
        harness.file("issuers.json", &issuers(issuer))?,
        harness.file("buyer-key", BUYER_KEY)?,
    );
    let text = |path: &Path| path.display().to_string();
    harness
        .api_with(&[
            ("SECKILL_ISSUERS_FILE", text(&issuers)),
            ("SECKILL_BUYER_KEY_FILE", text(&key)),
            ("SECKILL_REQUESTS_PER_BUYER", "0".to_owned()),
        ])
        .await
}

fn issuers(issuer: &TestIssuer) -> String {
    json!({"issuers": [{"name": ISSUER, "url": issuer.url, "audiences": [AUDIENCE]}]}).to_string()
}

fn header(key: &Key, issuer: &TestIssuer, n: u32) -> Result<HeaderValue> {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 7200;
    let token = key.token(&json!({
        "iss": issuer.url, "aud": AUDIENCE, "sub": format!("buyer-{n}"), "exp": expires, "iat": expires - 7200,
    }));
    HeaderValue::from_str(&format!("Bearer {token}")).context("a token is a header value")
}

/// The processor time of one verification, of a new token and of a known one, in this process.
async fn verifications(rounds: u32) -> Result<Vec<Row>> {
    let keys = [Key::rsa("rs"), Key::ec("es"), Key::ed("ed")];
    let issuer = TestIssuer::start(&keys.iter().collect::<Vec<_>>()).await;
    let shutdown = Shutdown::new();
    let metrics = Metrics::register(&mut Registry::default());
    let issuers = Issuers::start(
        &parse(&issuers(&issuer))?,
        RefreshIntervals::default(),
        metrics,
        &shutdown,
    )?;
    let mut rows = Vec::new();
    let mut known = Vec::new();
    for key in &keys {
        let mut first = Vec::new();
        for round in 0..rounds {
            let tokens = (0..FIRST_TOKENS).map(|n| header(key, &issuer, round * FIRST_TOKENS + n));
            let headers: Vec<_> = tokens
                .map(|token| Ok([(http::header::AUTHORIZATION, token?)].into_iter().collect()))
                .collect::<Result<Vec<http::HeaderMap>>>()?;
            if round == 0 {
                let started = Instant::now();
                while issuers.verify(ISSUER, &headers[0]).await.is_err() {
                    ensure!(started.elapsed() < WAIT_TIMEOUT, "the keys do not arrive");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            first.push(verify_all(&issuers, &headers).await?);
            known.push(verify_all(&issuers, &headers).await?);
        }
        rows.push(Row::new(
            format!("first verification of a token, {}", key.algorithm()),
            "us",
            first,
        ));
    }
    rows.push(Row::new("the same token again, from memory", "us", known));
    shutdown.cancel();
    Ok(rows)
}

/// Microseconds for each token.
async fn verify_all(issuers: &Issuers, headers: &[http::HeaderMap]) -> Result<f64> {
    let started = Instant::now();
    for headers in headers {
        if let Err(problem) = issuers.verify(ISSUER, headers).await {
            anyhow::bail!("a valid token is refused: {problem}");
        }
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / headers.len() as f64)
}
