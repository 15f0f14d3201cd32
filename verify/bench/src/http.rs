//! Purchases and refusals over HTTP, beside a server that only answers.
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seckill_load::{Arrival, Outcome, Target};

use crate::buyers::{all_won, rate, send_buyers, wait_until_served};
use crate::client::{RecordedResponse, buy_once};
use crate::cpu::CpuMeter;
use crate::harness::{ActiveSale, Harness, Program, not_started, open, over};
use crate::report::{Cost, Goal, Measured, Row};

/// In the rounds at saturation.
const BUYERS: u32 = 40_000;
const WARM_UP: u32 = 5_000;
/// Enough that the server never waits for a buyer, and few enough that the queues are short.
const IN_FLIGHT: usize = 256;
/// How long buyers come at half of the saturation rate.
const HALF_RATE_DURATION: Duration = Duration::from_secs(4);
/// Any sale: the limit server answers all of them.
const LIMIT_SALE: &str = "bench/limit";

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    SoldOut,
    NotStarted,
    Ended,
}

/// All buyers come at once, and are served as fast as they are answered.
async fn saturate(target: Target, sale: &str, buyers: u32) -> Result<Outcome> {
    send_buyers(target, sale, buyers, Arrival::AtOnce, IN_FLIGHT).await
}

/// The programs of a scenario.
struct Programs {
    worker: Program,
    api: Program,
    limit: Program,
}

impl Programs {
    /// Warms both servers up with buyers of this sale.
    async fn warm_up(&self, sale: &ActiveSale) -> Result<()> {
        for program in [&self.limit, &self.api] {
            saturate(program.target().await?, &sale.path(), WARM_UP).await?;
        }
        Ok(())
    }

    fn start_meter(&self) -> Result<CpuMeter> {
        CpuMeter::start(&[
            ("seckill-api", &self.api),
            ("order-worker", &self.worker),
            ("the limit", &self.limit),
        ])
    }
}

pub async fn purchase(harness: &Harness, rounds: u32) -> Result<Measured> {
    const WHAT: &str = "purchases, HTTP to 201, at saturation";
    let (worker, api) = (harness.worker().await?, harness.api().await?);
    let first = harness.offer(1_000_000, open()).await?;
    wait_until_served(&api, &first).await?;
    let response = buy_once(api.address.context("no address")?, &first.path()).await?;
    ensure!(response.status == 201, "{response:?}");
    let limit = harness.limit(&response).await?;
    let programs = Programs { worker, api, limit };
    programs.warm_up(&first).await?;
    harness.wait_until_stored(first.sale.partition).await?;

    let mut figures = PurchaseFigures::default();
    let (mut cost, mut limit_cost) = (Cost::new("purchase, until it is stored"), Cost::new("its limit"));
    let mut meter = programs.start_meter()?;
    for _ in 0..rounds {
        meter.spent(1)?;
        let limited = saturate(programs.limit.target().await?, LIMIT_SALE, BUYERS).await?;
        limit_cost.add(meter.spent(limited.answered)?);
        let sale = harness.offer(1_000_000, open()).await?;
        wait_until_served(&programs.api, &sale).await?;
        meter.spent(1)?;
        let won = saturate(programs.api.target().await?, &sale.path(), BUYERS).await?;
        if let Err(why) = all_won(&won) {
            return Ok(vec![Row::broken(WHAT, why)].into());
        }
        harness.wait_until_stored(sale.sale.partition).await?;
        cost.add(meter.spent(won.answered)?);
        let (limited_half, won_half) = at_half_rate(&programs, &sale, rate(&won) / 2.0).await?;
        let checked = match all_won(&won_half) {
            Ok(()) => harness.check(&sale, won.counts.won + won_half.counts.won).await,
            broken => broken,
        };
        if let Err(why) = checked {
            return Ok(vec![Row::broken(WHAT, why)].into());
        }
        figures.add(&won, &limited, &won_half, &limited_half);
    }
    let costs = vec![cost, limit_cost];
    let rows = figures.rows(WHAT);
    Ok(Measured { rows, costs })
}

/// The same rate for the limit and for the API. Returns the outcomes in this order.
async fn at_half_rate(programs: &Programs, sale: &ActiveSale, rate: f64) -> Result<(Outcome, Outcome)> {
    let buyers = (rate * HALF_RATE_DURATION.as_secs_f64()) as u32;
    let arrival = Arrival::Poisson(rate);
    let limited = send_buyers(programs.limit.target().await?, LIMIT_SALE, buyers, arrival, 10_000).await?;
    let won = send_buyers(programs.api.target().await?, &sale.path(), buyers, arrival, 10_000).await?;
    Ok((limited, won))
}

