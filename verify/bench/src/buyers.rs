//! Buyers over HTTP, by the load generator.
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::HeaderValue;
use seckill_load::{Arrival, Outcome, Plan, Route, Target};

use crate::client::get_status;
use crate::harness::{ActiveSale, Program, WAIT_TIMEOUT};

pub async fn send_buyers(
    target: Target,
    sale: &str,
    buyers: u32,
    arrival: Arrival,
    in_flight: usize,
) -> Result<Outcome> {
    send_buyers_with(target, sale, buyers, arrival, in_flight, Arc::default()).await
}

/// The same with a token each.
pub async fn send_buyers_with(
    target: Target,
    sale: &str,
    buyers: u32,
    arrival: Arrival,
    in_flight: usize,
    tokens: Arc<[HeaderValue]>,
) -> Result<Outcome> {
    let plan = Plan {
        target,
        route: Route::v1(sale, 1)?,
        buyers,
        arrival,
        in_flight,
        attempts: 20,
        timeout: Duration::from_secs(10),
        tokens,
    };
    Ok(seckill_load::run(plan, |_| {}).await?)
}

/// Answers per second.
pub fn rate(outcome: &Outcome) -> f64 {
    outcome.answered as f64 / outcome.took_s
}

/// Waits until the API process serves the sale.
pub async fn wait_until_served(api: &Program, sale: &ActiveSale) -> Result<()> {
    let (address, started) = (api.address.context("no address")?, Instant::now());
    let path = format!("/v1/sales/{}", sale.path());
    while get_status(address, &path).await? != 200 {
        ensure!(started.elapsed() < WAIT_TIMEOUT, "seckill-api does not serve {path}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Checks that everybody won, and that each order number was given out once.
pub fn all_won(outcome: &Outcome) -> Result<(), String> {
    let distinct: HashSet<&String> = outcome.wins.iter().map(|win| &win.order_no).collect();
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
