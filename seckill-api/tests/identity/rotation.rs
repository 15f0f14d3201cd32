//! Keys that change, and issuers that are slow or away.
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use seckill_test_issuer::{Key, TestIssuer, token};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::harness::*;

#[tokio::test]
async fn a_new_key_is_fetched_once_for_a_crowd_and_known_keys_never_wait() {
    let (old, new) = (Key::ec("old"), Key::ec("new"));
    let issuer = TestIssuer::start(&[&old]).await;
    let harness = Arc::new(Harness::start(&issuer, RARELY).await);
    assert_eq!(issuer.fetches(), 1);
    issuer.publish(&[&old, &new]);
    issuer.hold();
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let (harness, token) = (harness.clone(), fresh(&issuer, &new));
            tokio::spawn(async move { harness.code(&token).await })
        })
        .collect();
    wait_until("a fetch has begun", async || issuer.fetches() == 2).await;
    for _ in 0..20 {
        let known = fresh(&issuer, &old);
        let verified = timeout(Duration::from_secs(1), harness.code(&known)).await;
        assert_eq!(verified.as_deref(), Ok("ok"), "a known key waited");
    }
    assert!(crowd.iter().all(|request| !request.is_finished()));
    issuer.answer();
    for request in join_all(crowd).await {
        assert_eq!(request.expect("no panic"), "ok");
    }
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn valid_tokens_stay_accepted_while_the_issuer_is_away() {
    let (key, unknown) = (Key::ec("a"), Key::ec("b"));
    let mut issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::start(&issuer, OFTEN).await;
    let (cached, later) = (fresh(&issuer, &key), fresh(&issuer, &key));
    let of_unknown = fresh(&issuer, &unknown);
    assert_eq!(harness.code(&cached).await, "ok");
    issuer.stop().await;
    let failed = || harness.count("seckill_api_issuer_key_fetches_total{issuer=\"main\",result=\"failed\"}");
    wait_until("fetches fail", async || failed() >= 3).await;
    assert_eq!(harness.code(&cached).await, "ok");
    assert_eq!(harness.code(&later).await, "ok");
    // The key may be a new one.
    assert_eq!(harness.code(&of_unknown).await, "issuer_unavailable");
}

#[tokio::test]
async fn random_key_ids_cause_one_fetch() {
    let key = Key::ec("a");
    let issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::start(&issuer, RARELY).await;
    let claims = claims(&issuer, json!({}));
    for n in 0..10_000 {
        let header = json!({"alg": "ES256", "kid": format!("random {n}")});
        let garbage = token(&header, &claims, |_| vec![0; 64]);
        assert_eq!(harness.code(&garbage).await, "token_unknown_key");
    }
    assert_eq!(issuer.fetches(), 2);
    assert_eq!(harness.code(&fresh(&issuer, &key)).await, "ok");
}

#[tokio::test]
async fn a_removed_key_is_refused_after_the_refresh() {
    let (kept, removed) = (Key::ec("kept"), Key::ed("removed"));
    let issuer = TestIssuer::start(&[&kept, &removed]).await;
    let harness = Harness::start(&issuer, OFTEN).await;
    let (cached, valid) = (fresh(&issuer, &removed), fresh(&issuer, &kept));
    for token in [&cached, &valid] {
        assert_eq!(harness.code(token).await, "ok");
    }
    issuer.publish(&[&kept]);
    wait_until("the cached token is refused", async || {
        harness.code(&cached).await == "token_unknown_key"
    })
    .await;
    assert_eq!(harness.code(&fresh(&issuer, &removed)).await, "token_unknown_key");
    assert_eq!(harness.code(&valid).await, "ok");
}

#[tokio::test]
async fn another_key_under_a_known_id_replaces_it() {
    let (first, second) = (Key::ec("a"), Key::ec("a"));
    let issuer = TestIssuer::start(&[&first]).await;
    let harness = Harness::start(&issuer, OFTEN).await;
    let (old, new) = (fresh(&issuer, &first), fresh(&issuer, &second));
    assert_eq!(harness.code(&old).await, "ok");
    assert_eq!(harness.code(&new).await, "token_bad_signature");
    issuer.publish(&[&second]);
    wait_until("the new key counts", async || harness.code(&new).await == "ok").await;
    assert_eq!(harness.code(&old).await, "token_bad_signature");
}

#[tokio::test]
async fn a_key_set_without_keys_replaces_nothing() {
    let key = Key::ec("a");
    let issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::start(&issuer, OFTEN).await;
    for document in [json!({"keys": []}), json!({}), json!("maintenance")] {
        issuer.publish_raw(document);
        let fetches = issuer.fetches();
        wait_until("the document is fetched", async || issuer.fetches() > fetches + 1).await;
        assert_eq!(harness.code(&fresh(&issuer, &key)).await, "ok");
    }
}

#[tokio::test]
async fn tokens_are_accepted_as_soon_as_the_issuer_appears() {
    let key = Key::ec("a");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let harness = Harness::with(config_of(&format!("http://{address}"), json!({})), RARELY);
    assert_eq!(harness.code("a.b.c").await, "issuer_unavailable");
    let failed = || harness.count("seckill_api_issuer_key_fetches_total{issuer=\"main\",result=\"failed\"}");
    wait_until("a fetch failed", async || failed() > 0).await;
    assert_eq!(harness.code("a.b.c").await, "issuer_unavailable");
    // A process that another test starts has a copy of the old socket until it runs its program.
    let mut listener = None;
    wait_until("the port is free", async || {
        listener = TcpListener::bind(address).await.ok();
        listener.is_some()
    })
    .await;
    let listener = listener.expect("bound");
    let issuer = TestIssuer::start_on(listener, &[&key]);
    let token = fresh(&issuer, &key);
    wait_until("the token is accepted", async || harness.code(&token).await == "ok").await;
}
