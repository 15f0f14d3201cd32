//! Writes an index, installs it, changes its terms, drops it. Preheating is the rebuild of an index that never existed.
use std::sync::LazyLock;

use redis::{Pipeline, Script};
use seckill_protocol::index::Terms;
pub use seckill_protocol::install::{Applied, Install};
use seckill_protocol::rebuild::{BuyerHoldings, HoldingCounts};
use seckill_protocol::{Epoch, SaleId};
use tokio::task::JoinSet;

use crate::client::{StockClient, StockError};
use crate::connection::Connection;
use crate::roles::Role;
use crate::{holdings, keys, tiers};

static WRITE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/write.lua")));
static INSTALL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/install.lua")));
static APPLY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/apply.lua")));

/// One call of the script keeps other callers of Redis waiting for less than a millisecond. Lua can pass about 8,000
/// values to a command.
const BUYERS_PER_CALL: usize = 500;
const CALLS_PER_ROUND_TRIP: usize = 10;
const MAX_CONCURRENT_ROUND_TRIPS: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    Done,
    /// The address leads to a replica, so nothing was installed.
    Replica,
    /// The caller has to start again with a new barrier.
    Refused(String),
}

impl StockClient {
    /// Begins to write the holdings of an index that is not in force yet.
    pub async fn write_holdings(&self, sale: SaleId, epoch: Epoch) -> Result<HoldingsWriter, StockError> {
        let mut connection = self.connection_for(sale, Role::Holdings)?;
        // Pipelined calls can't load the script when it is missing.
        WRITE.load_async(&mut connection).await?;
        Ok(HoldingsWriter {
            connection,
            keys: [keys::holdings(sale, epoch), keys::written(sale, epoch)],
            round_trips: JoinSet::new(),
        })
    }

    /// Puts an index in force. It must be called at most once for an epoch. An error means an unknown outcome: start
    /// again with a new barrier.
    pub async fn install(&self, sale: SaleId, index: &Install) -> Result<Installed, StockError> {
        let keys = [
            keys::figures(sale),
            keys::holdings(sale, index.epoch),
            keys::written(sale, index.epoch),
        ];
        let mut args = vec![
            index.epoch.to_string(),
            index.holders.to_string(),
            index.orders.to_string(),
            index.total.to_string(),
            index.left.to_string(),
        ];
        args.extend(terms_args(&index.terms));
        args.push(tiers::taken_to_text(&index.taken));
        let reply: String = self
            .call(sale, Role::Administration, &INSTALL, &keys, &args[..])
            .await?;
        Ok(match reply.as_str() {
            "ok" => Installed::Done,
            "replica" => Installed::Replica,
            _ => Installed::Refused(reply),
        })
    }

    /// Sets the terms of a sale if the index of this epoch is in force and has older terms. May be repeated.
    pub async fn apply(&self, sale: SaleId, epoch: Epoch, terms: &Terms) -> Result<Applied, StockError> {
        let mut args = vec![epoch.to_string()];
        args.extend(terms_args(terms));
        let keys = [keys::figures(sale)];
        let reply: String = self.call(sale, Role::Administration, &APPLY, &keys, &args[..]).await?;
        match reply.as_str() {
            "ok" => Ok(Applied::Done),
            "older" => Ok(Applied::Older),
            "nothere" => Ok(Applied::NotHere),
            "replica" => Ok(Applied::Replica),
            _ => Err(StockError::Reply(reply)),
        }
    }

    /// Frees the keys of an epoch whose index was not installed and will not be.
    pub async fn drop_written(&self, sale: SaleId, epoch: Epoch) -> Result<(), StockError> {
        let keys = [keys::holdings(sale, epoch), keys::written(sale, epoch)];
        self.query(sale, Role::Administration, redis::cmd("UNLINK").arg(&keys))
            .await
    }

    /// Frees the keys of earlier epochs of the sale, complete or not.
    pub async fn drop_epochs_before(&self, sale: SaleId, epoch: Epoch) -> Result<(), StockError> {
        self.unlink(sale, |key| keys::epoch_of(sale, key).is_some_and(|e| e < epoch))
            .await
    }

