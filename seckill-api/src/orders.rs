//! An order by its number.
use std::sync::Arc;

use futures::FutureExt as _;
use seckill_ledger::{Sale, StoredOrder};
use seckill_protocol::{OrderId, OrderNo, RecordVerdict};

use crate::api::Api;
use crate::catalogue::Listed;
use crate::problem::Problem;

/// An order that exists, for whoever knows its number.
pub struct Found {
    pub id: OrderId,
    pub order_no: OrderNo,
    pub listed: Arc<Listed>,
    /// None while it is not stored yet: it is being processed.
    pub stored: Option<StoredOrder>,
}

impl Api {
    pub async fn find_order(&self, number: &str) -> Result<Found, Problem> {
        let order = self.numbers.decode(number).map_err(|_| Problem::OrderUnknown)?;
        let order_no = self.numbers.encode(order).map_err(|_| Problem::OrderUnknown)?;
        let listed = match self.catalogue.by_id(order.sale) {
            Some(listed) => listed,
            None => {
                let sale = self.lookups.look_up(self.ledger.sale(order.sale)).await?;
                Arc::new(Listed {
                    sale: sale.ok_or(Problem::OrderUnknown)?,
                    selling: None,
                })
            }
        };
        let stored = match self.lookups.look_up(self.ledger.order(order)).await? {
            None if self.is_being_processed(&listed.sale, order).await? => None,
            None => {
                // It may have been stored since it was first looked for.
                let stored = self.lookups.look_up(self.ledger.order(order)).await?;
                Some(stored.ok_or(Problem::OrderUnknown)?)
            }
            stored => stored,
        };
        Ok(Found {
            id: order,
            order_no,
            listed,
            stored,
        })
    }

    /// Whether an order that was not found may still be stored. If not, it is there by now or will never be.
    async fn is_being_processed(&self, sale: &Sale, order: OrderId) -> Result<bool, Problem> {
        if self.tail.read_back(sale.part, order).now_or_never() == Some(RecordVerdict::Accepted) {
            return Ok(true);
        }
        // First the end of the log, then how far it was folded: in the other order, a record between the two is missed.
        let end = self.log.end_offset(sale.part).await.map_err(|error| {
            tracing::warn!(%error, "the log does not answer");
            Problem::NotReady
        })?;
        let positions = self.lookups.look_up(self.ledger.positions()).await?;
        let position = positions.iter().find(|(part, _)| *part == sale.part);
        if position.map_or(0, |(_, offset)| *offset) < end {
            return Ok(true);
        }
        self.lookups.look_up(self.ledger.is_quarantined(order)).await
    }
}
