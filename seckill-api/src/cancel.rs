//! Cancelling an order: a record in the log. The order-worker folds it, and of a cancellation and a payment the first in
//! the log wins; so what became of the order is for the ledger to say.
use std::time::Duration;

use seckill_protocol::{OrderStatus, Record};
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::orders::Found;
use crate::problem::Problem;

/// Who waits longer for the ledger is told to look again.
const FOLDED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came of a cancellation.
pub enum Cancelled {
    /// The order has ended, by this request or before it.
    Done(Found),
    /// It is in the log for ever, and the ledger has not read it yet.
    Pending(Found),
}

impl Api {
    /// Cancels for whoever knows the number. The same again is answered with the same.
    pub async fn cancel(&self, number: &str) -> Result<Cancelled, Problem> {
        let found = self.find_order(number).await?;
        if ended(&found)? {
            return Ok(Cancelled::Done(found));
        }
        if found.stored.is_none() && self.lookups.look_up(self.ledger.is_quarantined(found.id)).await? {
            // A person has to look at it first.
            return Err(Problem::OrderHeld);
        }
        let record = Record::Cancel {
            sale: found.id.sale,
            epoch: found.id.epoch,
            seq: found.id.seq,
            reason: "buyer".to_owned(),
        };
        self.log
            .append(found.listed.sale.part, &record)
            .await
            .map_err(|error| {
                tracing::warn!(%error, "a cancellation was not acknowledged");
                Problem::CancelUnknown
            })?;
        let deadline = Instant::now() + FOLDED_WITHIN;
        loop {
            sleep(LOOK_EVERY).await;
            let found = self.find_order(number).await?;
            if ended(&found)? {
                return Ok(Cancelled::Done(found));
            }
            if Instant::now() >= deadline {
                return Ok(Cancelled::Pending(found));
            }
        }
    }
}

/// Whether the order takes no units any more. A paid one will never end this way.
fn ended(found: &Found) -> Result<bool, Problem> {
    match found.stored.as_ref().map(|order| order.status) {
        Some(OrderStatus::Cancelled | OrderStatus::Expired) => Ok(true),
        Some(OrderStatus::Paid) => Err(Problem::AlreadyPaid),
        Some(OrderStatus::Placed | OrderStatus::PendingPayment) | None => Ok(false),
    }
}
