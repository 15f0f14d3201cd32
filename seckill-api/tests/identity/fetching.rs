//! Where keys are fetched from, and answers that are not taken.
use axum::Router;
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use seckill_api::identity::Issuers;
use seckill_api::identity::config::IssuerConfig;
use seckill_api::metrics::Metrics;
use seckill_service::Shutdown;
use seckill_service::metrics::registry::Registry;
use seckill_test_issuer::{Key, TestIssuer};
use serde_json::json;
use tokio::net::TcpListener;

use crate::certificate::Certificate;
use crate::harness::*;

#[tokio::test]
async fn keys_are_fetched_from_the_configured_address_or_the_discovered_one() {
    let key = Key::ec("a");
    let issuer = TestIssuer::start(&[&key]).await;
    for more in [json!({}), json!({"jwksUrl": format!("{}/keys", issuer.url)})] {
        let harness = Harness::with(config(&issuer, more), RARELY);
        harness.wait_until_loaded().await;
        assert_eq!(harness.code(&fresh(&issuer, &key)).await, "ok");
    }
}

#[tokio::test]
async fn redirects_long_answers_and_other_issuers_bring_no_keys() {
    let key = Key::ec("a");
    let issuer = TestIssuer::start(&[&key]).await;
    for config in [
        config(&issuer, json!({"jwksUrl": format!("{}/moved", issuer.url)})),
        config(&issuer, json!({"jwksUrl": format!("{}/long", issuer.url)})),
        config(&issuer, json!({"jwksUrl": format!("{}/missing", issuer.url)})),
        // Its document says that the issuer has another name.
        config_of(&issuer.url.replace("127.0.0.1", "localhost"), json!({})),
    ] {
        let harness = Harness::with(config.clone(), RARELY);
        let failed = || harness.count("seckill_api_issuer_key_fetches_total{issuer=\"main\",result=\"failed\"}");
        wait_until("two fetches failed", async || failed() >= 2).await;
        assert_eq!(
            harness.code(&fresh(&issuer, &key)).await,
            "issuer_unavailable",
            "{config:?}"
        );
    }
    assert_eq!(issuer.fetches(), 0);
}

#[tokio::test]
async fn https_needs_a_trusted_certificate() {
    let (key, certificate) = (Key::ec("a"), Certificate::of("localhost"));
    // Claims of tokens need an issuer; its keys come from elsewhere here.
    let issuer = TestIssuer::start(&[&key]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!(
        "https://localhost:{}/keys",
        listener.local_addr().expect("bound").port()
    );
    let (acceptor, keys) = (certificate.acceptor(), json!({"keys": [key.jwk()]}).to_string());
    let routes = Router::new().route("/keys", get(async move || keys));
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(routes.clone()));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return; // the client does not trust the certificate
                };
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let trusting = json!({"jwksUrl": url, "caFile": certificate.ca_file()});
    let harness = Harness::with(config(&issuer, trusting), RARELY);
    harness.wait_until_loaded().await;
    assert_eq!(harness.code(&fresh(&issuer, &key)).await, "ok");

    let harness = Harness::with(config(&issuer, json!({"jwksUrl": url})), RARELY);
    let failed = || harness.count("seckill_api_issuer_key_fetches_total{issuer=\"main\",result=\"failed\"}");
    wait_until("a fetch failed", async || failed() >= 1).await;
    assert_eq!(harness.code(&fresh(&issuer, &key)).await, "issuer_unavailable");
    server.abort();
}

#[tokio::test]
async fn an_unusable_ca_file_is_refused_at_the_start() {
    let refused = |config: IssuerConfig| {
        let metrics = Metrics::register(&mut Registry::default());
        let started = Issuers::start(&[config], RARELY, metrics, &Shutdown::new());
        started.err().expect("refused").to_string()
    };
    let url = "https://login.example";
    for file in ["/missing.pem", "/dev/null"] {
        let error = refused(config_of(url, json!({"caFile": file})));
        assert!(
            error.contains("caFile") && error.contains("expected a PEM file"),
            "{error}"
        );
    }
}
