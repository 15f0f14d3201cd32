//! Finding an order by its number.
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use seckill_ledger::{OrderLookup, Sale, StoredOrder};
use seckill_protocol::admission::behind;
use seckill_protocol::{Offset, OrderId, OrderNo, OrderNoError, RecordVerdict};

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
        let listed = self.catalogue.by_id(id.sale);
        let found = |listed, stored| FoundOrder {
            id,
            order_no: order_no.clone(),
            listed,
            stored,
        };
        if let Some(listed) = &listed {
            let stored = self.lookups.look_up(self.ledger.order(id)).await?;
            if stored.is_some() || self.tail_has(&listed.sale, id) {
                return Ok(found(listed.clone(), stored));
            }
        }
        // The ends of the log first, and then the ledger at one instant: what it lacks although it has read to the ends is
        // in no record before them. MySQL may have lost its tail, and with it the row of the sale.
        let ends = self
            .ends_that_matter(listed.as_ref().map(|listed| listed.sale.partition))
            .await?;
        let OrderLookup {
            sale,
            order,
            quarantined,
            positions,
        } = self.lookups.look_up(self.ledger.look_up_order(id)).await?;
        let in_ledger = |sale| Arc::new(ListedSale { sale, active: None });
        let may_be_stored_later = quarantined || !behind(&ends, &positions).is_empty();
        match (listed.or(sale.map(in_ledger)), order) {
            (Some(listed), Some(stored)) => Ok(found(listed, Some(stored))),
            (Some(listed), None) if may_be_stored_later => Ok(found(listed, None)),
            // An answer about the order would name its sale.
            (None, _) if may_be_stored_later => Err(Problem::NotReady),
            (_, None) | (None, Some(_)) => Err(Problem::OrderUnknown),
        }
    }

    fn tail_has(&self, sale: &Sale, order: OrderId) -> bool {
        self.tail.read_back(sale.partition, order).now_or_never() == Some(RecordVerdict::Accepted)
    }

    /// The end of the partition of the order's sale. Of an unknown sale the partition is unknown too, so all matter.
    async fn ends_that_matter(&self, partition: Option<u32>) -> Result<Vec<Offset>, Problem> {
        let Some(partition) = partition else {
            return self.log_ends(Duration::ZERO).await;
        };
        let end = self.log.end_offset(partition).await.map_err(|error| {
            tracing::warn!(%error, "failed to read the end of the log");
            Problem::NotReady
        })?;
        let mut ends = vec![0; partition as usize + 1];
        ends[partition as usize] = end;
        Ok(ends)
    }
}
