//! When a sale may sell: I8.
use std::collections::HashMap;

use seckill_protocol::{Buyer, KeyHash, Record};

use super::finding::{Finding, finding};
use super::lookup::Lookup;
use crate::evidence::{Evidence, Suspension};
use crate::history::{At, RequestKind};

/// Tolerance around the times in which the clock of Redis was wrong.
const CLOCK_STEP_TOLERANCE_MS: u64 = 2000;

pub fn i8_nothing_accepted_outside_the_window(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let orders = outside_of_start_and_end(evidence, lookup, &mut violations);
    while_suspended(evidence, lookup, &mut violations);
    let (suspensions, steps) = (evidence.suspensions.len(), evidence.clock_steps.len());
    let checked = format!("{orders} orders in the log, {suspensions} suspensions, {steps} steps of Redis's clock");
    let says = "nothing is accepted outside of its window or a suspension";
    finding("I8", says, checked, violations)
}

/// Returns how many orders were checked.
fn outside_of_start_and_end(evidence: &Evidence, lookup: &Lookup, violations: &mut Vec<String>) -> usize {
    let asked = first_purchases(evidence, lookup);
    let mut orders = 0;
    for sale in &evidence.sales {
        let moved = evidence.ended.get(&sale.name).map_or(0, |at| evidence.started_at + at);
        let end = sale.closes_at.max(moved);
        for entry in &sale.log {
            let Record::Batch(batch) = &entry.record else { continue };
            for (id, order) in batch.iter().filter(|(id, _)| lookup.counts(id)) {
                orders += 1;
                let tier = sale.terms.tiers.get(usize::from(order.tier));
                let opens_at = tier.map_or(sale.opens_at, |tier| tier.opens);
                if entry.at + redis_clock_offset(evidence, Some(&sale.name), entry.at) < opens_at {
                    violations.push(format!(
                        "{}: order {id} is older than the opening of its tier",
                        sale.name
                    ));
                }
                if let Some(first) = asked.get(&(order.buyer.clone(), order.key))
                    && *first > end + redis_clock_offset(evidence, None, *first)
                {
                    let late = first - end;
                    violations.push(format!(
                        "{}: {id} was first asked for {late} ms after the end",
                        sale.name
                    ));
                }
            }
        }
    }
    orders
}

fn while_suspended(evidence: &Evidence, lookup: &Lookup, violations: &mut Vec<String>) {
    for (buyer, wins) in &lookup.wins {
        let sale = &evidence.history.buyers[*buyer].sale;
        let first = lookup.first_request(*buyer);
        let won = wins.iter().map(|win| win.event.to).min().unwrap_or_default();
        let suspensions = evidence.suspensions.iter().filter(|s| s.sale == *sale);
        for Suspension { from, to, .. } in suspensions {
            if first > *from && won < *to {
                violations.push(format!(
                    "{sale}: bought between {first} and {won} ms, suspended {from} to {to} ms"
                ));
            }
        }
    }
}

/// When each buyer sent its first purchase, in unix milliseconds.
fn first_purchases(evidence: &Evidence, lookup: &Lookup) -> HashMap<(Buyer, KeyHash), At> {
    let mut first_purchases = HashMap::new();
    for (buyer, events) in &lookup.events {
        let purchases = events.iter().filter(|event| event.kind == RequestKind::Buy);
        if let Some(first) = purchases.map(|event| event.from).min() {
            let stored = evidence.history.buyers[*buyer].stored();
            first_purchases.insert(stored, evidence.started_at + first);
        }
    }
    first_purchases
}

/// How far the clock by which Redis opens and ends sales may have been off then. A wrong clock opens no sale that was
/// preheated after it was set.
pub fn redis_clock_offset(evidence: &Evidence, opening: Option<&str>, at: u64) -> u64 {
    let steps = evidence.clock_steps.iter().filter(|step| {
        if opening.is_some() && step.preheated.as_deref() == opening {
            return false;
        }
        (evidence.started_at + step.from).saturating_sub(CLOCK_STEP_TOLERANCE_MS) <= at
            && at <= evidence.started_at + step.to + CLOCK_STEP_TOLERANCE_MS
    });
    steps.map(|step| step.offset_ms).max().unwrap_or_default()
}
