//! Finding an order by its number.
use std::sync::Arc;

use futures::FutureExt as _;
use seckill_ledger::{Sale, StoredOrder};
use seckill_protocol::{OrderId, OrderNo, OrderNoError, RecordVerdict};

use crate::api::Api;
use crate::catalogue::ListedSale;
use crate::problem::Problem;

/// An order that exists. Anyone who knows its number may see it.
pub struct FoundOrder {
    pub id: OrderId,
    pub order_no: OrderNo,
    pub listed: Arc<ListedSale>,
    /// None while the order is in the log but not in the ledger.
    pub stored: Option<StoredOrder>,
}

impl Api {
    pub async fn find_order(&self, number: &str) -> Result<FoundOrder, Problem> {
        let (id, order_no) = self.order_no_keys.parse_number(number).map_err(|error| match error {
            // Another process has the key, and this one may get it.
            OrderNoError::UnknownKey(_) => Problem::NumberUnreadable,
            _ => Problem::OrderUnknown,
        })?;
        let listed = match self.catalogue.by_id(id.sale) {
            Some(listed) => listed,
            None => {
                let sale = self.lookups.look_up(self.ledger.sale(id.sale)).await?;
                Arc::new(ListedSale {
                    sale: sale.ok_or(Problem::OrderUnknown)?,
                    active: None,
                })
            }
        };
        let stored = match self.lookups.look_up(self.ledger.order(id)).await? {
            None if self.may_be_stored_later(&listed.sale, id).await? => None,
            None => {
                // The order may have been stored since the first query.
                let stored = self.lookups.look_up(self.ledger.order(id)).await?;
                Some(stored.ok_or(Problem::OrderUnknown)?)
            }
            stored => stored,
        };
        Ok(FoundOrder {
            id,
            order_no,
            listed,
            stored,
        })
    }

    /// Whether an order that the ledger does not have may be stored later. If not, it is stored by now or never will be.
    async fn may_be_stored_later(&self, sale: &Sale, order: OrderId) -> Result<bool, Problem> {
        if self.tail.read_back(sale.partition, order).now_or_never() == Some(RecordVerdict::Accepted) {
            return Ok(true);
        }
        // Read the end of the log first, then the folded position: the other order could miss a record between the two.
        let end = self.log.end_offset(sale.partition).await.map_err(|error| {
            tracing::warn!(%error, "failed to read the end of the log");
            Problem::NotReady
        })?;
        let positions = self.lookups.look_up(self.ledger.positions()).await?;
        let position = positions.iter().find(|(partition, _)| *partition == sale.partition);
        if position.map_or(0, |(_, offset)| *offset) < end {
            return Ok(true);
        }
        self.lookups.look_up(self.ledger.is_quarantined(order)).await
    }
}
