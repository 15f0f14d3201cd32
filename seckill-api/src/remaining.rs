//! The number of units left, as shown to buyers: a sample of Redis, at most one a second for each sale, shared by all.
use std::time::Duration;

use seckill_protocol::Epoch;
use tokio::time::Instant;

use crate::api::Api;
use crate::catalogue::{ListedSale, RemainingSample};

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// For Redis and for the tail, each.
const SAMPLE_TIMEOUT: Duration = Duration::from_millis(500);

impl Api {
    /// None if the number is unknown. An unknown number is never shown as 0.
    pub async fn remaining(&self, listed: &ListedSale) -> Option<u64> {
        let sale = &listed.sale;
        let Some(active) = &listed.active else {
            return sale.total.checked_sub(sale.sold); // settled
        };
        let Some(epoch) = active.epoch() else {
            return Some(sale.offered); // no index yet, so nothing is sold
        };
        let mut sample = active.remaining.lock().await;
        if sample.taken_at.is_none_or(|at| at.elapsed() >= SAMPLE_INTERVAL) {
            *sample = RemainingSample {
                left: self.sample_remaining(listed, epoch).await,
                taken_at: Some(Instant::now()),
            };
        }
        sample.left
    }

    /// The number of an old primary does not count, as with a refusal.
    async fn sample_remaining(&self, listed: &ListedSale, epoch: Epoch) -> Option<u64> {
        let sale = &listed.sale;
        let probe = self.stock.probe_within(sale.id, SAMPLE_TIMEOUT).await.ok()?;
        let index = probe.valid().filter(|index| index.epoch >= epoch)?;
        self.tail.confirm_fresh(sale.partition, SAMPLE_TIMEOUT).await.ok()?;
        let cut = self.tail.cut(sale.partition, sale.id);
        let in_force = cut.epoch() == Some(index.epoch) || cut.closed.is_some();
        in_force.then_some(index.left)
    }
}
