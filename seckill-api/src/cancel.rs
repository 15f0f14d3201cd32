//! Cancelling an order: a record in the log, which order-worker folds into the ledger. Of a cancellation and a payment,
//! the first one in the log wins, so only the ledger knows the result.
use std::time::Duration;

use seckill_protocol::{OrderStatus, Record};
use tokio::time::timeout;

use crate::api::Api;
use crate::orders::{FoundOrder, Reader};
use crate::problem::Problem;

/// Time limit for the fold of the cancellation. After it the client gets 202, and asks again later.
const FOLD_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a cancellation.
pub enum CancelOutcome {
    /// The order has ended, by this request or before.
    Done(FoundOrder),
    /// The cancellation is safe in the log, and not in the ledger yet.
    Pending(FoundOrder),
}

impl Api {
    /// Cancels an order for those who may see it. A retry gets the same answer.
    pub async fn cancel(&self, number: &str, reader: Reader<'_>) -> Result<CancelOutcome, Problem> {
        let order = self.find_order(number, reader).await?;
        if has_ended(&order)? {
            return Ok(CancelOutcome::Done(order));
        }
        if order.stored.is_none() && self.lookups.look_up(self.ledger.is_quarantined(order.id)).await? {
            return Err(Problem::OrderHeld);
        }
        let record = Record::Cancel {
            sale: order.id.sale,
            epoch: order.id.epoch,
            seq: order.id.seq,
            reason: "buyer".to_owned(),
        };
        let partition = order.listed.sale.partition;
        let offset = self.log.append(partition, &record).await.map_err(|error| {
            tracing::warn!(%error, "failed to append a cancellation");
            Problem::CancelUnknown
        })?;
        // The cancellation is safe in the log, so from here on a failure only means that its result is not known yet.
        let folded = timeout(FOLD_TIMEOUT, self.fold_progress.reaches(partition, offset)).await;
        if folded.is_err() {
            return Ok(CancelOutcome::Pending(order));
        }
        match self.lookups.look_up(self.ledger.order(order.id)).await {
            Ok(stored @ Some(_)) => {
                let order = FoundOrder { stored, ..order };
                match has_ended(&order)? {
                    true => Ok(CancelOutcome::Done(order)),
                    false => Ok(CancelOutcome::Pending(order)),
                }
            }
            Ok(None) | Err(_) => Ok(CancelOutcome::Pending(order)),
        }
    }
}

/// Whether the order holds no units any more. A paid order can't be cancelled.
fn has_ended(order: &FoundOrder) -> Result<bool, Problem> {
    match order.stored.as_ref().map(|stored| stored.status) {
        Some(OrderStatus::Cancelled | OrderStatus::Expired) => Ok(true),
        Some(OrderStatus::Paid) => Err(Problem::AlreadyPaid),
        Some(OrderStatus::Placed | OrderStatus::PendingPayment) | None => Ok(false),
    }
}
