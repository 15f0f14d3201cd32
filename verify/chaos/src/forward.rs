//! One address in front of a server, as a Service of Kubernetes is: it survives a failover, and its connections can be
//! cut.
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone)]
pub struct Forward {
    pub address: SocketAddr,
    /// Where new connections go.
    target: watch::Sender<SocketAddr>,
    /// All connections end when this changes.
    cut: watch::Sender<u64>,
}

impl Forward {
    pub async fn to(address: &str, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))
            .await
            .context("a port for a forwarder")?;
        let forward = Forward {
            address: listener.local_addr()?,
            target: watch::Sender::new(target),
            cut: watch::Sender::new(0),
        };
        let (targets, cuts) = (forward.target.subscribe(), forward.cut.subscribe());
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                let target = *targets.borrow();
                tokio::spawn(one(client, target, cuts.clone()));
            }
        });
        Ok(forward)
    }

    /// New connections go there. Those that are made stay where they are.
    pub fn turn_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Ends all connections, whatever is under way on them.
    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }
}

async fn one(mut client: TcpStream, target: SocketAddr, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.changed() => {}
    }
}
