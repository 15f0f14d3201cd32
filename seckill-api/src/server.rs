//! HTTP/1.1 on a socket, with bounds on what a client can hold.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use seckill_service::Shutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// A request line and headers beyond this are answered 431.
const MAX_HEADERS: usize = 16 * 1024;
/// Also how long a connection may be idle: longer than a proxy keeps one, so that it is the proxy that closes.
const HEADERS_WITHIN: Duration = Duration::from_secs(75);
const MAX_CONNECTIONS: usize = 20_000;
/// Connections that the kernel makes before this process takes them. One too many is dropped, and its client tries again
/// only after a second. The kernel has a bound of its own, net.core.somaxconn: mostly 4096.
const BACKLOG: u32 = 16_384;
/// After SIGTERM requests still come until every proxy has heard that this process is not ready.
const UNREADY_BEFORE_CLOSING: Duration = Duration::from_secs(3);
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(12);

/// As `TcpListener::bind`, whose backlog of 128 a crowd overflows.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // The port of a process that has just ended can be had at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until the process is told to end; returns when the last request is answered.
pub async fn serve(listener: TcpListener, routes: Router, shutdown: Shutdown) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_HEADERS);
    let ended = async {
        shutdown.cancelled().await;
        sleep(UNREADY_BEFORE_CLOSING).await;
    };
    tokio::pin!(ended);
    loop {
        // Beyond the bound connections wait in the kernel's queue.
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => (place, stream),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    sleep(Duration::from_millis(100)).await; // out of file descriptors, most likely
                    continue;
                }
            },
            () = &mut ended => break,
        };
        without_delay(&stream);
        let service = TowerToHyperService::new(routes.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    if timeout(LAST_ANSWERS_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not answered before the end");
    }
}

/// Nagle's algorithm would hold a small answer back until the client has acknowledged the one before it.
fn without_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection without TCP_NODELAY");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_crowd_that_connects_before_it_is_accepted_is_not_dropped() {
        let bound = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
        let crowd = bound.trim().parse().map_or(500, |bound: usize| bound.min(500));
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        // Less than the second after which a dropped one is tried again.
        let connect = move |_| TcpStream::connect_timeout(&address, Duration::from_millis(900));
        let connected = std::thread::spawn(move || (0..crowd).map(connect).collect::<io::Result<Vec<_>>>());
        assert_eq!(connected.join().unwrap().expect("all of them").len(), crowd);
    }
}
