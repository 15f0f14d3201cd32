//! Writes an index, installs it, changes its terms, drops it. Preheating is the rebuild of an index that never existed.
use std::sync::LazyLock;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use redis::Script;
use seckill_protocol::index::{Holding, Terms};
pub use seckill_protocol::install::{Applied, Install};
use seckill_protocol::{Buyer, Epoch, SaleId};

use crate::client::{StockClient, StockError, call};
use crate::{holdings, keys};

static INSTALL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/install.lua")));
static APPLY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/apply.lua")));

const BUYERS_PER_HSET: usize = 500;
const HSETS_PER_ROUND_TRIP: usize = 20;
const MAX_CONCURRENT_ROUND_TRIPS: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    Done,
    /// The caller has to start again with a new barrier.
    Refused(String),
}

impl StockClient {
    /// Writes holdings of an index that is not in force yet. Several calls may write one part each.
    pub async fn write_holdings(
        &self,
        sale: SaleId,
        epoch: Epoch,
        buyers: &[(Buyer, Vec<Holding>)],
    ) -> Result<(), StockError> {
        let key = &keys::holdings(sale, epoch);
        let round_trip = |buyers: &[(Buyer, Vec<Holding>)]| {
            let mut pipeline = redis::pipe();
            for command in buyers.chunks(BUYERS_PER_HSET) {
                let hset = pipeline.cmd("HSET").arg(key);
                for (buyer, held) in command {
                    hset.arg(buyer.as_str()).arg(holdings::to_text(held));
                }
                hset.ignore();
            }
            let mut connection = self.administration.clone();
            async move { pipeline.query_async::<()>(&mut connection).await }
        };
        // The next round trip is prepared while Redis works on the current one.
        stream::iter(buyers.chunks(BUYERS_PER_HSET * HSETS_PER_ROUND_TRIP))
            .map(round_trip)
            .buffer_unordered(MAX_CONCURRENT_ROUND_TRIPS)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    /// Puts an index in force. It must be called at most once for an epoch. An error means an unknown outcome: start
    /// again with a new barrier.
    pub async fn install(&self, sale: SaleId, index: &Install) -> Result<Installed, StockError> {
        let keys = [keys::figures(sale), keys::holdings(sale, index.epoch)];
        let mut args = vec![
            index.epoch.to_string(),
            index.holders.to_string(),
            index.orders.to_string(),
            index.total.to_string(),
            index.left.to_string(),
        ];
        args.extend(terms_args(&index.terms));
        let reply: String = call(&self.administration, &INSTALL, &keys, &args[..]).await?;
        Ok(if reply == "ok" {
            Installed::Done
        } else {
            Installed::Refused(reply)
        })
    }

    /// Sets the terms of a sale if the index of this epoch is in force and has older terms. May be repeated.
    pub async fn apply(&self, sale: SaleId, epoch: Epoch, terms: &Terms) -> Result<Applied, StockError> {
        let mut args = vec![epoch.to_string()];
        args.extend(terms_args(terms));
        let reply: String = call(&self.administration, &APPLY, &[keys::figures(sale)], &args[..]).await?;
        match reply.as_str() {
            "ok" => Ok(Applied::Done),
            "older" => Ok(Applied::Older),
            "nothere" => Ok(Applied::NotHere),
            _ => Err(StockError::Reply(reply)),
        }
    }

    /// Frees the keys of earlier epochs of the sale, complete or not.
    pub async fn drop_epochs_before(&self, sale: SaleId, epoch: Epoch) -> Result<(), StockError> {
        self.unlink(sale, |key| keys::epoch_of(sale, key).is_some_and(|e| e < epoch))
            .await
    }

    /// Frees all keys of a sale.
    pub async fn drop_sale(&self, sale: SaleId) -> Result<(), StockError> {
        self.unlink(sale, |_| true).await
    }

    async fn unlink(&self, sale: SaleId, which: impl Fn(&str) -> bool) -> Result<(), StockError> {
        let mut connection = self.administration.clone();
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
                let () = redis::cmd("UNLINK").arg(found).query_async(&mut connection).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
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
    ]
}
