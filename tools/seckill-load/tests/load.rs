//! Runs against a small server in this process, on loopback.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use seckill_load::{Arrival, Crowd, CrowdPlan, Outcome, Plan, Route, SaleTimes, Target, Tier, check, run};
use seckill_test_issuer::Key;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[path = "../../../seckill-api/tests/identity/certificate.rs"]
mod certificate;

use certificate::Certificate;

/// A sale of `units`. The first `faults` requests fail with `fault`.
struct Server {
    units: u32,
    requests: AtomicU32,
    faults: u32,
    fault: Fault,
    sold: Mutex<Vec<String>>,
    access: Option<Access>,
    /// It sells before that too.
    starts_at: Timestamp,
}

/// Buyers need a token, and each can have so many orders.
struct Access {
    key: Key,
    limit: u32,
    /// Subject -> orders.
    orders: Mutex<HashMap<String, u32>>,
}

impl Access {
    /// The subject of a valid token.
    fn subject(&self, request: &Request<Incoming>) -> Option<String> {
        let token = request
            .headers()
            .get("authorization")?
            .to_str()
            .ok()?
            .strip_prefix("Bearer ")?;
        let (message, signature) = token.rsplit_once('.')?;
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public())
            .verify(message.as_bytes(), &decoded(signature)?)
            .ok()?;
        let claims: Value = serde_json::from_slice(&decoded(message.split_once('.')?.1)?).ok()?;
        let valid = claims["iss"] == ISSUER
            && claims["aud"] == AUDIENCE
            && claims["exp"].as_i64()? > Timestamp::now().as_second();
        valid.then(|| claims["sub"].as_str().map(str::to_owned))?
    }

    /// Counts one more order of the buyer, unless the buyer has as many as allowed.
    fn admits(&self, subject: String) -> bool {
        let mut orders = self.orders.lock().expect("not poisoned");
        let orders = orders.entry(subject).or_default();
        *orders += 1;
        *orders <= self.limit
    }
}

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "shop";

/// The tokens of so many people, of whom one half has the tier `gold`, which opens two hours before the start.
fn signed(key: &Key, people: u32) -> Crowd {
    let plan = CrowdPlan {
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        people,
        tiers: vec![Tier {
            name: "gold".into(),
            share: 0.5,
            opens_before: Duration::from_secs(7200),
            limit: None,
        }],
        tier_claim: "tier".into(),
        lasting: Duration::from_secs(1),
    };
    Crowd::sign(key, plan)
}

#[derive(Clone, Copy)]
enum Fault {
    Answer(u16),
    /// The purchase succeeds, and the connection closes without an answer.
    Disconnect,
}

