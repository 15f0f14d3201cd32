//! What buyers with an identity may have: I5, I16.
use std::collections::{BTreeMap, HashMap};

use seckill_protocol::{Buyer, Offset, OrderId, Quantity, Record, Tier};

use super::finding::{Finding, finding};
use super::lookup::Lookup;
use super::window::redis_clock_offset;
use crate::evidence::{Evidence, LogEntry, Sale};

/// An accepted order, and where the log has it and its cancellation.
struct Order<'a> {
    buyer: &'a Buyer,
    tier: Tier,
    quantity: Quantity,
    at: Offset,
    cancelled_at: Option<Offset>,
}

impl Order<'_> {
    /// Whether an index that sells at this offset counts the order. It learns of a cancellation only from the log.
    fn is_live_at(&self, offset: Offset) -> bool {
        self.cancelled_at.is_none_or(|at| at > offset)
    }
}

pub fn i5_no_buyer_has_more_than_the_limit(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let (mut checked_orders, mut several) = (0, 0);
    for sale in evidence.sales.iter().filter(|sale| sale.terms.limit > 0) {
        let mut by_buyer: HashMap<&Buyer, Vec<Order>> = HashMap::new();
        for order in orders(sale, lookup).into_values() {
            by_buyer.entry(order.buyer).or_default().push(order);
        }
        several += by_buyer.values().filter(|orders| orders.len() > 1).count();
        for (buyer, orders) in by_buyer {
            // In the order in which the index sold them.
            for (n, order) in orders.iter().enumerate() {
                checked_orders += 1;
                let earlier = orders[..n].iter().filter(|earlier| earlier.is_live_at(order.at));
                let units = earlier.map(|earlier| earlier.quantity).sum::<u32>() + order.quantity;
                let (_, limit) = sale.terms.opening_and_limit(order.tier);
                if limit > 0 && units > limit {
                    let (name, tier, at) = (&sale.name, order.tier, order.at);
                    violations.push(format!(
                        "{name}: {buyer} has {units} units with the order at offset {at}, and the limit of tier {tier} is {limit}"
                    ));
                }
            }
        }
    }
    let checked = format!("{checked_orders} orders of buyers with a limit; {several} buyers have several");
    finding("I5", "no buyer has more units than the limit", checked, violations)
}

pub fn i16_units_are_kept_until_their_release(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let (mut batches, mut before_release) = (0, 0);
    for sale in evidence.sales.iter().filter(|sale| !sale.terms.tiers.is_empty()) {
        let orders = orders(sale, lookup);
        let mut total = 0;
        for entry in &sale.log {
            match &entry.record {
                Record::Total { total: new, .. } => total = total.max(*new),
                Record::Batch(_) => {
                    batches += 1;
                    let now = entry.at + redis_clock_offset(evidence, Some(&sale.name), entry.at);
                    before_release += usize::from(sale.terms.tiers.iter().any(|tier| now < tier.release));
                    let needed = needed(sale, &orders, entry.offset, now);
                    if needed > total {
                        let (name, offset) = (&sale.name, entry.offset);
                        violations.push(format!(
                            "{name}: at offset {offset}, {needed} units are sold or kept for a tier, of {total}"
                        ));
                    }
                }
                _ => {}
            }
        }
    }
    let checked = format!("{batches} batches of sales with tiers, {before_release} of them before a release");
    let says = "what is kept for a tier is sold to nobody else before its release";
    finding("I16", says, checked, violations)
}

/// The units that each tier has, or that are kept for it, whichever is more.
fn needed(sale: &Sale, orders: &BTreeMap<OrderId, Order>, offset: Offset, now: u64) -> u64 {
    let mut units = vec![0u64; sale.terms.tiers.len()];
    let sold = orders
        .values()
        .filter(|order| order.at <= offset && order.is_live_at(offset));
    for order in sold {
        if let Some(units) = units.get_mut(usize::from(order.tier)) {
            *units += u64::from(order.quantity);
        }
    }
    let tiers = sale.terms.tiers.iter().zip(units);
    tiers.map(|(tier, units)| units + tier.kept(units, now)).sum()
}

/// The orders that count, by epoch and seq.
fn orders<'a>(sale: &'a Sale, lookup: &Lookup) -> BTreeMap<OrderId, Order<'a>> {
    let mut orders: BTreeMap<OrderId, Order<'a>> = BTreeMap::new();
    let mut cancelled: HashMap<OrderId, Offset> = HashMap::new();
    for LogEntry { offset, record, .. } in &sale.log {
        match record {
            Record::Batch(batch) => {
                for (id, order) in batch.iter().filter(|(id, _)| lookup.counts(id)) {
                    // The first copy counts: all copies after a later barrier are void.
                    orders.entry(id).or_insert(Order {
                        buyer: &order.buyer,
                        tier: order.tier,
                        quantity: order.quantity,
                        at: *offset,
                        cancelled_at: None,
                    });
                }
            }
            Record::Cancel { .. } => {
                if let Some(id) = record.changed_order() {
                    cancelled.entry(id).or_insert(*offset);
                }
            }
            _ => {}
        }
    }
    for (id, offset) in cancelled {
        if let Some(order) = orders.get_mut(&id) {
            order.cancelled_at = Some(offset);
        }
    }
    orders
}
