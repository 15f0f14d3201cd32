//! What buyers see: winning, and being refused, beside a server that only answers.
use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use seckill_load::{Arrival, Outcome, Plan, Route, Target};

use crate::cost::{Cost, Meter};
use crate::limit::{answer_of, status_of};
use crate::rounds::{Goal, Measured, Row};
use crate::site::{OnSale, PATIENCE, Program, Site, not_started, open, over};

/// In the rounds at saturation.
const BUYERS: u32 = 40_000;
const WARM_UP: u32 = 5_000;
/// Enough that nobody waits for a buyer, and few enough that the queues are short.
const IN_FLIGHT: usize = 256;
/// How long buyers come at half of that rate.
const AT_HALF: Duration = Duration::from_secs(4);

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    SoldOut,
    NotStarted,
    Ended,
}

pub async fn crowd(target: Target, sale: &str, buyers: u32, arrival: Arrival, in_flight: usize) -> Result<Outcome> {
    let plan = Plan {
        target,
        route: Route::v1(sale, 1)?,
        buyers,
        arrival,
        in_flight,
        attempts: 20,
        timeout: Duration::from_secs(10),
        tokens: Default::default(),
    };
    Ok(seckill_load::run(plan, |_| {}).await?)
}

pub fn rate(outcome: &Outcome) -> f64 {
    outcome.answered as f64 / outcome.took_s
}

/// All that come at once, as fast as they are answered.
async fn saturate(target: Target, sale: &str, buyers: u32) -> Result<Outcome> {
    crowd(target, sale, buyers, Arrival::AtOnce, IN_FLIGHT).await
}

