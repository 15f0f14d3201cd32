//! Which order each buyer has: I2, I6, I7, I9, I10.
use std::collections::{BTreeSet, HashMap, HashSet};

use seckill_protocol::{OrderId, OrderStatus, Record};

use super::finding::{Finding, finding};
use super::lookup::{Lookup, Win};
use crate::evidence::Evidence;
use crate::history::{self, BuyerAnswer};

pub fn i2_every_number_is_stored(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let mut numbers = 0;
    for (buyer, wins) in &lookup.wins {
        let buyer = &evidence.history.buyers[*buyer];
        numbers += wins.len();
        for win in wins {
            if let Some(violation) = not_stored(evidence, lookup, buyer, win) {
                violations.push(format!(
                    "{}, given at {} ms to the key {}, {violation}",
                    win.number, win.event.to, buyer.key
                ));
            }
        }
    }
    let quarantined: usize = evidence.sales.iter().map(|sale| sale.quarantined).sum();
    if quarantined > 0 {
        violations.push(format!("{quarantined} records are in quarantine"));
    }
    let checked = format!("{numbers} answers to {} winners", lookup.wins.len());
    let says = "every number given out is in MySQL, with its buyer and quantity";
    finding("I2", says, checked, violations)
}

/// How MySQL differs from what the buyer was given.
fn not_stored(evidence: &Evidence, lookup: &Lookup, buyer: &history::Buyer, win: &Win) -> Option<String> {
    let Ok(id) = evidence.order_no_keys.decode(win.number) else {
        return Some("is not an order number".into());
    };
    let sale = lookup.sales.get(buyer.sale.as_str()).filter(|sale| sale.id == id.sale);
    let Some(order) = sale.and_then(|sale| sale.orders.get(&id)) else {
        return Some(format!("is order {id}, which is not in MySQL"));
    };
    if (order.buyer.clone(), order.key) != buyer.stored() {
        return Some(format!("is order {id}, which MySQL has for {}", order.buyer));
    }
    let (wanted, answered, stored) = (buyer.quantity, win.quantity, order.quantity);
    (stored != answered || stored != wanted)
        .then(|| format!("has other quantities: {wanted} units wanted, {answered} answered, {stored} stored"))
}

pub fn i6_same_key_same_order(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let mut retried = 0;
    for (buyer, wins) in &lookup.wins {
        let key = &evidence.history.buyers[*buyer].key;
        let numbers: BTreeSet<&str> = wins.iter().map(|win| win.number).collect();
        retried += usize::from(wins.len() > 1);
        if numbers.len() > 1 {
            violations.push(format!("{key} was given {numbers:?}"));
        }
        // No later answer may say that nothing was bought.
        let first = wins.iter().map(|win| win.event.to).min().unwrap_or_default();
        for event in &lookup.events[buyer] {
            let refusal = matches!(
                event.answer,
                BuyerAnswer::SoldOut { .. } | BuyerAnswer::Ended | BuyerAnswer::Unknown | BuyerAnswer::NotStarted
            );
            if event.from > first && refusal {
                violations.push(format!(
                    "{key} had won at {first} ms and was answered {:?} at {} ms",
                    event.answer, event.to
                ));
            }
        }
    }
    for sale in &evidence.sales {
        let mut ids = HashMap::new();
        for (id, order) in &sale.orders {
            if let Some(other) = ids.insert((&order.buyer, order.key), id) {
                violations.push(format!(
                    "{}: {} holds {other} and {id} under one key",
                    sale.name, order.buyer
                ));
            }
        }
    }
    let keys = evidence.history.buyers.len();
    let checked = format!("{retried} winners who heard it more than once, {keys} keys");
    let says = "the same buyer and key, the same order, for ever";
    finding("I6", says, checked, violations)
}

pub fn i7_no_number_for_two_buyers(lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let mut owners: HashMap<&str, usize> = HashMap::new();
    for (buyer, wins) in &lookup.wins {
        for Win { number, .. } in wins {
            if let Some(other) = owners.insert(number, *buyer).filter(|other| other != buyer) {
                violations.push(format!("{number} was given to buyers {other} and {buyer}"));
            }
        }
    }
    let checked = format!("{} numbers", owners.len());
    finding("I7", "no number is given to two buyers", checked, violations)
}

pub fn i9_nothing_void_is_stored_or_answered(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let (mut void, mut stored) = (0, 0);
    for sale in &evidence.sales {
        let batches = sale.log.iter().filter_map(|entry| match &entry.record {
            Record::Batch(batch) => Some(batch),
            _ => None,
        });
        let logged: HashSet<OrderId> = batches.flat_map(|batch| batch.iter().map(|(id, _)| id)).collect();
        void += logged.iter().filter(|id| !lookup.counts(id)).count();
        stored += sale.orders.len();
        for id in sale.orders.keys().filter(|id| !lookup.counts(id)) {
            violations.push(format!("{}: {id} is stored, and the log does not count it", sale.name));
        }
    }
    for (buyer, wins) in &lookup.wins {
        for win in wins {
            if let Ok(id) = evidence.order_no_keys.decode(win.number)
                && !lookup.counts(&id)
            {
                let at = win.event.to;
                violations.push(format!(
                    "{id} was given to buyer {buyer} at {at} ms, and the log does not count it"
                ));
            }
        }
    }
    let checked = format!("{stored} stored orders; {void} orders in the log are void");
    finding("I9", "nothing void is stored or answered", checked, violations)
}

/// That the units come back once is part of I3: total = left + live, and a cancelled order is not live.
pub fn i10_cancelled_orders_stay_cancelled(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let mut cancellations = 0;
    let events = evidence.history.events.iter();
    for event in events.filter(|event| event.answer == BuyerAnswer::Cancelled) {
        cancellations += 1;
        let win = lookup.wins.get(&event.buyer).and_then(|wins| wins.first());
        let Some(Ok(id)) = win.map(|win| evidence.order_no_keys.decode(win.number)) else {
            continue;
        };
        let sale = evidence.sales.iter().find(|sale| sale.id == id.sale);
        let status = sale.and_then(|sale| sale.orders.get(&id)).map(|order| order.status);
        if status != Some(OrderStatus::Cancelled) {
            violations.push(format!(
                "{id} was answered \"cancelled\" at {} ms, MySQL has {status:?}",
                event.to
            ));
        }
    }
    let checked = format!("{cancellations} cancellations");
    let says = "a cancelled order is cancelled, and returns its units once";
    finding("I10", says, checked, violations)
}
