//! The number of units left, as shown to buyers: a sample of Redis, at most one a second for each sale, shared by all.
use std::time::Duration;

use seckill_protocol::{Epoch, Tier};
use tokio::time::Instant;

use crate::api::Api;
use crate::catalogue::{ListedSale, RemainingSample};
use crate::remaining_units::{Remaining, RemainingUnits};

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// For Redis and for the tail, each.
const SAMPLE_TIMEOUT: Duration = Duration::from_millis(500);

impl Api {
    /// None if the number is unknown. An unknown number is never shown as 0.
    pub async fn remaining(&self, listed: &ListedSale, tier: Tier) -> Option<Remaining> {
        Some(self.remaining_units(listed).await?.of(tier))
    }

    async fn remaining_units(&self, listed: &ListedSale) -> Option<RemainingUnits> {
        let sale = &listed.sale;
        let Some(active) = &listed.active else {
            return sale.total.checked_sub(sale.sold).map(RemainingUnits::for_all); // settled
        };
        let Some(epoch) = active.epoch() else {
            // No index yet, so nothing is sold.
            return Some(RemainingUnits {
                left: sale.offered,
                tiers: sale.terms().tiers,
                taken: Vec::new(),
            });
        };
        let mut sample = active.remaining.lock().await;
        if sample.taken_at.is_none_or(|at| at.elapsed() >= SAMPLE_INTERVAL) {
            *sample = RemainingSample {
                units: self.sample_remaining(listed, epoch).await,
                taken_at: Some(Instant::now()),
            };
        }
        sample.units.clone()
    }

    /// The number of an old primary does not count, as with a refusal.
    async fn sample_remaining(&self, listed: &ListedSale, epoch: Epoch) -> Option<RemainingUnits> {
        let sale = &listed.sale;
        let probe = self.stock.probe_within(sale.id, SAMPLE_TIMEOUT).await.ok()?;
        let index = probe.valid().filter(|index| index.epoch >= epoch)?;
        self.tail.confirm_fresh(sale.partition, SAMPLE_TIMEOUT).await.ok()?;
        let cut = self.tail.cut(sale.partition, sale.id);
        let in_force = cut.epoch() == Some(index.epoch) || cut.closed.is_some();
        in_force.then(|| RemainingUnits {
            left: index.left,
            tiers: index.terms.tiers.clone(),
            taken: index.taken.clone(),
        })
    }
}