/// Waits until the API knows the sale.
pub async fn known(api: &Program, sale: &OnSale) -> Result<()> {
    let (address, begun) = (api.address.context("no address")?, Instant::now());
    let path = format!("/v1/sales/{}", sale.path());
    while status_of(address, &path).await? != 200 {
        ensure!(begun.elapsed() < PATIENCE, "the API does not learn of {path}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Everybody won, and each has a number of its own.
pub fn all_won(outcome: &Outcome) -> Result<(), String> {
    let distinct: HashSet<&String> = outcome.order_numbers.iter().collect();
    let won = outcome.counts.won;
    match won == outcome.buyers && distinct.len() as u64 == won {
        true => Ok(()),
        false => Err(format!(
            "{} buyers, {won} won, {} different numbers; {:?}",
            outcome.buyers,
            distinct.len(),
            outcome.samples
        )),
    }
}

pub async fn purchase(site: &Site, rounds: u32) -> Result<Measured> {
    const WHAT: &str = "purchases, HTTP to 201, at saturation";
    let (worker, api) = (site.worker().await?, site.api().await?);
    let first = site.offer(1_000_000, open()).await?;
    known(&api, &first).await?;
    let answer = answer_of(api.address.context("no address")?, &first.path()).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let limit = site.limit(&answer).await?;
    for program in [&limit, &api] {
        saturate(program.target().await?, &first.path(), WARM_UP).await?;
    }
    site.stored(first.sale.part).await?;
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    let (mut p50, mut p99, mut limit_p50, mut limit_p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cost, mut cost_of_limit) = (Cost::new("purchase, until it is stored"), Cost::new("its limit"));
    let mut meter = Meter::start(&[("seckill-api", &api), ("order-worker", &worker), ("the limit", &limit)])?;
    for _ in 0..rounds {
        meter.spent(1)?;
        let limited = saturate(limit.target().await?, "bench/limit", BUYERS).await?;
        cost_of_limit.add(meter.spent(limited.answered)?);
        let sale = site.offer(1_000_000, open()).await?;
        known(&api, &sale).await?;
        meter.spent(1)?;
        let won = saturate(api.target().await?, &sale.path(), BUYERS).await?;
        if let Err(why) = all_won(&won) {
            return Ok(vec![Row::broken(WHAT, why)].into());
        }
        site.stored(sale.sale.part).await?;
        cost.add(meter.spent(won.answered)?);
        let half = rate(&won) / 2.0;
        let buyers = (half * AT_HALF.as_secs_f64()) as u32;
        let arrival = Arrival::Poisson(half);
        let limited_half = crowd(limit.target().await?, "bench/limit", buyers, arrival, 10_000).await?;
        let won_half = crowd(api.target().await?, &sale.path(), buyers, arrival, 10_000).await?;
        let checked = match all_won(&won_half) {
            Ok(()) => site.check(&sale, won.counts.won + won_half.counts.won).await,
            broken => broken,
        };
        if let Err(why) = checked {
            return Ok(vec![Row::broken(WHAT, why)].into());
        }
        limits.push(rate(&limited));
        ours.push(rate(&won));
        p50.push(won_half.latency.from_schedule.p50_ms);
        p99.push(won_half.latency.from_schedule.p99_ms);
        limit_p50.push(limited_half.latency.from_schedule.p50_ms);
        limit_p99.push(limited_half.latency.from_schedule.p99_ms);
    }
    let rows = vec![
        Row::new(WHAT, "/s", ours).beside(limits).goal(Goal::RatioAtLeast(0.5)),
        Row::new("at half of that rate: from arrival to answer, p50", "ms", p50)
            .beside(limit_p50)
            .goal(Goal::AtMost(8.0)),
        Row::new("at half of that rate: from arrival to answer, p99", "ms", p99)
            .beside(limit_p99)
            .goal(Goal::AtMost(30.0)),
    ];
    let costs = vec![cost, cost_of_limit];
    Ok(Measured { rows, costs })
}

pub async fn refusals(site: &Site, rounds: u32, refusal: Refusal) -> Result<Measured> {
    let (when, goal) = match refusal {
        Refusal::SoldOut => ("sold out", 0.85),
        Refusal::NotStarted => ("before the start", 0.9),
        Refusal::Ended => ("after the end", 0.9),
    };
    let what = format!("{when}: answers, at saturation");
    let (worker, api) = (site.worker().await?, site.api().await?);
    let terms = match refusal {
        Refusal::SoldOut => open(),
        Refusal::NotStarted => not_started(),
        Refusal::Ended => over(),
    };
    let sale = site.offer(1, terms).await?;
    known(&api, &sale).await?;
    let address = api.address.context("no address")?;
    let mut answer = answer_of(address, &sale.path()).await?;
    if refusal == Refusal::SoldOut {
        ensure!(answer.status == 201, "{answer:?}");
        answer = answer_of(address, &sale.path()).await?;
    }
    let limit = site.limit(&answer).await?;
    for program in [&limit, &api] {
        saturate(program.target().await?, &sale.path(), WARM_UP).await?;
    }
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    let (mut cost, mut cost_of_limit) = (Cost::new(format!("answer, {when}")), Cost::new("its limit"));
    let mut meter = Meter::start(&[("seckill-api", &api), ("order-worker", &worker), ("the limit", &limit)])?;
    for _ in 0..rounds {
        let limited = saturate(limit.target().await?, &sale.path(), BUYERS).await?;
        cost_of_limit.add(meter.spent(limited.answered)?);
        let refused = saturate(api.target().await?, &sale.path(), BUYERS).await?;
        cost.add(meter.spent(refused.answered)?);
        let counts = refused.counts;
        let told = match refusal {
            Refusal::SoldOut => counts.sold_out,
            Refusal::NotStarted => counts.not_started,
            Refusal::Ended => counts.ended,
        };
        if told != refused.buyers {
            return Ok(vec![Row::broken(what, format!("{counts:?}; {:?}", refused.samples))].into());
        }
        limits.push(rate(&limited));
        ours.push(rate(&refused));
    }
    let rows = vec![Row::new(what, "/s", ours).beside(limits).goal(Goal::RatioAtLeast(goal))];
    let costs = vec![cost, cost_of_limit];
    Ok(Measured { rows, costs })
}
