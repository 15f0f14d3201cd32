//! A proxy between an operator and Kafka or MySQL, which the test can close, and whose connections can go half silent.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::free_address;

/// MySQL answers a ping with fewer bytes, and a query with more.
const PING_BYTES: usize = 16;

pub struct TcpProxy {
    pub address: String,
    upstream: String,
    /// Connections with a lower number are half silent.
    first_alive: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    listening: Option<JoinHandle<()>>,
}

impl TcpProxy {
    /// An address that refuses connections until [`Self::open`].
    pub fn closed(upstream: &str) -> Self {
        TcpProxy {
            address: free_address(),
            upstream: upstream.to_owned(),
            first_alive: Arc::default(),
            connections: Arc::default(),
            listening: None,
        }
    }

    pub async fn open(&mut self) {
        // Another program may use the port for a moment: nothing reserved it.
        let listener = loop {
            match TcpListener::bind(&self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let (upstream, first_alive, connections) = (
            self.upstream.clone(),
            self.first_alive.clone(),
            self.connections.clone(),
        );
        self.listening = Some(tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (upstream, first_alive) = (upstream.clone(), first_alive.clone());
                running.spawn(async move {
                    if let Ok(server) = TcpStream::connect(&upstream).await {
                        forward(client, server, || number < first_alive.load(Ordering::SeqCst)).await;
                    }
                });
            }
        }));
    }

    /// On all present connections, only answers to pings arrive from now on. New connections work.
    pub fn silence_present_connections(&self) {
        let present = self.connections.load(Ordering::SeqCst);
        self.first_alive.store(present, Ordering::SeqCst);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }
}

async fn forward(client: TcpStream, server: TcpStream, is_silent: impl Fn() -> bool) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from_server.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<(), std::io::Error>(());
            }
            if length < PING_BYTES || !is_silent() {
                to_client.write_all(&buffer[..length]).await?;
            }
        }
    };
    // The end of either direction closes both.
    tokio::select! {
        _ = requests => {}
        _ = answers => {}
    }
}
