//! Tokens that are accepted.
use seckill_test_issuer::{Key, TestIssuer};
use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn a_token_of_each_algorithm_is_accepted() {
    let keys = [Key::rsa("r"), Key::ec("e"), Key::ed("d")];
    let issuer = TestIssuer::start(&keys.iter().collect::<Vec<_>>()).await;
    let harness = Harness::start(&issuer, RARELY).await;
    for key in &keys {
        let token = key.token(&claims(&issuer, json!({})));
        assert_eq!(harness.verify(&token).await.as_deref(), Ok("buyer|1/2"), "{}", key.id);
    }
}

#[tokio::test]
async fn a_token_without_a_key_id_is_accepted_if_one_key_fits() {
    let (only, first, second) = (Key::ec("only"), Key::ed("first"), Key::ed("second"));
    let issuer = TestIssuer::start(&[&only, &first, &second]).await;
    let harness = Harness::start(&issuer, RARELY).await;
    let code = async |key: &Key| {
        let token = key.token_with(&json!({"alg": key.algorithm()}), &claims(&issuer, json!({})));
        harness.code(&token).await
    };
    assert_eq!(code(&only).await, "ok");
    assert_eq!(code(&first).await, "token_unknown_key");
}

#[tokio::test]
async fn one_audience_of_a_list_is_enough() {
    let key = Key::ec("a");
    let issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::start(&issuer, RARELY).await;
    let token = key.token(&claims(&issuer, json!({"aud": ["account", AUDIENCE]})));
    assert_eq!(harness.code(&token).await, "ok");
}

#[tokio::test]
async fn the_leeway_covers_clocks_that_differ() {
    let key = Key::ec("a");
    let issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::with(config(&issuer, json!({"leewaySeconds": 100})), RARELY);
    harness.wait_until_loaded().await;
    for (times, code) in [
        (json!({"exp": now() - 50}), "ok"),
        (json!({"exp": now() - 150}), "token_expired"),
        (json!({"nbf": now() + 50}), "ok"),
        (json!({"nbf": now() + 150}), "token_not_yet_valid"),
        (json!({"exp": now() as f64 + 60.5}), "ok"),
    ] {
        let token = key.token(&claims(&issuer, times.clone()));
        assert_eq!(harness.code(&token).await, code, "{times}");
    }
}

#[tokio::test]
async fn a_subject_has_up_to_255_characters() {
    let key = Key::ed("a");
    let issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::start(&issuer, RARELY).await;
    for (subject, code) in [
        ("é".repeat(255), "ok"),
        ("x".repeat(256), "token_malformed"),
        (String::new(), "token_malformed"),
    ] {
        let token = key.token(&claims(&issuer, json!({"sub": subject})));
        assert_eq!(harness.code(&token).await, code, "{subject}");
    }
}

#[tokio::test]
async fn a_token_is_verified_once_and_then_found_by_its_hash() {
    let key = Key::ec("a");
    let issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::start(&issuer, RARELY).await;
    let token = fresh(&issuer, &key);
    for _ in 0..3 {
        assert_eq!(harness.code(&token).await, "ok");
    }
    let outcome = |outcome: &str| {
        let labels = format!("{{issuer=\"main\",outcome=\"{outcome}\"}}");
        harness.count(&format!("seckill_api_token_verifications_total{labels}"))
    };
    assert_eq!((outcome("verified"), outcome("cached")), (1, 2));
    // Its expiry still counts.
    let short = key.token(&claims(&issuer, json!({"exp": now() - 10})));
    for _ in 0..2 {
        assert_eq!(harness.code(&short).await, "ok"); // within the leeway
    }
    assert_eq!(outcome("verified"), 3);
}
