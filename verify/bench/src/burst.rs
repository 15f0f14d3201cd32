//! A burst: 20,000 buyers within a second, for 10,000 units.
use std::time::{Duration, Instant};

use anyhow::Result;
use seckill_load::Arrival;

use crate::buyers::{send_buyers, wait_until_served};
use crate::harness::{Harness, open};
use crate::report::{Goal, Row};

const BUYERS: u32 = 20_000;
const UNITS: u64 = 10_000;
const IN_FLIGHT: usize = 3_000;

pub async fn burst(harness: &Harness, rounds: u32) -> Result<Vec<Row>> {
    let what = "20,000 buyers in 1 s for 10,000 units";
    let (_worker, api) = (harness.worker().await?, harness.api().await?);
    let (mut took, mut p50, mut p99, mut stored) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let sale = harness.offer(UNITS, open()).await?;
        wait_until_served(&api, &sale).await?;
        let arrival = Arrival::Uniform(Duration::from_secs(1));
        let outcome = send_buyers(api.target().await?, &sale.path(), BUYERS, arrival, IN_FLIGHT).await?;
        let answered = Instant::now();
        let in_ledger = harness.wait_until_stored(sale.sale.partition).await?;
        let counts = outcome.counts;
        let checked = match counts.won == UNITS && counts.sold_out == u64::from(BUYERS) - UNITS {
            true => harness.check(&sale, counts.won).await,
            false => Err(format!("{counts:?}; {:?}", outcome.samples)),
        };
        if let Err(why) = checked {
            return Ok(vec![Row::broken(what, why)]);
        }
        took.push(outcome.took_s);
        p50.push(outcome.latency.from_schedule.p50_ms);
        p99.push(outcome.latency.from_schedule.p99_ms);
        stored.push(in_ledger.saturating_duration_since(answered).as_secs_f64());
    }
    Ok(vec![
        Row::new(format!("{what}: all answered after"), "s", took),
        Row::new("from arrival to answer, p50", "ms", p50),
        Row::new("from arrival to answer, p99", "ms", p99).goal(Goal::AtMost(300.0)),
        Row::new("from the last answer to the last order stored", "s", stored).goal(Goal::AtMost(1.0)),
    ])
}
