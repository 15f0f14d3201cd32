//! The number of units left, as shown to buyers: a sample of Redis, at most one a second for each sale, shared by all.
use std::time::Duration;

use seckill_protocol::index::Millis;
use seckill_protocol::tiers::{TierTerms, available};
use seckill_protocol::{Epoch, Tier};
use tokio::time::Instant;

use crate::api::Api;
use crate::catalogue::{ListedSale, RemainingSample};
use crate::clock;

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// For Redis and for the tail, each.
const SAMPLE_TIMEOUT: Duration = Duration::from_millis(500);

/// The units left, and what is kept for tiers.
#[derive(Debug, Clone)]
pub struct RemainingUnits {
    left: u64,
    tiers: Vec<TierTerms>,
    taken: Vec<u64>,
}

impl RemainingUnits {
    fn for_all(left: u64) -> Self {
        RemainingUnits {
            left,
            tiers: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn of(&self, tier: Tier) -> Remaining {
        let (left, reserved_until) = available(self.left, &self.tiers, &self.taken, tier, clock::now());
        Remaining { left, reserved_until }
    }
}

/// What buyers of a tier can buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    pub left: u64,
    /// More units are kept for other buyers until then.
    pub reserved_until: Option<Millis>,
}

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
