//! Tokens that are refused, each with its code.
use http::{HeaderMap, HeaderValue, header};
use ring::hmac;
use seckill_api::identity::Issuers;
use seckill_test_issuer::{Key, TestIssuer, token};
use serde_json::{Value, json};

use crate::harness::*;

fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
    token(header, claims, |message| hmac::sign(&secret, message).as_ref().to_vec())
}

#[tokio::test]
async fn each_bad_token_has_its_code() {
    let (rsa, ec, ed) = (Key::rsa("r"), Key::ec("e"), Key::ed("d"));
    let issuer = TestIssuer::start(&[&rsa, &ec, &ed]).await;
    let harness = Harness::start(&issuer, RARELY).await;
    let with = |more: Value| claims(&issuer, more);
    let valid = with(json!({}));

    let mut cases: Vec<(&str, String, &str)> = Vec::new();
    for (name, more, code) in [
        ("expired", json!({"exp": now() - 60}), "token_expired"),
        ("not yet valid", json!({"nbf": now() + 60}), "token_not_yet_valid"),
        ("wrong audience", json!({"aud": "account"}), "token_wrong_audience"),
        (
            "wrong audiences",
            json!({"aud": ["account", "other"]}),
            "token_wrong_audience",
        ),
        ("no audiences", json!({"aud": []}), "token_wrong_audience"),
        ("without an audience", json!({"aud": null}), "token_wrong_audience"),
        (
            "wrong issuer",
            json!({"iss": format!("{}/", issuer.url)}),
            "token_wrong_issuer",
        ),
        ("several issuers", json!({"iss": [issuer.url, "x"]}), "token_malformed"),
        ("without an issuer", json!({"iss": null}), "token_malformed"),
        ("without a subject", json!({"sub": null}), "token_malformed"),
        ("a number as subject", json!({"sub": 1}), "token_malformed"),
        ("without an end", json!({"exp": null}), "token_malformed"),
        ("a text as end", json!({"exp": "tomorrow"}), "token_malformed"),
        ("a text as begin", json!({"nbf": "tomorrow"}), "token_malformed"),
        ("claims that are a list", json!({}), "token_malformed"),
    ] {
        let claims = match name {
            "claims that are a list" => json!([1]),
            _ => with(more),
        };
        for key in [&rsa, &ec, &ed] {
            cases.push((name, key.token(&claims), code));
        }
    }

    // Signed by somebody else with the id of a known key.
    for (forger, of) in [(Key::ec("x"), &ec), (Key::ed("x"), &ed)] {
        cases.push(("forged", forger.token_with(&of.header(), &valid), "token_bad_signature"));
    }
    for key in [&rsa, &ec, &ed] {
        let valid_token = key.token(&valid);
        let (message, signature) = valid_token.rsplit_once('.').expect("a signature");
        let other = key.token(&with(json!({"sub": "other"})));
        let (other, _) = other.rsplit_once('.').expect("a signature");
        cases.push(("changed claims", format!("{other}.{signature}"), "token_bad_signature"));
        cases.push(("without a signature", format!("{message}."), "token_bad_signature"));
        let none = |alg: &str| token(&json!({"alg": alg, "kid": key.id}), &valid, |_| Vec::new());
        cases.push(("alg none", none("none"), "token_algorithm_refused"));
        cases.push(("alg None", none("None"), "token_algorithm_refused"));
        for secret in [key.public(), key.jwk().to_string().as_bytes()] {
            let header = json!({"alg": "HS256", "kid": key.id});
            cases.push((
                "the public key as secret",
                hs256(&header, &valid, secret),
                "token_algorithm_refused",
            ));
        }
        let critical = json!({"alg": key.algorithm(), "kid": key.id, "crit": ["exp"], "exp": 1});
        cases.push(("crit", key.token_with(&critical, &valid), "token_malformed"));
        let unknown = json!({"alg": key.algorithm(), "kid": "unknown"});
        cases.push(("unknown key", key.token_with(&unknown, &valid), "token_unknown_key"));
        // A key that the token brings along proves nothing.
        let own = json!({"alg": key.algorithm(), "kid": "own", "jwk": key.jwk(), "jku": "https://evil.example"});
        cases.push(("own key", key.token_with(&own, &valid), "token_unknown_key"));
    }
    // The algorithm belongs to the key, whatever the header says.
    let confused = json!({"alg": "RS256", "kid": ec.id});
    cases.push((
        "algorithm of another key",
        rsa.token_with(&confused, &valid),
        "token_algorithm_refused",
    ));
    cases.push((
        "PS256",
        rsa.token_with(&json!({"alg": "PS256", "kid": rsa.id}), &valid),
        "token_algorithm_refused",
    ));
    cases.push((
        "oversized",
        rsa.token(&with(json!({"x": "x".repeat(6500)}))),
        "token_malformed",
    ));
    for text in ["", "a", "a.b.c", "..", "{}.{}.{}"] {
        cases.push(("no token", text.to_owned(), "token_malformed"));
    }

    for (name, token, code) in cases {
        // The second time it would come from the cache.
        for _ in 0..2 {
            assert_eq!(harness.code(&token).await, code, "{name}");
        }
    }
    assert_eq!(harness.code(&rsa.token(&valid)).await, "ok");
}

