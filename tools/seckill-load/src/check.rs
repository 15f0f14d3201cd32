//! Checks that hold for every correct sale, as far as a client can see.
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::connections::Connections;
use crate::crowd::Crowd;
use crate::outcome::{Outcome, Win};
use crate::plan::{Plan, Route};
use crate::sale_times::SaleTimes;

/// Low, because the look-ups are a check and not a load.
const MAX_CONCURRENT_LOOKUPS: usize = 32;

const LOOKUP_ATTEMPTS: u32 = 5;

/// The server that gives its time is not the one that decides when a sale opens. Their clocks differ by less than this.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

/// A statement about the run, and whether it is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: String,
    pub passed: bool,
}

impl Check {
    fn new(passed: bool, what: String) -> Self {
        Check { what, passed }
    }
}

/// Checks of the answers alone. `units` is the stock of the sale, if known.
pub fn answers(plan: &Plan, outcome: &Outcome, units: Option<u64>) -> Vec<Check> {
    let counts = &outcome.counts;
    let mut checks = vec![Check::new(
        counts.unanswered == 0,
        format!("every buyer got an answer: {} of {}", outcome.answered, outcome.buyers),
    )];
    let numbers = outcome.wins.iter().map(|win| &win.order_no);
    let distinct = numbers.collect::<HashSet<_>>().len();
    checks.push(Check::new(
        distinct as u64 == counts.won,
        format!(
            "each winner has its own order number: {distinct} numbers, {} winners",
            counts.won
        ),
    ));
    if let Some(units) = units {
        let sold = counts.won * u64::from(plan.route.quantity());
        checks.push(Check::new(
            sold <= units,
            format!("no more units were sold than in stock: {sold} of {units} units"),
        ));
    }
    checks
}

/// Checks of the answers to a signed crowd. `limit` is the limit per buyer of those whose tier has no other one.
pub fn crowd(plan: &Plan, outcome: &Outcome, crowd: &Crowd, times: &SaleTimes, limit: Option<u32>) -> Vec<Check> {
    let mut checks = vec![openings(outcome, crowd, times)];
    if limit.is_some() || crowd.has_limits() {
        checks.push(limits(plan, outcome, crowd, limit));
    }
    checks
}

fn limits(plan: &Plan, outcome: &Outcome, crowd: &Crowd, limit: Option<u32>) -> Check {
    let mut units: HashMap<usize, u64> = HashMap::new();
    for win in &outcome.wins {
        *units.entry(crowd.person(win.buyer)).or_default() += u64::from(plan.route.quantity());
    }
    let above = units.iter().filter(|(person, units)| {
        let tier = crowd.tier(**person);
        tier.and_then(|tier| tier.limit)
            .or(limit)
            .is_some_and(|limit| **units > limit.into())
    });
    let (above, most) = (above.count(), units.values().max().copied().unwrap_or_default());
    Check::new(
        above == 0,
        format!(
            "no buyer got more units than the limit: {} buyers with orders, at most {most} units each, {above} above the limit",
            units.len()
        ),
    )
}

fn openings(outcome: &Outcome, crowd: &Crowd, times: &SaleTimes) -> Check {
    let too_early = |win: &&Win| {
        let before = crowd.tier(crowd.person(win.buyer)).map(|tier| tier.opens_before);
        times.is_before_opening(win.at, before.unwrap_or_default() + CLOCK_TOLERANCE)
    };
    let early = outcome.wins.iter().filter(too_early).count();
    Check::new(
        early == 0,
        format!(
            "no buyer got an order before the sale opened for the buyer, by the server's clock: {} orders, {early} too early",
            outcome.wins.len()
        ),
    )
}

/// Looks up at most `most` of the orders, evenly chosen.
pub async fn orders(plan: &Plan, outcome: &Outcome, most: usize) -> Check {
    let numbers = evenly_chosen(&outcome.wins, most);
    let connections = Connections::to(plan.target.clone());
    let missing: Vec<String> = futures::stream::iter(&numbers)
        .map(|win| look_up(plan, &connections, win))
        .buffer_unordered(MAX_CONCURRENT_LOOKUPS)
        .filter_map(async |found| found.err())
        .collect()
        .await;
    let found = numbers.len() - missing.len();
    let first = missing.first().map(|error| format!("; {error}")).unwrap_or_default();
    Check::new(
        missing.is_empty(),
        format!("the orders can be looked up: {found} of {}{first}", numbers.len()),
    )
}

async fn look_up(plan: &Plan, connections: &Connections, win: &Win) -> Result<(), String> {
    let number = &win.order_no;
    if number.len() > 128 || !number.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err(format!("{number:?} is not an order number"));
    }
    let path = match plan.route {
        Route::V1 { .. } => format!("/v1/orders/{number}"),
        Route::Legacy { .. } => format!("/seckill/query_order?order_id={number}"),
    };
    let mut error = String::new();
    for attempt in 0..LOOKUP_ATTEMPTS {
        sleep(Duration::from_millis(200) * attempt).await;
        // The path has only plain characters, so the request is valid.
        let mut request = Request::get(&path);
        if let Some(token) = plan.token(win.buyer) {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap_or_default();
        match timeout(plan.timeout, connections.exchange(request)).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => return is_order(answer.body(), number),
            Ok(Ok(answer)) => error = format!("{number}: {}", answer.status()),
            Ok(Err(failed)) => error = format!("{number}: {}", failed.reason()),
            Err(_) => error = format!("{number}: no answer within {:?}", plan.timeout),
        }
    }
    Err(error)
}

fn is_order(body: &[u8], number: &str) -> Result<(), String> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let returned = body["order_no"].as_str().or(body["order_id"].as_str());
    match returned {
        Some(returned) if returned == number => Ok(()),
        _ => Err(format!("{number}: the answer has the order number {returned:?}")),
    }
}

fn evenly_chosen<T: Clone>(all: &[T], most: usize) -> Vec<T> {
    let count = all.len().min(most);
    (0..count).map(|i| all[i * all.len() / count].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_to_look_up_are_spread_evenly() {
        let all: Vec<String> = (0..10).map(|i| i.to_string()).collect();
        assert_eq!(evenly_chosen(&all, 5), ["0", "2", "4", "6", "8"]);
        assert_eq!(evenly_chosen(&all, 100).len(), 10);
        assert!(evenly_chosen::<String>(&[], 5).is_empty());
        assert!(evenly_chosen(&all, 0).is_empty());
    }

    #[test]
    fn an_answer_about_another_order_fails() {
        assert_eq!(is_order(br#"{"order_no":"1A"}"#, "1A"), Ok(()));
        assert_eq!(is_order(br#"{"order_id":"1A","status":{}}"#, "1A"), Ok(()));
        assert!(is_order(br#"{"order_no":"1B"}"#, "1A").is_err());
        assert!(is_order(b"", "1A").is_err());
    }
}
