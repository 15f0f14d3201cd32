//! A TCP proxy that can stop to forward, as a network does that loses all packets, and cut its connections.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    /// The URL of the server through the proxy.
    pub url: String,
    paused: watch::Sender<bool>,
    /// Changes when the connections are cut.
    cuts: watch::Sender<()>,
    /// Pieces of data that arrived while the proxy did not forward.
    held: Arc<AtomicU64>,
}

impl Proxy {
    /// A proxy to the host and port of the URL.
    pub async fn start(url: &str) -> Proxy {
        let mut url = url::Url::parse(url).expect("a URL");
        let host = url.host_str().expect("a host").to_owned();
        let port = url.port().expect("a port");
        let server = tokio::net::lookup_host((host.as_str(), port)).await;
        let server = server.expect("resolves").next().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("bound");
        url.set_ip_host(address.ip()).expect("a host");
        url.set_port(Some(address.port())).expect("a port");
        let paused = watch::Sender::new(false);
        let held = Arc::new(AtomicU64::new(0));
        let cuts = watch::Sender::new(());
        let (pauses, cut, holding) = (paused.subscribe(), cuts.subscribe(), held.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (pauses, mut cut, holding) = (pauses.clone(), cut.clone(), holding.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.expect("the server listens");
                    tokio::select! {
                        // First, or what was held would be forwarded if the proxy goes on at the same time.
                        biased;
                        _ = cut.changed() => {}
                        () = forward(client, server, pauses, holding) => {}
                    }
                });
            }
        });
        Proxy {
            url: url.to_string(),
            paused,
            cuts,
            held,
        }
    }

    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Ends all connections. What the proxy holds back is lost.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }

    pub fn resume(&self) {
        self.paused.send_replace(false);
    }
}

async fn forward(client: TcpStream, server: TcpStream, pauses: watch::Receiver<bool>, held: Arc<AtomicU64>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let held = &held;
    let copy = |mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut pauses: watch::Receiver<bool>| async move {
        let mut buffer = vec![0; 64 * 1024];
        let mut pending = Vec::new();
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(bytes @ 1..) => {
                        pending.extend_from_slice(&buffer[..bytes]);
                        held.fetch_add(u64::from(*pauses.borrow()), Ordering::Relaxed);
                    }
                    _ => return,
                },
                // It fails when the test ends.
                forwards = async { pauses.wait_for(|paused| !paused).await.is_ok() }, if !pending.is_empty() => {
                    if !forwards || to.write_all(&pending).await.is_err() {
                        return;
                    }
                    pending.clear();
                }
            }
        }
    };
    // One side that ends closes the other.
    tokio::select! {
        () = copy(from_client, to_server, pauses.clone()) => {}
        () = copy(from_server, to_client, pauses) => {}
    }
}
