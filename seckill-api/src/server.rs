//! HTTP/1.1 on a socket, with limits on what a client can hold.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use seckill_service::Shutdown;
use seckill_service::config::without_ipv6;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use crate::client_address::Peer;
use crate::connection::{Deadlines, HeadTimer, TimedStream};
use crate::connections::Connections;
use crate::limits::{DRAIN, HEADER_READ_TIMEOUT, IDLE_TIMEOUT, MAX_CONNECTIONS, MAX_HEADER_BYTES, WRITE_TIMEOUT};
use crate::metrics::Metrics;

/// Connections that the kernel accepts before this process does. The kernel drops a connection beyond the backlog, and
/// its client retries only after a second. The kernel has its own limit, net.core.somaxconn, usually 4096.
const BACKLOG: u32 = 16_384;
/// Time limit for the last answers; more than [`REQUEST_TIMEOUT`](crate::limits::REQUEST_TIMEOUT).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);
/// Wait after a failed accept, which mostly means that the process has no free file descriptor.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Open files for everything but the connections of buyers: MySQL, Redis, Kafka, probes, the runtime.
const RESERVED_FILES: usize = 256;

/// What clients can hold.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub max_connections: usize,
    /// 0: unlimited
    pub max_per_address: usize,
    pub deadlines: Deadlines,
    /// After SIGTERM requests still arrive, until every proxy knows that this process is not ready.
    pub drain: Duration,
}

impl ConnectionLimits {
    /// Lowered so that all connections of all listeners have an open file, and enough are left for the servers behind this
    /// process and for its probes.
    pub fn within_open_files(mut self, limit: u64, listeners: usize) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let left = limit.saturating_sub(RESERVED_FILES).max(limit / 2);
        let fit = (left / listeners.max(1)).max(1);
        if fit < self.max_connections {
            tracing::warn!(
                open_files = limit,
                wanted = self.max_connections,
                max_connections = fit,
                "the limit of open files allows fewer connections; raise the hard limit"
            );
            self.max_connections = fit;
        }
        self
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            max_connections: MAX_CONNECTIONS,
            max_per_address: 0,
            deadlines: Deadlines {
                head: HEADER_READ_TIMEOUT,
                idle: IDLE_TIMEOUT,
                write: WRITE_TIMEOUT,
            },
            drain: DRAIN,
        }
    }
}

/// Like `TcpListener::bind`, but with a longer backlog: a crowd overflows the 128 of `bind`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_on(address).or_else(|error| match without_ipv6(address, &error) {
        Some(address) => listen_on(address),
        None => Err(error),
    })
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Without this the port of a process that has just ended is not available for a while.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until shutdown. Returns when the last request is answered.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) {
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(limits.max_connections, limits.max_per_address, metrics);
    let closed = async {
        shutdown.cancelled().await;
        sleep(limits.drain).await;
    };
    tokio::pin!(closed);
    loop {
        let accepted = async {
            let place = connections.free_place().await;
            (place, listener.accept().await)
        };
        let (place, stream, peer) = tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, peer)) => (place, stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    connections.reclaim();
                    sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            },
            () = &mut closed => break,
        };
        let Some(open) = connections.open(place, peer.ip()) else {
            continue; // closed without an answer, which costs least
        };
        disable_nagle(&stream);
        let activity = open.activity();
        let mut http = http1::Builder::new();
        // The timer has its own time limits. Without this one, hyper would not start it.
        http.timer(HeadTimer::new(activity.clone(), limits.deadlines))
            .header_read_timeout(limits.deadlines.head)
            .max_buf_size(MAX_HEADER_BYTES);
        let stream = TimedStream::new(stream, activity, limits.deadlines);
        let service = TowerToHyperService::new(routes.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            request
        }));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        open.run(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection failed");
            }
        });
    }
    drop(listener);
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("drain timed out with requests unanswered");
    }
}

/// Nagle's algorithm would delay a small answer until the client has acknowledged the previous one.
fn disable_nagle(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "failed to set TCP_NODELAY");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use axum::Extension;
    use axum::routing::get;
    use seckill_service::metrics::registry::Registry;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn connections_leave_open_files_for_servers_and_probes() {
        let fit = |limit, listeners| {
            let limits = ConnectionLimits::default().within_open_files(limit, listeners);
            limits.max_connections
        };
        assert_eq!(
            (fit(u64::MAX, 2), fit(1_048_576, 1)),
            (MAX_CONNECTIONS, MAX_CONNECTIONS)
        );
        assert_eq!((fit(1_024, 1), fit(1_024, 2)), (768, 384));
        assert_eq!((fit(100, 1), fit(1, 1)), (50, 1));
    }

    #[tokio::test]
    async fn a_request_has_the_address_of_its_peer() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let echo = async |Extension(Peer(address)): Extension<Peer>| address.to_string();
        let metrics = Metrics::register(&mut Registry::default());
        let routes = Router::new().route("/", get(echo));
        tokio::spawn(serve(
            listener,
            routes,
            ConnectionLimits::default(),
            metrics,
            Shutdown::new(),
        ));
        let mut stream = super::TcpStream::connect(address).await.unwrap();
        let request = "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nx-forwarded-for: 203.0.113.9\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\n127.0.0.1"), "{answer}");
    }

    #[tokio::test]
    async fn a_crowd_is_not_dropped_before_it_is_accepted() {
        let bound = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
        let crowd = bound.trim().parse().map_or(500, |bound: usize| bound.min(500));
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        // Less than the second after which the kernel retries a dropped connection.
        let connect = move |_| TcpStream::connect_timeout(&address, Duration::from_millis(900));
        let connected = std::thread::spawn(move || (0..crowd).map(connect).collect::<io::Result<Vec<_>>>());
        assert_eq!(connected.join().unwrap().expect("all connect").len(), crowd);
    }
}