impl Server {
    fn selling(units: u32) -> Self {
        Server {
            units,
            requests: AtomicU32::new(0),
            faults: 0,
            fault: Fault::Answer(503),
            sold: Mutex::default(),
            access: None,
            starts_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn to(self, key: &Key, limit: u32) -> Self {
        let access = Access {
            key: key.clone(),
            limit,
            orders: Mutex::default(),
        };
        Server {
            access: Some(access),
            ..self
        }
    }

    fn starting_in(self, time: Duration) -> Self {
        let starts_at = Timestamp::now() + time;
        Server { starts_at, ..self }
    }

    fn failing(self, faults: u32, fault: Fault) -> Self {
        Server { faults, fault, ..self }
    }

    /// The answer, or None to close the connection.
    fn answer(&self, request: &Request<Incoming>) -> Option<(u16, String)> {
        if request.method() == http::Method::GET && request.uri().path().starts_with("/v1/sales/") {
            return Some((200, format!(r#"{{"starts_at":"{}"}}"#, self.starts_at)));
        }
        let subject = match &self.access {
            Some(access) => match access.subject(request) {
                Some(subject) => Some(subject),
                None => return Some((401, r#"{"code":"token_malformed"}"#.into())),
            },
            None => None,
        };
        if request.method() == http::Method::GET {
            let number = request.uri().path().rsplit('/').next().unwrap_or_default();
            return Some((200, format!(r#"{{"order_no":"{number}","status":"placed"}}"#)));
        }
        let faulty = self.requests.fetch_add(1, Ordering::SeqCst) < self.faults;
        if let (true, Fault::Answer(status)) = (faulty, self.fault) {
            return Some((status, String::new()));
        }
        if let (Some(access), Some(subject)) = (&self.access, subject)
            && !access.admits(subject)
        {
            return Some((409, r#"{"code":"limit_reached"}"#.into()));
        }
        let key = request.headers()["idempotency-key"].to_str().expect("text").to_string();
        let mut sold = self.sold.lock().expect("not poisoned");
        let at = sold.iter().position(|k| *k == key).or_else(|| {
            sold.push(key);
            (sold.len() as u32 <= self.units).then(|| sold.len() - 1)
        });
        match at {
            _ if faulty => None,
            Some(at) => Some((201, format!(r#"{{"order_no":"1N{at}"}}"#))),
            None => Some((409, r#"{"code":"sold_out"}"#.into())),
        }
    }

    async fn start(self) -> Target {
        let address = self.listen(None).await;
        Target::resolve(&format!("http://{address}"), &[]).await.expect("valid")
    }

    /// Serves HTTP, or HTTPS with the acceptor.
    async fn listen(self, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = Arc::new(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (Arc::clone(&server), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        // A client that does not trust the certificate ends the handshake.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        address
    }

    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(move |request| {
            let answer = self.answer(&request);
            async move {
                let (status, body) = answer.ok_or_else(|| std::io::Error::other("disconnected"))?;
                let status = StatusCode::from_u16(status).expect("valid");
                let response = Response::builder()
                    .status(status)
                    .header("server-time", Timestamp::now().to_string())
                    .body(Full::<Bytes>::from(body));
                Ok::<_, std::io::Error>(response.expect("valid"))
            }
        });
        _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }
}

fn plan(target: Target, buyers: u32) -> Plan {
    Plan {
        target,
        route: Route::v1("shop/phones", 1).expect("valid"),
        buyers,
        arrival: Arrival::Uniform(Duration::from_millis(200)),
        in_flight: 20,
        attempts: 8,
        timeout: Duration::from_secs(10),
        tokens: Arc::default(),
    }
}

async fn outcome(plan: Plan) -> Outcome {
    run(plan, |_| ()).await.expect("the plan is valid")
}

#[tokio::test]
async fn every_buyer_is_answered_and_every_unit_is_sold() {
    let plan = plan(Server::selling(50).start().await, 300);
    let outcome = outcome(plan.clone()).await;
    assert_eq!(
        (outcome.counts.won, outcome.counts.sold_out, outcome.answered),
        (50, 250, 300)
    );
    assert!(outcome.peak_in_flight <= 20 && outcome.connections <= 20, "{outcome:?}");
    assert!(check::answers(&plan, &outcome, Some(50)).iter().all(|c| c.passed));
    assert!(check::orders(&plan, &outcome, 1000).await.passed);
}

#[tokio::test]
async fn buyers_buy_by_https_with_a_private_ca() {
    let certificate = Certificate::of("shop.example");
    let address = Server::selling(10).listen(Some(certificate.acceptor())).await;
    let host = ["Host: shop.example".to_string()];
    let target = Target::resolve_with_ca(&format!("https://{address}"), &host, Some(&certificate.ca_file()))
        .await
        .expect("valid");
    target.check_certificate().await.expect("trusted");
    let outcome = outcome(plan(target, 30)).await;
    assert_eq!((outcome.counts.won, outcome.counts.sold_out), (10, 20), "{outcome:?}");
    assert!(outcome.connections <= 20, "{outcome:?}");
}

#[tokio::test]
async fn a_signed_crowd_buys_by_https_within_its_limit() {
    let (certificate, key) = (Certificate::of("shop.example"), Key::ec("a"));
    let server = Server::selling(100).to(&key, 2);
    let address = server.listen(Some(certificate.acceptor())).await;
    let host = ["Host: shop.example".to_string()];
    let target = Target::resolve_with_ca(&format!("https://{address}"), &host, Some(&certificate.ca_file()))
        .await
        .expect("valid");
    let crowd = signed(&key, 20);
    let plan = Plan {
        tokens: crowd.tokens(),
        ..plan(target, 60)
    };
    let times = SaleTimes::read(&plan).await.expect("the sale");
    let outcome = outcome(plan.clone()).await;
    assert_eq!(
        (outcome.counts.won, outcome.counts.limit_reached),
        (40, 20),
        "{outcome:?}"
    );
    let checks = check::crowd(&plan, &outcome, &crowd, &times, Some(2));
    assert!(checks.iter().all(|check| check.passed), "{checks:?}");
    // The orders of a buyer can be looked up with the token of the buyer only.
    assert!(check::orders(&plan, &outcome, 1000).await.passed);
    let anonymous = Plan {
        tokens: Arc::default(),
        ..plan
    };
    assert!(!check::orders(&anonymous, &outcome, 1).await.passed);
}

#[tokio::test]
async fn more_units_than_the_limit_and_orders_before_the_opening_fail_the_check() {
    let key = Key::ec("a");
    let server = Server::selling(100).to(&key, 2).starting_in(Duration::from_secs(3600));
    let crowd = signed(&key, 20);
    let plan = Plan {
        tokens: crowd.tokens(),
        ..plan(server.start().await, 60)
    };
    let times = SaleTimes::read(&plan).await.expect("the sale");
    let outcome = outcome(plan.clone()).await;
    let checks = check::crowd(&plan, &outcome, &crowd, &times, Some(1));
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| &check.what)
        .collect();
    assert_eq!(failed.len(), 2, "{checks:?}");
    // The sale had opened for gold.
    assert!(failed[0].contains("40 orders, 20 too early"), "{failed:?}");
    assert!(
        failed[1].contains("at most 2 units each, 20 above the limit"),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_run_does_not_start_without_the_times_of_the_sale() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let target = Target::resolve(&format!("http://{address}"), &[]).await.expect("valid");
    let error = SaleTimes::read(&plan(target, 1))
        .await
        .expect_err("no server")
        .to_string();
    assert!(error.contains("/v1/sales/shop/phones"), "{error}");
}

#[tokio::test]
async fn an_untrusted_certificate_is_reported_before_the_run() {
    let (certificate, other) = (Certificate::of("shop.example"), Certificate::of("shop.example"));
    let address = Server::selling(10).listen(Some(certificate.acceptor())).await;
    let url = format!("https://{address}");
    let right_name = ["Host: shop.example".to_string()];
    for (headers, ca) in [(&right_name[..], &other), (&[], &certificate)] {
        let target = Target::resolve_with_ca(&url, headers, Some(&ca.ca_file()))
            .await
            .expect("valid");
        let error = target.check_certificate().await.expect_err("not trusted").to_string();
        assert!(error.contains("--ca-file") && error.contains(&url), "{error}");
    }
}

#[tokio::test]
async fn selling_more_than_the_stock_fails_the_check() {
    let plan = plan(Server::selling(60).start().await, 100);
    let outcome = outcome(plan.clone()).await;
    let failed: Vec<_> = check::answers(&plan, &outcome, Some(50))
        .into_iter()
        .filter(|c| !c.passed)
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].what.contains("60 of 50"), "{failed:?}");
}

#[tokio::test]
async fn an_overloaded_server_gets_retries_until_it_answers() {
    let outcome = outcome(plan(
        Server::selling(10).failing(15, Fault::Answer(503)).start().await,
        30,
    ))
    .await;
    assert_eq!((outcome.counts.won, outcome.counts.sold_out), (10, 20));
    assert!(outcome.retries >= 15, "{outcome:?}");
    assert!(outcome.latency.from_schedule.max_ms > outcome.latency.from_send.max_ms);
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_buys_once() {
    let outcome = outcome(plan(
        Server::selling(10).failing(5, Fault::Disconnect).start().await,
        10,
    ))
    .await;
    assert_eq!((outcome.counts.won, outcome.answered), (10, 10), "{outcome:?}");
}

#[tokio::test]
async fn a_buyer_who_gives_up_is_unanswered_with_a_reason() {
    let plan = Plan {
        attempts: 2,
        ..plan(Server::selling(1).failing(1000, Fault::Answer(202)).start().await, 3)
    };
    let outcome = outcome(plan.clone()).await;
    assert_eq!((outcome.counts.unanswered, outcome.answered), (3, 0));
    assert!(outcome.samples.iter().any(|s| s.said.starts_with("202")), "{outcome:?}");
    assert!(!check::answers(&plan, &outcome, None)[0].passed);
}

#[tokio::test]
async fn without_a_server_all_buyers_are_unanswered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let target = Target::resolve(&format!("http://{address}"), &[]).await.expect("valid");
    let outcome = outcome(Plan {
        attempts: 2,
        ..plan(target, 3)
    })
    .await;
    assert_eq!(outcome.counts.unanswered, 3);
    assert!(outcome.samples[0].said.contains("no connection"), "{outcome:?}");
}

#[tokio::test]
async fn the_progress_ends_with_every_buyer_finished() {
    let mut seen = Vec::new();
    let target = Server::selling(5).start().await;
    run(plan(target, 20), |p| seen.push((p.arrived, p.counts.finished())))
        .await
        .expect("the plan is valid");
    assert_eq!(seen.last(), Some(&(20, 20)));
    assert!(seen.is_sorted());
}
