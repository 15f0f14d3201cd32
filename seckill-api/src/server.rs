//! HTTP/1.1 on a socket, with bounds on what a client can hold.
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use seckill_service::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// A request line and headers beyond this are answered 431.
const MAX_HEADERS: usize = 16 * 1024;
/// Also how long a connection may be idle: longer than a proxy keeps one, so that it is the proxy that closes.
const HEADERS_WITHIN: Duration = Duration::from_secs(75);
const MAX_CONNECTIONS: usize = 20_000;
/// After SIGTERM requests still come until every proxy has heard that this process is not ready.
const UNREADY_BEFORE_CLOSING: Duration = Duration::from_secs(3);
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(12);

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
