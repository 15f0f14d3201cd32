//! When a sale may end: I15.
use seckill_protocol::Record;

use super::finding::{Finding, finding};
use super::lookup::Lookup;
use super::window::redis_clock_offset;
use crate::evidence::Evidence;
use crate::history::BuyerAnswer;

/// The clocks of a run are the same clock, read at different moments.
const CLOCK_TOLERANCE_MS: u64 = 1000;

/// No fault of the run deletes a FlashSale for good, so each sale ends at the end that the run ordered last.
pub fn i15_no_sale_ends_but_by_its_own_end(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let (mut closed, mut ended) = (0, 0);
    for (name, end) in &evidence.ends {
        let Some(sale) = lookup.sales.get(name.as_str()) else {
            violations.push(format!("{name} was created, and MySQL does not know it"));
            continue;
        };
        for entry in sale
            .log
            .iter()
            .filter(|entry| matches!(entry.record, Record::Close { .. }))
        {
            closed += 1;
            if entry.at + CLOCK_TOLERANCE_MS < *end {
                violations.push(format!("{name} was closed {} ms before its end", end - entry.at));
            }
        }
    }
    for event in evidence
        .history
        .events
        .iter()
        .filter(|event| event.answer == BuyerAnswer::Ended)
    {
        ended += 1;
        let buyer = &evidence.history.buyers[event.buyer];
        let at = evidence.started_at + event.to;
        let by_redis = at + redis_clock_offset(evidence, None, at) + CLOCK_TOLERANCE_MS;
        if evidence.ends.get(&buyer.sale).is_some_and(|end| by_redis < *end) {
            let (sale, key) = (&buyer.sale, &buyer.key);
            violations.push(format!(
                "{sale}: {key} was answered \"ended\" at {} ms, before the end",
                event.to
            ));
        }
    }
    let checked = format!("{closed} closed sales, {ended} answers \"ended\"");
    let says = "no sale ends but by its own end, its own deletion, or a person's word";
    finding("I15", says, checked, violations)
}
