//! Clients that hold connections, and do not let others through.
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use seckill_api::connection::Deadlines;
use seckill_api::server::ConnectionLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::client::Request;
use crate::harness::*;
use crate::program::Program;

const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(500);
/// Far above the limits of a test, far below the limits that it does not test.
const PATIENCE: Duration = Duration::from_secs(30);

fn limits(head: Duration, idle: Duration, write: Duration) -> ConnectionLimits {
    ConnectionLimits {
        deadlines: Deadlines { head, idle, write },
        ..ConnectionLimits::default()
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("connects")
}

/// A connection that is idle after a request.
async fn idle(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address).await;
    request_again(&mut stream).await;
    stream
}

/// One more request on the same connection.
async fn request_again(stream: &mut TcpStream) {
    let request = b"GET /v2 HTTP/1.1\r\nHost: seckill\r\n\r\n";
    stream.write_all(request).await.expect("the connection is open");
    read_not_found(stream).await;
}

async fn read_not_found(stream: &mut TcpStream) {
    let mut response = Vec::new();
    while !response.ends_with(b"}") {
        let mut buffer = [0; 4096];
        let bytes = stream.read(&mut buffer).await.expect("the connection is open");
        assert!(bytes > 0, "closed after {}", String::from_utf8_lossy(&response));
        response.extend_from_slice(&buffer[..bytes]);
    }
    assert!(response.starts_with(b"HTTP/1.1 404"));
}

/// Sends a byte of a head from time to time, until the server closes the connection.
async fn drip(mut stream: TcpStream) {
    let dripping = async {
        let mut buffer = [0; 1024];
        for byte in b"GET /v1/sales HTTP/1.1\r\nX-Drip: "
            .iter()
            .chain(std::iter::repeat(&b'x'))
        {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            let read = timeout(Duration::from_millis(50), stream.read(&mut buffer)).await;
            if matches!(read, Ok(Ok(0) | Err(_))) {
                return;
            }
        }
    };
    timeout(PATIENCE, dripping)
        .await
        .expect("the server closes the connection");
}

#[tokio::test]
async fn slow_heads_are_cut_off_and_idle_connections_stay() {
    let harness = Harness::with_connection_limits(limits(SHORT, HOUR, HOUR)).await;
    let mut kept = idle(harness.v1).await;
    let silent = async {
        let mut silent = connect(harness.v1).await;
        let closed = timeout(PATIENCE, silent.read(&mut [0; 16])).await;
        assert!(matches!(closed, Ok(Ok(0))), "{closed:?}");
    };
    let on_a_used_connection = async { drip(idle(harness.v1).await).await };
    let on_a_new_connection = async { drip(connect(harness.v1).await).await };
    tokio::join!(silent, on_a_used_connection, on_a_new_connection);
    // It was idle for longer than those were slow.
    request_again(&mut kept).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let harness = Harness::with_connection_limits(limits(HOUR, SHORT, HOUR)).await;
    let mut stream = idle(harness.v1).await;
    request_again(&mut stream).await;
    let closed = timeout(PATIENCE, stream.read(&mut [0; 16])).await;
    assert!(matches!(closed, Ok(Ok(0))), "{closed:?}");
}

