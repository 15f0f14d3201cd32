//! The outbox: batches that were sold and may not have reached the log, because the process that sold them may have
//! died before it published them.
use std::sync::LazyLock;

use redis::streams::{StreamId, StreamRangeReply};
use redis::{FromRedisValue as _, RedisError, Script, Value};
use seckill_protocol::index::Millis;
use seckill_protocol::{Batch, Epoch, Order, SaleId, Seq};

use crate::client::{StockClient, StockError};
use crate::keys;
use crate::roles::Role;

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/outbox.lua")));

/// The batch of one script call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    pub batch: Batch,
    /// When it was sold by the clock of Redis, in unix ms.
    pub at: Millis,
}

impl StockClient {
    /// The oldest entries after `after`, the last sequence number of an earlier entry. 0 reads from the start. A replica
    /// is refused: what it has may be old.
    pub async fn outbox(
        &self,
        sale: SaleId,
        epoch: Epoch,
        after: Seq,
        count: usize,
    ) -> Result<Vec<OutboxEntry>, StockError> {
        let keys = [keys::figures(sale), keys::outbox(sale, epoch)];
        let args = [epoch.to_string(), format!("({epoch}-{after}"), count.to_string()];
        let reply: Vec<Value> = self.call(sale, Role::Streams, &READ, &keys, &args[..]).await?;
        let Ok([_, entries]) = <[Value; 2]>::try_from(reply) else {
            return Err(StockError::Replica);
        };
        let entries = StreamRangeReply::from_redis_value(entries).map_err(RedisError::from)?;
        entries
            .ids
            .iter()
            .map(|entry| {
                parse_entry(sale, epoch, entry)
                    .ok_or_else(|| StockError::Reply(format!("outbox entry {} of sale {sale}", entry.id)))
            })
            .collect()
    }

    /// Removes the entries up to and including the one whose last sequence number is `through`. They must be stored.
    pub async fn trim_outbox(&self, sale: SaleId, epoch: Epoch, through: Seq) -> Result<u64, StockError> {
        let mut trim = redis::cmd("XTRIM");
        trim.arg(keys::outbox(sale, epoch))
            .arg("MINID")
            .arg("=")
            .arg(format!("{epoch}-{}", through + 1));
        self.query(sale, Role::Streams, &trim).await
    }

    /// Entries that are not trimmed yet.
    pub async fn outbox_len(&self, sale: SaleId, epoch: Epoch) -> Result<u64, StockError> {
        let mut length = redis::cmd("XLEN");
        length.arg(keys::outbox(sale, epoch));
        self.query(sale, Role::Streams, &length).await
    }
}

fn parse_entry(sale: SaleId, epoch: Epoch, entry: &StreamId) -> Option<OutboxEntry> {
    let at: Millis = entry.get("at")?;
    let orders: Vec<Order> = serde_json::from_str(&entry.get::<String>("orders")?).ok()?;
    let batch = Batch {
        sale,
        epoch,
        first: entry.get("first")?,
        orders,
    };
    let whole = !batch.orders.is_empty() && entry.id == format!("{epoch}-{}", batch.last());
    whole.then_some(OutboxEntry { batch, at })
}
