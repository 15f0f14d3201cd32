//! More API processes, more sales, more stock: each beside one process and one sale.
use anyhow::Result;
use futures::future::try_join_all;
use seckill_load::Arrival;

use crate::buyers::{all_won, send_buyers, wait_until_served};
use crate::cpu::resident_mib;
use crate::harness::{ActiveSale, Harness, Program, open};
use crate::report::{Goal, Row};

const BUYERS: u32 = 20_000;
const IN_FLIGHT: usize = 256;

pub async fn scale(harness: &Harness, rounds: u32) -> Result<Vec<Row>> {
    let _worker = harness.worker().await?;
    let apis = try_join_all((0..4).map(|_| harness.api())).await?;
    let mut variants = vec![
        Variant::new("1 API process, 1 sale, a stock of 1,000,000", 1, 1, 1_000_000),
        Variant::new("2 API processes", 2, 1, 1_000_000),
        Variant::new("4 API processes", 4, 1, 1_000_000),
        Variant::new("2 sales", 1, 2, 1_000_000),
        Variant::new("4 sales", 1, 4, 1_000_000),
        Variant::new("a stock of 20,000", 1, 1, 20_000),
        Variant::new("a stock of 10,000,000", 1, 1, 10_000_000),
    ];
    for _ in 0..rounds {
        for variant in &mut variants {
            if let Err(why) = variant.round(harness, &apis).await? {
                return Ok(vec![Row::broken(variant.what, why)]);
            }
        }
    }
    let one = variants[0].wins.clone();
    let memory = max_resident_mib(&apis)?;
    let by_stock = |n: usize| {
        Row::new(
            format!("Redis: memory for each buyer with an order, {}", variants[n].what),
            "bytes",
            variants[n].redis_bytes.clone(),
        )
    };
    let redis_rows = [5, 0, 6].map(by_stock);
    let rows = variants.into_iter().enumerate().map(|(n, variant)| {
        let row = Row::new(format!("wins, {}", variant.what), "/s", variant.wins);
        match n {
            0 => row,
            5 | 6 => row.beside(one.clone()).goal(Goal::RatioAtLeast(0.85)),
            _ => row.beside(one.clone()),
        }
    });
    let mut rows: Vec<Row> = rows.collect();
    rows.extend(redis_rows);
    rows.push(Row::new(
        "memory of the busiest seckill-api after all of that",
        "MiB",
        vec![memory],
    ));
    Ok(rows)
}

/// The most memory of one process, in MiB.
fn max_resident_mib(apis: &[Program]) -> Result<f64> {
    let resident = apis.iter().map(|api| resident_mib(api.pid()?));
    let resident: Result<Vec<f64>> = resident.collect();
    Ok(resident?.into_iter().fold(0.0, f64::max))
}

struct Variant {
    what: &'static str,
    apis: usize,
    sales: usize,
    stock: u64,
    wins: Vec<f64>,
    redis_bytes: Vec<f64>,
}

impl Variant {
    fn new(what: &'static str, apis: usize, sales: usize, stock: u64) -> Self {
        Variant {
            what,
            apis,
            sales,
            stock,
            wins: Vec::new(),
            redis_bytes: Vec::new(),
        }
    }

    /// The same number of buyers in all, whatever the variant.
    async fn round(&mut self, harness: &Harness, apis: &[Program]) -> Result<Result<(), String>> {
        let empty = harness.redis_memory().await?;
        let sales: Vec<ActiveSale> = try_join_all((0..self.sales).map(|_| harness.offer(self.stock, open()))).await?;
        let mut crowds = Vec::new();
        for sale in &sales {
            for api in &apis[..self.apis] {
                wait_until_served(api, sale).await?;
                crowds.push((api.target().await?, sale.path()));
            }
        }
        let (each, in_flight) = (BUYERS / crowds.len() as u32, IN_FLIGHT / crowds.len());
        let running = crowds
            .into_iter()
            .map(async |(target, sale)| send_buyers(target, &sale, each, Arrival::AtOnce, in_flight).await);
        let outcomes = try_join_all(running).await?;
        for outcome in &outcomes {
            if let Err(why) = all_won(outcome) {
                return Ok(Err(why));
            }
        }
        for sale in &sales {
            if let Err(why) = harness.check(sale, u64::from(BUYERS) / self.sales as u64).await {
                return Ok(Err(why));
            }
            harness.wait_until_trimmed(sale).await?;
        }
        let holding = harness.redis_memory().await?;
        self.redis_bytes.push((holding - empty) / f64::from(BUYERS));
        for sale in &sales {
            harness.stock.drop_sale(sale.sale.id).await?;
        }
        let took = outcomes.iter().map(|outcome| outcome.took_s).fold(0.0, f64::max);
        self.wins.push(f64::from(BUYERS) / took);
        Ok(Ok(()))
    }
}
