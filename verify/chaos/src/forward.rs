//! A TCP forwarder with a fixed address in front of a server, like a Service of Kubernetes. The address survives a
//! failover, and a fault can cut all connections.
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone)]
pub struct Forward {
    pub address: SocketAddr,
    /// The server of new connections.
    target: watch::Sender<SocketAddr>,
    /// All connections end when this number changes.
    cuts: watch::Sender<u64>,
}

impl Forward {
    pub async fn to(address: &str, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))
            .await
            .context("failed to bind a port for a forwarder")?;
        let forward = Forward {
            address: listener.local_addr()?,
            target: watch::Sender::new(target),
            cuts: watch::Sender::new(0),
        };
        let (targets, cuts) = (forward.target.subscribe(), forward.cuts.subscribe());
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                let target = *targets.borrow();
                tokio::spawn(forward_connection(client, target, cuts.clone()));
            }
        });
        Ok(forward)
    }

    /// Sends new connections to another server. Existing connections stay where they are.
    pub fn redirect_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Closes all connections, with whatever requests they carry.
    pub fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }
}

/// Forwarders to one server, one for each client whose connections a fault treats apart.
pub struct Forwards<const N: usize>(pub [Forward; N]);

impl<const N: usize> Forwards<N> {
    pub fn redirect_to(&self, target: SocketAddr) {
        self.0.iter().for_each(|forward| forward.redirect_to(target));
    }

    pub fn cut(&self) {
        self.0.iter().for_each(Forward::cut);
    }

    /// Closes the connections of all clients but one.
    pub fn cut_all_but(&self, client: usize) {
        let others = self.0.iter().enumerate().filter(|(i, _)| *i != client);
        others.for_each(|(_, forward)| forward.cut());
    }
}

async fn forward_connection(mut client: TcpStream, target: SocketAddr, mut cuts: watch::Receiver<u64>) {
    cuts.mark_unchanged();
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cuts.changed() => {}
    }
}
