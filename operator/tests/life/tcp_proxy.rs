//! A proxy between an operator and Kafka or MySQL, which the test can close, and whose connections can go half silent.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::{free_address, listen_again};

/// MySQL answers a ping with fewer bytes, and a query with more.
const PING_BYTES: usize = 16;

pub struct TcpProxy {
    pub address: String,
    upstream: String,
    connections: Arc<Connections>,
    listening: Option<JoinHandle<()>>,
}

/// Connections are numbered in the order in which they came.
#[derive(Default)]
struct Connections {
    accepted: AtomicU64,
    open: AtomicU64,
    /// Connections with a lower number are half silent.
    first_alive: AtomicU64,
    /// Half silent connections that swallowed an answer.
    unanswered: AtomicU64,
    /// Milliseconds by which each answer is late.
    delay: AtomicU64,
}

impl TcpProxy {
    /// An address that refuses connections until [`Self::open`].
    pub fn closed(upstream: &str) -> Self {
        TcpProxy {
            address: free_address(),
            upstream: upstream.to_owned(),
            connections: Arc::default(),
            listening: None,
        }
    }

    pub async fn open(&mut self) {
        let listener = listen_again(&self.address).await;
        let (upstream, connections) = (self.upstream.clone(), self.connections.clone());
        self.listening = Some(tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = connections.accepted.fetch_add(1, Ordering::SeqCst);
                let (upstream, connections) = (upstream.clone(), connections.clone());
                running.spawn(async move {
                    if let Ok(server) = TcpStream::connect(&upstream).await {
                        connections.open.fetch_add(1, Ordering::SeqCst);
                        forward(client, server, number, &connections).await;
                        connections.open.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        }));
    }

    /// From now on each answer is late by so much.
    pub fn delay_answers(&self, by: Duration) {
        self.connections.delay.store(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// On all present connections, only answers to pings arrive from now on. New connections work.
    pub fn silence_present_connections(&self) {
        let present = self.connections.accepted.load(Ordering::SeqCst);
        self.connections.first_alive.store(present, Ordering::SeqCst);
    }

    pub fn open_connections(&self) -> u64 {
        self.connections.open.load(Ordering::SeqCst)
    }

    /// Connections on which a query got no answer.
    pub fn unanswered_connections(&self) -> u64 {
        self.connections.unanswered.load(Ordering::SeqCst)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }
}

async fn forward(client: TcpStream, server: TcpStream, number: u64, connections: &Connections) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut swallowed = false;
        loop {
            let length = from_server.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<(), std::io::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(connections.delay.load(Ordering::SeqCst))).await;
            let is_silent = number < connections.first_alive.load(Ordering::SeqCst);
            if length < PING_BYTES || !is_silent {
                to_client.write_all(&buffer[..length]).await?;
            } else if !std::mem::replace(&mut swallowed, true) {
                connections.unanswered.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    // The end of either direction closes both.
    tokio::select! {
        _ = requests => {}
        _ = answers => {}
    }
}
