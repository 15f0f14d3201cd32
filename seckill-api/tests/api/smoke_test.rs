//! The command `smoke-test`, on a real API.
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::harness::*;

/// Whether it succeeded, and what it said.
async fn smoke_test(api: SocketAddr, more: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seckill-api"));
    let command = command
        .args(["smoke-test", "--url", &format!("http://{api}")])
        .args(more);
    let output = command.env_clear().kill_on_drop(true).output().await.expect("runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

#[tokio::test]
async fn without_a_sale_it_buys_nothing() {
    let harness = Harness::start().await;
    let sale = harness.sell(1, open()).await;
    let (succeeded, said) = harness.while_storing(smoke_test(harness.v1, &[])).await;
    assert!(succeeded, "{said}");
    assert!(
        said.contains("200, 1 sales") && said.contains("404 sale_unknown"),
        "{said}"
    );
    assert_eq!(harness.buy(&sale, &key()).await.status, 201);
}

#[tokio::test]
async fn with_a_sale_it_buys_looks_up_and_cancels() {
    let harness = Harness::start().await;
    let sale = harness.sell(1, open()).await;
    let name = format!("{}/{}", sale.namespace, sale.name);
    let args = ["--sale", &name];
    let (succeeded, said) = harness.while_storing(smoke_test(harness.v1, &args)).await;
    assert!(succeeded, "{said}");
    let number = said
        .split("order ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .expect("a number");
    let order = harness.get(&format!("/v1/orders/{number}")).await;
    assert_eq!(
        (order.status, &order.body["status"]),
        (200, &"cancelled".into()),
        "{said}"
    );
}

#[tokio::test]
async fn a_refused_purchase_fails_it_with_an_advice() {
    let (harness, issuer) = Harness::with_issuer().await;
    let sold_out = harness.sell(1, open()).await;
    assert_eq!(harness.buy(&sold_out, &key()).await.status, 201);
    for (sale, code, advice) in [
        (harness.sell(1, over()).await, "ended", "Take a sale that is open."),
        (
            harness.sell(1, not_open_yet()).await,
            "not_started",
            "Try again after its start",
        ),
        (sold_out, "sold_out", "Raise spec.stock"),
        (
            harness.sell_to(issuer.name(), 1, open()).await,
            "token_missing",
            "Take a sale without spec.access",
        ),
    ] {
        let name = format!("{}/{}", sale.namespace, sale.name);
        let (succeeded, said) = harness.while_storing(smoke_test(harness.v1, &["--sale", &name])).await;
        assert!(
            !succeeded && said.contains(code) && said.contains(advice),
            "{code}: {said}"
        );
    }
    let (succeeded, said) = harness
        .while_storing(smoke_test(harness.v1, &["--sale", "shop/none"]))
        .await;
    assert!(!succeeded && said.contains("Check its namespace and name"), "{said}");
}

/// An order that nobody stores is cancelled too, and the test fails.
#[tokio::test]
async fn an_order_that_is_not_stored_fails_it() {
    let harness = Harness::start().await;
    let sale = harness.sell(1, open()).await;
    let name = format!("{}/{}", sale.namespace, sale.name);
    // While the ledger is behind the log, no sale is unknown.
    harness.store().await;
    let (succeeded, said) = smoke_test(harness.v1, &["--sale", &name, "--timeout-seconds", "3"]).await;
    assert!(!succeeded && said.contains("was not stored in MySQL"), "{said}");
    assert!(said.contains("look at the log of order-worker"), "{said}");
}

#[tokio::test]
async fn an_api_that_does_not_answer_fails_it() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = unused.local_addr().expect("bound");
    drop(unused);
    let (succeeded, said) = smoke_test(address, &["--timeout-seconds", "1"]).await;
    assert!(!succeeded && said.contains("no final answer within 1 s"), "{said}");
    assert!(said.contains("check that the pods of the API are ready"), "{said}");
}

#[tokio::test]
async fn an_address_that_leads_to_another_program_fails_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let served = tokio::spawn(async move {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        }
    });
    let (succeeded, said) = smoke_test(address, &[]).await;
    served.abort();
    assert!(!succeeded && said.contains("lead to seckill-api?"), "{said}");
}
