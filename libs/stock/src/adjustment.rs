//! Applies stock adjustments to an index in force: a cancelled order returns its units, a raised total adds units.
use std::sync::LazyLock;

use redis::Script;
use seckill_protocol::{AdjustmentOutcome, Epoch, SaleId, StockAdjustment};

use crate::client::{StockClient, StockError, call};
use crate::keys;

static RETURN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/return.lua")));
static RAISE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/raise.lua")));

impl StockClient {
    /// Applies an adjustment. `since` is the epoch in force at the adjustment's offset. May be repeated.
    pub async fn apply_adjustment(
        &self,
        sale: SaleId,
        since: Epoch,
        adjustment: &StockAdjustment,
    ) -> Result<AdjustmentOutcome, StockError> {
        let keys = [keys::figures(sale)];
        let since = since.to_string();
        let reply: String = match adjustment {
            StockAdjustment::Return { buyer, epoch, seq } => {
                let order = [buyer.to_string(), epoch.to_string(), seq.to_string()];
                let args = [vec![since, keys::holdings_prefix(sale)], order.to_vec()].concat();
                call(&self.administration, &RETURN, &keys, &args[..]).await?
            }
            StockAdjustment::Raise { total } => {
                let args = [since, total.to_string()];
                call(&self.administration, &RAISE, &keys, &args[..]).await?
            }
        };
        match reply.as_str() {
            "done" => Ok(AdjustmentOutcome::Done),
            "already" => Ok(AdjustmentOutcome::Already),
            "notyet" => Ok(AdjustmentOutcome::NotYet),
            "replica" => Ok(AdjustmentOutcome::Replica),
            "nosuchorder" => Ok(AdjustmentOutcome::NoSuchOrder),
            _ => Err(StockError::Reply(reply)),
        }
    }
}
