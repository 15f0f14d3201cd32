//! How many units are left, as shown to buyers: a sample of Redis, at most one a second and sale, shared by all.
use std::time::Duration;

use seckill_protocol::Epoch;
use tokio::time::{Instant, timeout};

use crate::api::Api;
use crate::catalogue::Listed;

const EVERY: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Sample {
    at: Option<Instant>,
    left: Option<u64>,
}

impl Api {
    /// None if it is not known just now. Unknown is never told as 0.
    pub async fn remaining(&self, listed: &Listed) -> Option<u64> {
        let sale = &listed.sale;
        let Some(selling) = &listed.selling else {
            return sale.total.checked_sub(sale.sold); // settled
        };
        let Some(epoch) = selling.epoch() else {
            return Some(sale.offered); // nothing was ever sold
        };
        let mut sample = selling.remaining.lock().await;
        if sample.at.is_none_or(|at| at.elapsed() >= EVERY) {
            let left = timeout(WITHIN, self.sample_remaining(listed, epoch)).await;
            *sample = Sample {
                at: Some(Instant::now()),
                left: left.ok().flatten(),
            };
        }
        sample.left
    }

    /// As with a refusal, an old primary's figure does not count.
    async fn sample_remaining(&self, listed: &Listed, epoch: Epoch) -> Option<u64> {
        let sale = &listed.sale;
        let probe = self.stock.probe(sale.id).await.ok()?;
        let index = probe.valid().filter(|index| index.epoch >= epoch)?;
        self.tail.confirm_fresh(sale.part, WITHIN).await.ok()?;
        let cut = self.tail.cut(sale.part, sale.id);
        let in_force = cut.epoch() == Some(index.epoch) || cut.closed.is_some();
        in_force.then_some(index.left)
    }
}
