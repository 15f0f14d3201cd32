//! Finding an order by its number, and whose order it is.
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::HeaderMap;
use seckill_ledger::{OrderLookup, Sale, StoredOrder};
use seckill_protocol::admission::behind;
use seckill_protocol::{Buyer, Offset, OrderId, OrderNo, OrderNoError, RecordVerdict};

use crate::api::Api;
use crate::catalogue::ListedSale;
use crate::problem::Problem;

/// An order that exists, and that the reader may see: anyone who knows the number of an anonymous order, and the buyer of
/// another one.
pub struct FoundOrder {
    pub id: OrderId,
    pub order_no: OrderNo,
    pub listed: Arc<ListedSale>,
    /// None while the order is in the log but not in the ledger.
    pub stored: Option<StoredOrder>,
}

/// Who asks for an order.
#[derive(Clone, Copy)]
pub enum Reader<'a> {
    /// Nobody who can have a token. Orders of sales with access do not exist for them.
    Anonymous,
    /// The sender of a request with these headers.
    Sender(&'a HeaderMap),
}

impl Api {
    pub async fn find_order(&self, number: &str, reader: Reader<'_>) -> Result<FoundOrder, Problem> {
        let (id, order_no) = self.order_no_keys.parse_number(number).map_err(|error| match error {
            // Another process has the key, and this one may get it.
            OrderNoError::UnknownKey(_) => Problem::NumberUnreadable,
            _ => Problem::OrderUnknown,
        })?;
        let listed = self.catalogue.by_id(id.sale);
        let issuer = listed.as_ref().and_then(|listed| listed.sale.issuer.as_deref());
        // Before anything is read for a sender without a token.
        let buyer = match issuer {
            Some(issuer) => Some(self.buyer_of(reader, issuer).await?),
            None => None,
        };
        let found = self.look_up_order(id, order_no, listed).await?;
        let buyer = match (&found.listed.sale.issuer, buyer) {
            (None, _) => return Ok(found),
            (Some(_), Some(buyer)) => buyer,
            (Some(issuer), None) => self.buyer_of(reader, issuer).await?,
        };
        match self.is_order_of(&found, &buyer).await? {
            true => Ok(found),
            false => Err(Problem::OrderUnknown),
        }
    }

    /// Boxed: otherwise the future of every request for an anonymous order would need room for it.
    fn buyer_of<'a>(&'a self, reader: Reader<'a>, issuer: &'a str) -> BoxFuture<'a, Result<Buyer, Problem>> {
        Box::pin(async move {
            match reader {
                Reader::Anonymous => Err(Problem::OrderUnknown),
                Reader::Sender(headers) => Ok(self.identify(issuer, headers).await?.buyer),
            }
        })
    }

    /// What MySQL lacks is in the holdings of its buyer, if the index in force has all that was accepted.
    async fn is_order_of(&self, found: &FoundOrder, buyer: &Buyer) -> Result<bool, Problem> {
        if let Some(stored) = &found.stored {
            return Ok(stored.buyer == *buyer);
        }
        let active = found.listed.active.as_ref().ok_or(Problem::NotReady)?;
        let epoch = active.epoch().filter(|epoch| *epoch >= found.id.epoch);
        let epoch = epoch.ok_or(Problem::NotReady)?;
        let held = self.stock.holdings_of(found.id.sale, epoch, buyer).await;
        let held = held.map_err(|error| {
            tracing::warn!(%error, "failed to read the holdings of a buyer");
            Problem::NotReady
        })?;
        let held = held.ok_or(Problem::NotReady)?;
        Ok(held
            .iter()
            .any(|held| (held.epoch, held.seq) == (found.id.epoch, found.id.seq)))
    }

    async fn look_up_order(
        &self,
        id: OrderId,
        order_no: OrderNo,
        listed: Option<Arc<ListedSale>>,
    ) -> Result<FoundOrder, Problem> {
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