    /// Frees all keys of a sale.
    pub async fn drop_sale(&self, sale: SaleId) -> Result<(), StockError> {
        // A replica that is not in sync yet has no keys to find, and they would stay on the primary for ever.
        if !self.probe(sale).await?.server.is_master {
            return Err(StockError::Replica);
        }
        self.unlink(sale, |_| true).await
    }

    async fn unlink(&self, sale: SaleId, which: impl Fn(&str) -> bool) -> Result<(), StockError> {
        // A cursor is valid on one server only. Keys that move to another node meanwhile stay there, and a later call finds
        // them.
        let mut connection = self.connection_for(sale, Role::Administration)?;
        let mut cursor = 0u64;
        loop {
            let (next, mut found): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(keys::all(sale))
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut connection)
                .await?;
            found.retain(|key| which(key));
            if !found.is_empty() {
                let unlink = redis::cmd("UNLINK").arg(found).to_owned();
                let () = self.query(sale, Role::Administration, &unlink).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

/// Writes holdings in chunks while the caller prepares the next ones. Dropping it stops it.
pub struct HoldingsWriter {
    connection: Connection,
    keys: [String; 2],
    round_trips: JoinSet<Result<(), StockError>>,
}

impl HoldingsWriter {
    /// Sends buyers that were not sent before, with all their holdings. It waits while enough round trips are under way,
    /// so that memory stays bounded. After an error nothing more may be sent: begin again with a new barrier.
    pub async fn write(&mut self, buyers: &[BuyerHoldings]) -> Result<(), StockError> {
        for chunk in buyers.chunks(BUYERS_PER_CALL * CALLS_PER_ROUND_TRIP) {
            while self.round_trips.len() >= MAX_CONCURRENT_ROUND_TRIPS {
                self.end_of_a_round_trip().await?;
            }
            let (calls, mut connection) = (self.calls(chunk), self.connection.clone());
            self.round_trips.spawn(async move {
                let replies: Vec<String> = calls.query_async(&mut connection).await?;
                match replies.into_iter().find(|reply| reply != "ok") {
                    None => Ok(()),
                    Some(reply) => Err(StockError::Reply(format!("{reply} to the holdings of buyers"))),
                }
            });
        }
        Ok(())
    }

    /// Waits until all is written.
    pub async fn finish(mut self) -> Result<(), StockError> {
        while !self.round_trips.is_empty() {
            self.end_of_a_round_trip().await?;
        }
        Ok(())
    }

    async fn end_of_a_round_trip(&mut self) -> Result<(), StockError> {
        match self.round_trips.join_next().await {
            Some(Err(error)) => Err(StockError::Reply(format!("a task ended early: {error}"))),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }

    fn calls(&self, buyers: &[BuyerHoldings]) -> Pipeline {
        let mut calls = redis::pipe();
        for buyers in buyers.chunks(BUYERS_PER_CALL) {
            let mut counts = HoldingCounts::default();
            for (_, held) in buyers {
                counts.add(held);
            }
            let call = calls
                .cmd("EVALSHA")
                .arg(WRITE.get_hash())
                .arg(self.keys.len())
                .arg(&self.keys);
            call.arg(counts.orders).arg(counts.units);
            for (buyer, held) in buyers {
                call.arg(buyer.as_str()).arg(holdings::to_text(held));
            }
        }
        calls
    }
}

fn terms_args(terms: &Terms) -> Vec<String> {
    let bounds = terms.bounds;
    vec![
        terms.version.to_string(),
        terms.state.as_str().to_owned(),
        terms.opens.to_string(),
        terms.closes.to_string(),
        terms.limit.to_string(),
        bounds.max_per_order.to_string(),
        bounds.orders_ever_max.to_string(),
        bounds.buyer_live_max.to_string(),
        bounds.buyer_ever_max.to_string(),
        tiers::to_text(&terms.tiers),
    ]
}