/// A proxy sends the body in a packet of its own, and would send the next request on a connection that is being closed.
#[tokio::test]
async fn a_refusal_leaves_the_connection_open_when_the_body_comes_after_the_head() {
    let harness = Harness::start().await;
    let mut stream = connect(harness.v1).await;
    for _ in 0..3 {
        let head = "POST /v1/sales/shop/unknown/orders HTTP/1.1\r\nHost: seckill\r\nContent-Length: 14\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("the connection is open");
        // The refusal does not depend on the body.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream
            .write_all(br#"{"quantity":1}"#)
            .await
            .expect("the connection is open");
        read_not_found(&mut stream).await;
    }
    request_again(&mut stream).await;
}

#[tokio::test]
async fn a_connection_with_an_unread_body_is_announced_as_closed() {
    let harness = Harness::start().await;
    let body = "x".repeat(16 * 1024 + 1);
    let length = body.len();
    let mut stream = connect(harness.v1).await;
    let request = format!("POST /v2 HTTP/1.1\r\nHost: seckill\r\nContent-Length: {length}\r\n\r\n{body}");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the connection is open");
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("the server closes the connection").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let harness = Harness::with_connection_limits(limits(HOUR, HOUR, SHORT)).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(harness.v1).await.expect("connects");
    let requests = "GET /v2 HTTP/1.1\r\nHost: seckill\r\n\r\n".repeat(1000);
    let never_reads = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, never_reads)
        .await
        .expect("the server closes the connection");
    eventually("its place is free", async || harness.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn waiting_connections_make_room_for_buyers() {
    let limits = ConnectionLimits {
        max_connections: 20,
        ..limits(HOUR, HOUR, HOUR)
    };
    let harness = Harness::with_connection_limits(limits).await;
    let sale = harness.sell(30, open()).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(idle(harness.v1).await);
        held.push(connect(harness.v1).await);
        let mut begun = connect(harness.v1).await;
        begun
            .write_all(b"GET /v1/sales HTTP/1.1\r\nX-Drip")
            .await
            .expect("open");
        held.push(begun);
    }
    held.extend([idle(harness.v1).await, idle(harness.v1).await]);
    assert_eq!(harness.metrics.connections.get(), 20);
    let keys: Vec<String> = (0..30).map(|_| key()).collect();
    let buyers = join_all(keys.iter().map(|key| harness.buy(&sale, key)));
    for answer in timeout(PATIENCE, buyers).await.expect("there is room") {
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_leave_open_files_for_probes_and_buyers() {
    const CONNECTIONS: usize = 3_000;
    seckill_service::open_files::raise_limit();
    let harness = Harness::start().await;
    let sale = harness.sell(9, open()).await;
    // The first limit can be raised; the second can't.
    for limits in ["1024:", "1024:1024"] {
        let program = Program::start_with_open_files(&harness.mysql_url, &harness.topic, limits);
        program.wait_for_readiness(|response| response.status == 200).await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(connect(program.v1).await);
        }
        for _ in 0..3 {
            let probe = timeout(PATIENCE, Request::get("/readyz").send(program.admin)).await;
            assert_eq!(
                probe.expect("in time").map(|answer| answer.status),
                Some(200),
                "{limits}"
            );
            let bought = timeout(PATIENCE, purchase(&sale, &key(), 1).send(program.v1)).await;
            assert_eq!(
                bought.expect("in time").map(|answer| answer.status),
                Some(201),
                "{limits}"
            );
        }
        drop(held);
    }
}

#[tokio::test]
async fn a_request_in_progress_keeps_its_connection() {
    let limits = ConnectionLimits {
        max_connections: 1,
        ..limits(HOUR, HOUR, HOUR)
    };
    let harness = Harness::with_connection_limits(limits).await;
    let sale = harness.sell(3, open()).await;
    let headers = [
        "Content-Type: application/json",
        &key_header(&key()),
        "Content-Length: 14",
    ];
    let without_body = Request::new(format!("POST {}/orders", path(&sale)), &headers, "");
    let second = async {
        eventually("it is in progress", async || harness.metrics.in_flight.get() == 1).await;
        harness.buy(&sale, &key()).await
    };
    let (first, second) = tokio::join!(harness.send(without_body), second);
    first.is(408, "body_timeout");
    assert_eq!(second.status, 201, "{second:?}");
}

#[tokio::test]
async fn one_address_has_a_limited_number_of_connections() {
    let limits = ConnectionLimits {
        max_per_address: 3,
        ..limits(HOUR, HOUR, HOUR)
    };
    let harness = Harness::with_connection_limits(limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(idle(harness.v1).await);
    }
    let refused = Request::get("/v1/sales").send(harness.v1).await;
    assert_eq!(refused, None);
    held.pop();
    eventually("its place is free", async || harness.metrics.connections.get() == 2).await;
    assert_eq!(harness.get("/v1/sales").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_on_hundreds_of_connections_hinders_nobody() {
    let harness = Harness::start().await;
    let program = Program::start(&harness.mysql_url, &harness.topic);
    program.wait_for_readiness(|response| response.status == 200).await;
    // The first request waits for a new index, and the others wait for the first.
    let stuck = harness.sell(5, open()).await;
    let other = harness.sell(5, open()).await;
    harness.barrier(&stuck).await;
    let same_purchase = purchase(&stuck, &key(), 1);
    let crowd = join_all((0..300).map(|_| same_purchase.send(program.v1)));
    let others = async {
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(connect(program.v1).await);
        }
        for _ in 0..3 {
            let bought = purchase(&other, &key(), 1).send(program.v1).await.expect("an answer");
            assert_eq!(bought.status, 201, "{bought:?}");
            let probe = Request::get("/readyz").send(program.admin).await.expect("an answer");
            assert_eq!(probe.status, 200);
        }
    };
    let (crowd, ()) = tokio::join!(crowd, others);
    let crowd: Vec<_> = crowd.into_iter().map(|answer| answer.expect("an answer")).collect();
    let refused = crowd.iter().filter(|answer| answer.code() == "overloaded");
    assert!(refused.clone().count() >= 200, "{}", refused.count());
    assert!(refused.clone().all(|answer| answer.headers.contains_key("retry-after")));
}
