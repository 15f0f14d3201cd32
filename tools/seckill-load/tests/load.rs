//! Runs against a small server in this process, on loopback.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use seckill_load::{Arrival, Outcome, Plan, Route, Target, check, run};
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
        }
    }

    fn failing(self, faults: u32, fault: Fault) -> Self {
        Server { faults, fault, ..self }
    }

    /// The answer, or None to close the connection.
    fn answer(&self, request: &Request<Incoming>) -> Option<(u16, String)> {
        if request.method() == http::Method::GET {
            let number = request.uri().path().rsplit('/').next().unwrap_or_default();
            return Some((200, format!(r#"{{"order_no":"{number}","status":"placed"}}"#)));
        }
        let faulty = self.requests.fetch_add(1, Ordering::SeqCst) < self.faults;
        if let (true, Fault::Answer(status)) = (faulty, self.fault) {
            return Some((status, String::new()));
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
                let response = Response::builder().status(status).body(Full::<Bytes>::from(body));
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