/// A figure for each round.
#[derive(Default)]
struct PurchaseFigures {
    rates: Vec<f64>,
    limit_rates: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    limit_p50: Vec<f64>,
    limit_p99: Vec<f64>,
}

impl PurchaseFigures {
    fn add(&mut self, won: &Outcome, limited: &Outcome, won_half: &Outcome, limited_half: &Outcome) {
        self.rates.push(rate(won));
        self.limit_rates.push(rate(limited));
        self.p50.push(won_half.latency.from_schedule.p50_ms);
        self.p99.push(won_half.latency.from_schedule.p99_ms);
        self.limit_p50.push(limited_half.latency.from_schedule.p50_ms);
        self.limit_p99.push(limited_half.latency.from_schedule.p99_ms);
    }

    fn rows(self, what: &str) -> Vec<Row> {
        vec![
            Row::new(what, "/s", self.rates)
                .beside(self.limit_rates)
                .goal(Goal::RatioAtLeast(0.5)),
            Row::new("at half of that rate: from arrival to answer, p50", "ms", self.p50)
                .beside(self.limit_p50)
                .goal(Goal::AtMost(8.0)),
            Row::new("at half of that rate: from arrival to answer, p99", "ms", self.p99)
                .beside(self.limit_p99)
                .goal(Goal::AtMost(30.0)),
        ]
    }
}

impl Refusal {
    fn when(self) -> &'static str {
        match self {
            Refusal::SoldOut => "sold out",
            Refusal::NotStarted => "before the start",
            Refusal::Ended => "after the end",
        }
    }

    fn goal(self) -> Goal {
        Goal::RatioAtLeast(match self {
            Refusal::SoldOut => 0.85,
            Refusal::NotStarted | Refusal::Ended => 0.9,
        })
    }

    /// A sale of one unit that answers every buyer with this refusal, except the first one if it is [`Refusal::SoldOut`].
    async fn offer(self, harness: &Harness) -> Result<ActiveSale> {
        let terms = match self {
            Refusal::SoldOut => open(),
            Refusal::NotStarted => not_started(),
            Refusal::Ended => over(),
        };
        harness.offer(1, terms).await
    }

    /// The response to a buyer who is refused.
    async fn record(self, api: &Program, sale: &ActiveSale) -> Result<RecordedResponse> {
        let address = api.address.context("no address")?;
        let response = buy_once(address, &sale.path()).await?;
        if self != Refusal::SoldOut {
            return Ok(response);
        }
        ensure!(response.status == 201, "{response:?}");
        buy_once(address, &sale.path()).await
    }

    /// How many buyers were refused in this way.
    fn count(self, outcome: &Outcome) -> u64 {
        match self {
            Refusal::SoldOut => outcome.counts.sold_out,
            Refusal::NotStarted => outcome.counts.not_started,
            Refusal::Ended => outcome.counts.ended,
        }
    }
}

pub async fn refusals(harness: &Harness, rounds: u32, refusal: Refusal) -> Result<Measured> {
    let when = refusal.when();
    let what = format!("{when}: answers, at saturation");
    let (worker, api) = (harness.worker().await?, harness.api().await?);
    let sale = refusal.offer(harness).await?;
    wait_until_served(&api, &sale).await?;
    let limit = harness.limit(&refusal.record(&api, &sale).await?).await?;
    let programs = Programs { worker, api, limit };
    programs.warm_up(&sale).await?;

    let (mut rates, mut limits) = (Vec::new(), Vec::new());
    let (mut cost, mut limit_cost) = (Cost::new(format!("answer, {when}")), Cost::new("its limit"));
    let mut meter = programs.start_meter()?;
    for _ in 0..rounds {
        let limited = saturate(programs.limit.target().await?, &sale.path(), BUYERS).await?;
        limit_cost.add(meter.spent(limited.answered)?);
        let refused = saturate(programs.api.target().await?, &sale.path(), BUYERS).await?;
        cost.add(meter.spent(refused.answered)?);
        if refusal.count(&refused) != refused.buyers {
            let why = format!("{:?}; {:?}", refused.counts, refused.samples);
            return Ok(vec![Row::broken(what, why)].into());
        }
        limits.push(rate(&limited));
        rates.push(rate(&refused));
    }
    let rows = vec![Row::new(what, "/s", rates).beside(limits).goal(refusal.goal())];
    let costs = vec![cost, limit_cost];
    Ok(Measured { rows, costs })
}
