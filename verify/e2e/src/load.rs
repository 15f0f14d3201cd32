//! Buyers who keep buying while something happens to a release.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::buyers::{ApiClient, PurchaseResult, new_key};
use crate::cluster::wait_until;

/// A purchase has failed if its buyer has no final answer after this time, although the buyer retried with the same key.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const STORE_LIMIT: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Between two purchases of one buyer.
const PAUSE: Duration = Duration::from_millis(50);
const BUYERS: usize = 16;
/// The load runs alone for this time before and after the event.
const MARGIN: Duration = Duration::from_secs(3);

/// What the buyers saw.
#[derive(Debug, Default)]
pub struct LoadReport {
    pub order_numbers: Vec<String>,
    /// Why a purchase has failed.
    pub failed: Vec<String>,
    /// Answers that were not final, by status, and requests without an answer ("none").
    retried: BTreeMap<String, usize>,
    final_answers: Vec<Instant>,
}

impl LoadReport {
    /// The longest time without a final answer to any buyer.
    pub fn longest_gap(&self) -> Duration {
        let mut times = self.final_answers.clone();
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// Checks that each purchase was answered, that each number was given out once, and that each order can be looked up.
    pub fn check(&self, api: &ApiClient) -> Result<()> {
        ensure!(self.failed.is_empty(), "{self}; failed: {:#?}", self.failed);
        ensure!(!self.order_numbers.is_empty(), "nobody bought");
        let mut distinct = self.order_numbers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        ensure!(
            distinct.len() == self.order_numbers.len(),
            "a number was given out twice"
        );
        let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let deadline = Instant::now() + STORE_LIMIT;
        thread::scope(|scope| {
            for _ in 0..BUYERS {
                scope.spawn(|| {
                    while let Some(number) = distinct.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = wait_until_stored(api, number, deadline) {
                            wrong.lock().expect("no thread panics").push(format!("{error:#}"));
                        }
                    }
                });
            }
        });
        let wrong = wrong.into_inner().expect("no thread panics");
        ensure!(wrong.is_empty(), "orders that can't be looked up: {wrong:#?}");
        Ok(())
    }

    fn add(&mut self, other: LoadReport) {
        self.order_numbers.extend(other.order_numbers);
        self.failed.extend(other.failed);
        self.final_answers.extend(other.final_answers);
        for (status, count) in other.retried {
            *self.retried.entry(status).or_default() += count;
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bought, failed) = (self.order_numbers.len(), self.failed.len());
        let gap = self.longest_gap().as_millis();
        write!(f, "{bought} purchases, {failed} failed, longest gap {gap} ms, retried")?;
        if self.retried.is_empty() {
            return f.write_str(" 0");
        }
        for (status, count) in &self.retried {
            write!(f, " {status}: {count}")?;
        }
        Ok(())
    }
}

/// Lets buyers buy from an open sale, one unit after another, until the event is over.
pub fn buy_during(api: &ApiClient, sale: &str, event: impl FnOnce() -> Result<()>) -> Result<LoadReport> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let buyers: Vec<_> = (0..BUYERS)
            .map(|_| scope.spawn(|| buy_until(api, sale, &over)))
            .collect();
        thread::sleep(MARGIN);
        let result = event();
        thread::sleep(MARGIN);
        over.store(true, Ordering::Relaxed);
        let mut report = LoadReport::default();
        for buyer in buyers {
            report.add(buyer.join().ok().context("a buyer panicked")?);
        }
        result.with_context(|| report.to_string())?;
        Ok(report)
    })
}

fn buy_until(api: &ApiClient, sale: &str, over: &AtomicBool) -> LoadReport {
    let mut report = LoadReport::default();
    while !over.load(Ordering::Relaxed) {
        buy_once(api, sale, &mut report);
        thread::sleep(PAUSE);
    }
    report
}

fn buy_once(api: &ApiClient, sale: &str, report: &mut LoadReport) {
    let (key, started) = (new_key(), Instant::now());
    loop {
        let answer = api.buy(sale, &key);
        match &answer {
            Ok(answer) if answer.result() == PurchaseResult::Won => {
                let number = answer.body["order_no"].as_str().unwrap_or_default();
                report.order_numbers.push(number.to_owned());
                report.final_answers.push(Instant::now());
                return;
            }
            Ok(answer) if answer.result() != PurchaseResult::Open => {
                report.failed.push(format!("{key}: {answer:?}"));
                return;
            }
            _ => {}
        }
        let status = answer
            .as_ref()
            .map_or("none".to_owned(), |answer| answer.status.to_string());
        *report.retried.entry(status).or_default() += 1;
        if started.elapsed() > ANSWER_LIMIT {
            report
                .failed
                .push(format!("{key}: no final answer in {ANSWER_LIMIT:?}: {answer:?}"));
            return;
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

/// Waits until an order is stored, and is shown as placed. The ingress may still lead to a pod that is gone.
pub fn wait_until_stored(api: &ApiClient, number: &str, deadline: Instant) -> Result<()> {
    let limit = deadline.saturating_duration_since(Instant::now());
    wait_until("the order to be stored", limit, || {
        let order = api.get(&format!("/v1/orders/{number}"))?;
        let placed = order.status == 200 && order.body["status"] == "placed";
        ensure!(placed, "{number}: {order:?}");
        Ok(Some(()))
    })
}
