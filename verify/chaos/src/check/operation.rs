//! Recovery and memory of the programs (I13, I14), and whether the run itself was complete.
use std::time::Duration;

use super::finding::{Finding, finding};
use super::lookup::Lookup;
use crate::evidence::{Evidence, Recovery};
use crate::history::BuyerAnswer;

/// The product promises 10 s; the machine may be busy with other things as well.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Several times what a program needs with a crowd like this, so that only unbounded growth reaches it.
pub const MAX_PROGRAM_KIB: u64 = 256 * 1024;

pub fn i13_selling_and_storing_recover(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let Recovery {
        resumed_ms,
        drained_ms,
        unrecovered,
    } = &evidence.recovery;
    for (failure, took) in [
        ("selling did not resume", resumed_ms),
        ("sold units were not stored", drained_ms),
    ] {
        if took.is_none_or(|took| took > RECOVERY_TIMEOUT.as_millis() as u64) {
            let limit = RECOVERY_TIMEOUT.as_secs();
            violations.push(format!("{failure} within {limit} s: {took:?} ms"));
        }
    }
    violations.extend(unrecovered.iter().cloned());
    let seconds = |took: &Option<u64>| took.map_or("never".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
    let checked = format!(
        "selling after {}, all stored after {}",
        seconds(resumed_ms),
        seconds(drained_ms)
    );
    let says = "after each fault selling resumes, and in the end all is stored and settled";
    finding("I13", says, checked, violations)
}

pub fn i14_what_clients_take_is_bounded(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let above = evidence.peak_memory.iter().filter(|(_, peak)| **peak > MAX_PROGRAM_KIB);
    let mut violations: Vec<String> = above
        .map(|(name, peak)| format!("{name}: {} MiB", peak / 1024))
        .collect();
    violations.extend(evidence.taken.iter().cloned());
    for (name, max) in &evidence.max_orders {
        let fold = lookup
            .sales
            .get(name.as_str())
            .and_then(|sale| lookup.folds.get(&sale.id));
        let orders = fold.map_or(0, |fold| fold.orders().len() as u64);
        if orders > *max {
            violations.push(format!("{name}: {orders} orders were made, at most {max} are allowed"));
        }
    }
    let most = evidence.peak_memory.iter().max_by_key(|(_, peak)| **peak);
    let checked = most.map_or_else(String::new, |(name, peak)| {
        format!("at most {} MiB, {name}", peak / 1024)
    });
    finding(
        "I14",
        "what clients can take is bounded, and so is memory",
        checked,
        violations,
    )
}

pub fn every_buyer_is_answered(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let buyers = &evidence.history.buyers;
    for (i, buyer) in buyers.iter().enumerate().filter(|(_, buyer)| !buyer.done) {
        let last = evidence.history.events.iter().rev().find(|event| event.buyer == i);
        violations.push(format!(
            "{} ({}) never got a final answer; last: {:?}",
            buyer.key,
            buyer.sale,
            last.map(|e| &e.answer)
        ));
    }
    for event in &evidence.history.events {
        if let BuyerAnswer::Unexpected(answer) = &event.answer {
            violations.push(format!(
                "buyer {} got an unexpected answer at {} ms: {answer}",
                event.buyer, event.to
            ));
        }
    }
    let checked = format!("{} buyers, {} requests", buyers.len(), evidence.history.events.len());
    finding("answered", "every buyer gets a definite answer", checked, violations)
}

/// A fault that is not played tests nothing.
pub fn every_fault_is_played(evidence: &Evidence) -> Finding {
    let failed = evidence.failed_faults.clone();
    let checked = format!("{} could not", failed.len());
    finding("played", "every fault could be played", checked, failed)
}