#[tokio::test]
async fn a_secret_in_the_key_set_verifies_nothing() {
    let (ec, secret) = (Key::ec("e"), b"0123456789abcdef0123456789abcdef");
    let issuer = TestIssuer::start(&[]).await;
    let oct = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"});
    issuer.publish_raw(json!({"keys": [oct, ec.jwk()]}));
    let harness = Harness::start(&issuer, RARELY).await;
    for kid in ["s", "e"] {
        let token = hs256(
            &json!({"alg": "HS256", "kid": kid}),
            &claims(&issuer, json!({})),
            secret,
        );
        assert_eq!(harness.code(&token).await, "token_algorithm_refused");
    }
    let renamed = ec.renamed("s").token(&claims(&issuer, json!({})));
    assert_eq!(harness.code(&renamed).await, "token_unknown_key");
}

#[tokio::test]
async fn only_the_configured_algorithms_are_accepted() {
    let (rsa, ec) = (Key::rsa("r"), Key::ec("e"));
    let issuer = TestIssuer::start(&[&rsa, &ec]).await;
    let harness = Harness::with(config(&issuer, json!({"algorithms": ["ES256"]})), RARELY);
    harness.wait_until_loaded().await;
    assert_eq!(harness.code(&fresh(&issuer, &ec)).await, "ok");
    assert_eq!(harness.code(&fresh(&issuer, &rsa)).await, "token_algorithm_refused");
}

#[tokio::test]
async fn a_request_has_exactly_one_authorization_header() {
    let key = Key::ec("e");
    let issuer = TestIssuer::start(&[&key]).await;
    let harness = Harness::start(&issuer, RARELY).await;
    let token = fresh(&issuer, &key);
    let code = async |values: &[&str]| {
        let values = values
            .iter()
            .map(|value| HeaderValue::from_str(value).expect("a header"));
        let headers: HeaderMap = values.map(|value| (header::AUTHORIZATION, value)).collect();
        harness.verify_headers(&headers).await.err()
    };
    let bearer = format!("Bearer {token}");
    assert_eq!(code(&[&bearer]).await, None);
    assert_eq!(code(&[&format!("bEARER {token}")]).await, None);
    assert_eq!(code(&[]).await.as_deref(), Some("token_missing"));
    for values in [
        &[bearer.as_str(), &bearer][..],
        &[&bearer, "Basic YTpi"],
        &[&token],
        &[&format!("{bearer}, {bearer}")],
        &[&format!("Basic {token}")],
    ] {
        assert_eq!(code(values).await.as_deref(), Some("token_malformed"), "{values:?}");
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_configured_refuses_every_token() {
    let refused = Issuers::none().verify("main", &bearer("a.b.c")).await;
    assert_eq!(refused.expect_err("refused").code(), "issuer_unavailable");
}
