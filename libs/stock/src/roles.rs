//! The connections to one server, each for one kind of call.
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::Notify;

use crate::connection::Connection;
use crate::connector::Connector;

/// A purchase without an answer after this time has an unknown outcome. The limit leaves time for a retry before the
/// buyer times out.
const PURCHASE_TIMEOUT: Duration = Duration::from_millis(1000);
/// The outbox is read in small parts.
const OUTBOX_TIMEOUT: Duration = Duration::from_secs(2);
/// No command but those that write holdings takes longer, and a server that does not answer must not hold up other sales.
const ADMINISTRATION_TIMEOUT: Duration = Duration::from_secs(2);
/// One round trip with some thousand buyers.
const HOLDINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is for. One slow command blocks those behind it on its connection, so each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Purchases,
    Streams,
    Administration,
    /// Only a rebuild needs it, so it connects then.
    Holdings,
}

/// The connections to one server. Clones share them.
#[derive(Clone)]
pub(crate) struct Roles {
    purchases: Connection,
    streams: Connection,
    administration: Connection,
    holdings: Connection,
}

impl Roles {
    /// They connect at the first call.
    pub fn new(connector: Connector, doubts: Option<Arc<Notify>>) -> Self {
        let new = |limit| Connection::new(connector.clone(), limit, doubts.clone());
        Roles {
            purchases: new(PURCHASE_TIMEOUT),
            streams: new(OUTBOX_TIMEOUT),
            administration: new(ADMINISTRATION_TIMEOUT),
            holdings: new(HOLDINGS_TIMEOUT),
        }
    }

    pub fn connection(&self, role: Role) -> &Connection {
        match role {
            Role::Purchases => &self.purchases,
            Role::Streams => &self.streams,
            Role::Administration => &self.administration,
            Role::Holdings => &self.holdings,
        }
    }

    /// Replaces all connections.
    pub fn replace_all(&self, why: &str) {
        for connection in [&self.purchases, &self.streams, &self.administration, &self.holdings] {
            connection.replace_current(why);
        }
    }

    /// Those that a program needs from its start.
    pub async fn connect(&self) -> RedisResult<()> {
        for connection in [&self.purchases, &self.streams, &self.administration] {
            connection.connect().await?;
        }
        Ok(())
    }
}
