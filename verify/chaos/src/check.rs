//! What must hold whatever died: the invariants of the protocol, as plain functions over what the buyers heard, the log,
//! MySQL and Redis.
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use seckill_protocol::{
    Buyer, Fold, KeyHash, Offset, OrderId, OrderNoKeys, OrderStatus, Quantity, Record, SaleCut, SaleId,
};
use serde::Serialize;

use crate::history::{Answer, At, Event, Inner, Kind};

/// All that is known at the end.
pub struct Evidence {
    pub history: Inner,
    /// The wall clock when the history began, in unix milliseconds.
    pub begun_at: u64,
    pub numbers: OrderNoKeys,
    pub sales: Vec<Sale>,
    /// From when a sale was surely suspended, until it was told to go on.
    pub suspended: Vec<(String, At, At)>,
    /// When the clock of Redis was wrong, and by how many milliseconds.
    pub stepped: Vec<(At, At, u64)>,
    /// The most memory of each program, in KiB.
    pub peaks: BTreeMap<String, u64>,
    /// Faults that could not be played.
    pub unplayed: Vec<String>,
    /// When the end of a sale had surely taken effect whose end was moved.
    pub ended: HashMap<String, At>,
    pub recovery: Recovery,
}

/// How it came to rest.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Recovery {
    /// After the last fault until the next buyer won.
    pub resumed_ms: Option<u64>,
    /// After the last purchase until everything sold was stored.
    pub drained_ms: Option<u64>,
    /// Sales that did not settle, and what they said.
    pub unsettled: Vec<String>,
}

/// One sale, by MySQL, the log and Redis.
pub struct Sale {
    pub name: String,
    pub id: SaleId,
    pub opens_at: u64,
    pub closes_at: u64,
    pub total: u64,
    pub sold: u64,
    pub cut: SaleCut,
    pub orders: BTreeMap<OrderId, Stored>,
    pub quarantined: usize,
    /// Its index was lost at its end: what that had taken and not brought into the log is sold to nobody.
    pub settled_without_index: bool,
    /// Its records: offset, time stamp in unix milliseconds.
    pub log: Vec<(Offset, u64, Record)>,
    /// Before it was closed, and nothing was under way.
    pub at_rest: Option<Rest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub buyer: Buyer,
    pub key: KeyHash,
    pub quantity: Quantity,
    pub status: OrderStatus,
}

/// The index in Redis, and how much of the log there was then.
#[derive(Debug, Clone, Default)]
pub struct Rest {
    pub log_end: Offset,
    pub epoch: Offset,
    pub total: u64,
    pub left: u64,
    pub outbox: u64,
    /// Buyer -> holdings, as they stand there.
    pub holdings: HashMap<String, String>,
}

/// What came of one invariant.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub invariant: &'static str,
    pub says: &'static str,
    /// What was looked at.
    pub checked: String,
    pub violations: Vec<String>,
}

impl Evidence {
    /// How far the clock by which Redis opens and ends sales may have been off then.
    fn clock_off(&self, at: u64) -> u64 {
        let around = |(from, to, _): &&(At, At, u64)| {
            (self.begun_at + from).saturating_sub(A_MOMENT) <= at && at <= self.begun_at + to + A_MOMENT
        };
        let off = self.stepped.iter().filter(around).map(|(_, _, ms)| *ms);
        off.max().unwrap_or_default()
    }
}

pub fn check(evidence: &Evidence) -> Vec<Finding> {
    let known = Known::of(evidence);
    vec![
        oversell(evidence),
        promises(evidence, &known),
        rest(evidence),
        undersell(evidence, &known),
        same_order(evidence, &known),
        unique_numbers(&known),
        window(evidence, &known),
        void(evidence, &known),
        cancels(evidence, &known),
        sold_out(evidence, &known),
        folds(evidence),
        recovery(evidence),
        memory(evidence),
        answered(evidence),
        played(evidence),
    ]
}

/// What each buyer heard, sorted out.
struct Known<'a> {
    /// Buyer -> what it was told it had won, in order.
    won: HashMap<usize, Vec<(&'a Event, &'a str, Quantity)>>,
    by_buyer: HashMap<usize, Vec<&'a Event>>,
    sales: HashMap<&'a str, &'a Sale>,
    folds: HashMap<SaleId, Fold>,
}

impl<'a> Known<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let mut known = Known {
            won: HashMap::new(),
            by_buyer: HashMap::new(),
            sales: evidence.sales.iter().map(|sale| (sale.name.as_str(), sale)).collect(),
            folds: evidence
                .sales
                .iter()
                .map(|sale| (sale.id, folded(sale, Offset::MAX)))
                .collect(),
        };
        for event in &evidence.history.events {
            known.by_buyer.entry(event.buyer).or_default().push(event);
            if let Answer::Won { number, quantity, .. } = &event.answer {
                known
                    .won
                    .entry(event.buyer)
                    .or_default()
                    .push((event, number, *quantity));
            }
        }
        known
    }
}

/// The product's own fold, from the beginning of the log.
fn folded(sale: &Sale, before: Offset) -> Fold {
    let mut fold = Fold::new(sale.id);
    for (offset, _, record) in sale.log.iter().take_while(|(offset, ..)| *offset < before) {
        fold.read(*offset, record);
    }
    fold
}

fn finding(invariant: &'static str, says: &'static str, checked: String, violations: Vec<String>) -> Finding {
    Finding {
        invariant,
        says,
        checked,
        violations,
    }
}

fn oversell(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let mut records = 0;
    for sale in &evidence.sales {
        let mut fold = Fold::new(sale.id);
        for (offset, _, record) in &sale.log {
            records += 1;
            fold.read(*offset, record);
            if fold.live() > fold.total() {
                let (live, total) = (fold.live(), fold.total());
                violations.push(format!(
                    "{}: {live} of {total} units are sold at offset {offset}",
                    sale.name
                ));
                break;
            }
        }
        let live = live(sale);
        if live > sale.total {
            violations.push(format!("{}: MySQL has {live} live units of {}", sale.name, sale.total));
        }
    }
    let checked = format!("{records} records of {} sales", evidence.sales.len());
    finding("I1", "never more units are sold than offered", checked, violations)
}

fn live(sale: &Sale) -> u64 {
    let live = sale.orders.values().filter(|order| order.status.is_live());
    live.map(|order| u64::from(order.quantity)).sum()
}

fn promises(evidence: &Evidence, known: &Known) -> Finding {
    let mut violations = Vec::new();
    let mut numbers = 0;
    for (buyer, told) in &known.won {
        let buyer = &evidence.history.buyers[*buyer];
        for (event, number, quantity) in told {
            numbers += 1;
            let key = &buyer.key;
            let said = format!("{number}, told at {} ms to the key {key}", event.to);
            let Ok(id) = evidence.numbers.decode(number) else {
                violations.push(format!("{said}, is no order number"));
                continue;
            };
            let sale = known.sales.get(buyer.sale.as_str()).filter(|sale| sale.id == id.sale);
            match sale.and_then(|sale| sale.orders.get(&id)) {
                None => violations.push(format!("{said}, is order {id}, which is not in MySQL")),
                Some(order) if order.buyer != Buyer::anonymous(key) || order.key != KeyHash::of(key) => {
                    violations.push(format!("{said}, is order {id}, which MySQL has for {}", order.buyer));
                }
                Some(order) if order.quantity != *quantity || order.quantity != buyer.quantity => {
                    let (wanted, stored) = (buyer.quantity, order.quantity);
                    violations.push(format!(
                        "{said}: {wanted} units wanted, {quantity} told, {stored} stored"
                    ));
                }
                Some(_) => {}
            }
        }
    }
    let quarantined: usize = evidence.sales.iter().map(|sale| sale.quarantined).sum();
    if quarantined > 0 {
        violations.push(format!("{quarantined} records are in quarantine"));
    }
    let checked = format!("{numbers} answers to {} winners", known.won.len());
    finding(
        "I2",
        "every number given out is in MySQL, with its buyer and quantity",
        checked,
        violations,
    )
}

fn rest(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let mut rested = 0;
    for sale in &evidence.sales {
        if sale.sold != live(sale) {
            violations.push(format!(
                "{}: sales.sold is {}, {} are live",
                sale.name,
                sale.sold,
                live(sale)
            ));
        }
        let Some(rest) = &sale.at_rest else { continue };
        rested += 1;
        let live = folded(sale, rest.log_end).live();
        if rest.total != rest.left + live {
            let Rest { total, left, .. } = rest;
            violations.push(format!("{}: total {total} is not {left} left + {live} live", sale.name));
        }
        if rest.outbox > 0 {
            violations.push(format!(
                "{}: {} batches are still in the outbox",
                sale.name, rest.outbox
            ));
        }
    }
    let checked = format!("{rested} sales at rest, {} in MySQL", evidence.sales.len());
    finding(
        "I3",
        "at rest total = left + live, and the outbox is empty",
        checked,
        violations,
    )
}

/// How long before a record's time stamp what it says may have been true: clocks in this run are one.
const A_MOMENT: u64 = 2000;
/// The index hears of a cancellation from the worker, which may stand still: so long its units are nobody's.
const EFFECTS_WITHIN: u64 = 60_000;

/// Units that a sale got back, or got more of, in a time: what was sold out before need not be any more.
fn returned(sale: &Sale, from: u64, to: u64) -> u64 {
    let mut units = 0;
    let mut total = 0;
    for (_, at, record) in sale.log.iter().filter(|(_, at, _)| *at <= to) {
        match record {
            Record::Cancel { epoch, seq, .. } if at + EFFECTS_WITHIN >= from => {
                let id = OrderId {
                    sale: sale.id,
                    epoch: *epoch,
                    seq: *seq,
                };
                units += sale.orders.get(&id).map_or(0, |order| u64::from(order.quantity));
            }
            Record::Total { total: new, .. } => {
                // The first one is what was offered from the beginning.
                if total > 0 && at + EFFECTS_WITHIN >= from {
                    units += new.saturating_sub(total);
                }
                total = total.max(*new);
            }
            _ => {}
        }
    }
    units
}

fn undersell(evidence: &Evidence, known: &Known) -> Finding {
    let mut violations = Vec::new();
    let (mut refused, mut excused) = (0, 0);
    for (buyer, events) in &known.by_buyer {
        let Some(Event {
            from,
            answer: Answer::SoldOut { .. },
            ..
        }) = events.last()
        else {
            continue;
        };
        let buyer = &evidence.history.buyers[*buyer];
        let Some(sale) = known.sales.get(buyer.sale.as_str()) else {
            continue;
        };
        refused += 1;
        let since = (evidence.begun_at + from).saturating_sub(A_MOMENT);
        // What the index had taken and lost before it reached the log is offered again after a rebuild.
        let rebuilt = |(_, at, record): &(Offset, u64, Record)| *at > since && matches!(record, Record::Barrier { .. });
        if sale.settled_without_index || sale.log.iter().any(rebuilt) {
            excused += 1;
            continue;
        }
        let unsold = sale.total.saturating_sub(live(sale));
        let later = returned(sale, since, u64::MAX);
        if unsold.saturating_sub(later) >= u64::from(buyer.quantity) {
            let (name, key, quantity) = (&sale.name, &buyer.key, buyer.quantity);
            violations.push(format!(
                "{name}: {unsold} units were never sold, and {key}, who wanted {quantity}, was told \"sold out\" at {from} ms"
            ));
        }
    }
    let checked =
        format!("{refused} buyers who went without; {excused} of them before the index was lost, which frees units");
    finding("I4", "nobody goes without while units are left", checked, violations)
}

fn same_order(evidence: &Evidence, known: &Known) -> Finding {
    let mut violations = Vec::new();
    let mut retried = 0;
    for (buyer, told) in &known.won {
        let key = &evidence.history.buyers[*buyer].key;
        let numbers: BTreeSet<&str> = told.iter().map(|(_, number, _)| *number).collect();
        retried += usize::from(told.len() > 1);
        if numbers.len() > 1 {
            violations.push(format!("{key} was told {numbers:?}"));
        }
        // Whoever has won never hears that nothing was bought.
        let first = told.iter().map(|(event, ..)| event.to).min().unwrap_or_default();
        for event in &known.by_buyer[buyer] {
            let refusal = matches!(
                event.answer,
                Answer::SoldOut { .. } | Answer::Ended | Answer::Unknown | Answer::NotStarted
            );
            if event.from > first && refusal {
                violations.push(format!(
                    "{key} had won at {first} ms and was told {:?} at {} ms",
                    event.answer, event.to
                ));
            }
        }
    }
    for sale in &evidence.sales {
        let mut seen = HashMap::new();
        for (id, order) in &sale.orders {
            if let Some(other) = seen.insert((&order.buyer, order.key), id) {
                violations.push(format!(
                    "{}: {} holds {other} and {id} under one key",
                    sale.name, order.buyer
                ));
            }
        }
    }
    let checked = format!(
        "{retried} winners who heard it more than once, {} keys",
        evidence.history.buyers.len()
    );
    finding(
        "I6",
        "the same buyer and key, the same order, for ever",
        checked,
        violations,
    )
}

fn unique_numbers(known: &Known) -> Finding {
    let mut violations = Vec::new();
    let mut owners: HashMap<&str, usize> = HashMap::new();
    for (buyer, told) in &known.won {
        for (_, number, _) in told {
            if let Some(other) = owners.insert(number, *buyer).filter(|other| other != buyer) {
                violations.push(format!("{number} was given to buyers {other} and {buyer}"));
            }
        }
    }
    let checked = format!("{} numbers", owners.len());
    finding("I7", "no number is given to two buyers", checked, violations)
}

fn window(evidence: &Evidence, known: &Known) -> Finding {
    let mut violations = Vec::new();
    let mut orders = 0;
    let mut asked: HashMap<Buyer, (usize, At)> = HashMap::new();
    for (buyer, events) in &known.by_buyer {
        let first = events.iter().filter(|e| e.kind == Kind::Buy).map(|e| e.from).min();
        if let Some(first) = first {
            let name = Buyer::anonymous(&evidence.history.buyers[*buyer].key);
            asked.insert(name, (*buyer, first));
        }
    }
    for sale in &evidence.sales {
        for (_, at, record) in &sale.log {
            let Record::Batch(batch) = record else { continue };
            for (id, order) in batch
                .iter()
                .filter(|(id, _)| known.folds[&sale.id].orders().contains_key(id))
            {
                orders += 1;
                if at + evidence.clock_off(*at) < sale.opens_at {
                    violations.push(format!("{}: order {id} is older than the sale", sale.name));
                }
                let moved = evidence.ended.get(&sale.name).map_or(0, |at| evidence.begun_at + at);
                let end = sale.closes_at.max(moved);
                if let Some((_, first)) = asked.get(&order.buyer)
                    && evidence.begun_at + first > end + evidence.clock_off(evidence.begun_at + first)
                {
                    let late = evidence.begun_at + first - end;
                    violations.push(format!(
                        "{}: {id} was first asked for {late} ms after the end",
                        sale.name
                    ));
                }
            }
        }
    }
    for (buyer, told) in &known.won {
        let sale = &evidence.history.buyers[*buyer].sale;
        let first = known.by_buyer[buyer].first().map_or(0, |event| event.from);
        let won = told.iter().map(|(event, ..)| event.to).min().unwrap_or_default();
        for (name, from, to) in &evidence.suspended {
            if name == sale && first > *from && won < *to {
                violations.push(format!(
                    "{sale}: bought between {first} and {won} ms, suspended {from} to {to} ms"
                ));
            }
        }
    }
    let (suspended, stepped) = (evidence.suspended.len(), evidence.stepped.len());
    let checked = format!("{orders} orders in the log, {suspended} suspensions, {stepped} steps of Redis's clock");
    finding(
        "I8",
        "nothing is accepted outside of its window or a suspension",
        checked,
        violations,
    )
}

fn void(evidence: &Evidence, known: &Known) -> Finding {
    let mut violations = Vec::new();
    let (mut void, mut stored) = (0, 0);
    for sale in &evidence.sales {
        let fold = &known.folds[&sale.id];
        let logged: HashSet<OrderId> = (sale.log.iter())
            .filter_map(|(_, _, record)| match record {
                Record::Batch(batch) => Some(batch.iter().map(|(id, _)| id)),
                _ => None,
            })
            .flatten()
            .collect();
        void += logged.iter().filter(|id| !fold.orders().contains_key(id)).count();
        for id in sale.orders.keys() {
            stored += 1;
            if !fold.orders().contains_key(id) {
                violations.push(format!("{}: {id} is stored, and the log does not count it", sale.name));
            }
        }
    }
    for (buyer, told) in &known.won {
        for (event, number, _) in told {
            let Ok(id) = evidence.numbers.decode(number) else {
                continue;
            };
            let counts = known
                .folds
                .get(&id.sale)
                .is_some_and(|fold| fold.orders().contains_key(&id));
            if !counts {
                let at = event.to;
                violations.push(format!(
                    "{id} was told to buyer {buyer} at {at} ms, and the log does not count it"
                ));
            }
        }
    }
    let checked = format!("{stored} stored orders; {void} orders in the log are void");
    finding("I9", "nothing void is stored or answered", checked, violations)
}

fn cancels(evidence: &Evidence, known: &Known) -> Finding {
    let mut violations = Vec::new();
    let mut told = 0;
    for event in evidence.history.events.iter().filter(|e| e.answer == Answer::Cancelled) {
        told += 1;
        let number = known
            .won
            .get(&event.buyer)
            .and_then(|won| won.first())
            .map(|(_, number, _)| *number);
        let Some(Ok(id)) = number.map(|number| evidence.numbers.decode(number)) else {
            continue;
        };
        let sale = evidence.sales.iter().find(|sale| sale.id == id.sale);
        let status = sale.and_then(|sale| sale.orders.get(&id)).map(|order| order.status);
        if status != Some(OrderStatus::Cancelled) {
            violations.push(format!(
                "{id} was told cancelled at {} ms, MySQL says {status:?}",
                event.to
            ));
        }
    }
    // That its units came back once is what I3 weighs: total = left + live, and live is without it.
    let checked = format!("{told} cancellations");
    finding(
        "I10",
        "a cancelled order is cancelled, and returns its units once",
        checked,
        violations,
    )
}

fn sold_out(evidence: &Evidence, known: &Known) -> Finding {
    let mut violations = Vec::new();
    let (mut refusals, mut strict) = (0, 0);
    for sale in &evidence.sales {
        // The time at which each epoch of the sale began.
        let epochs: Vec<(Offset, u64)> = (sale.log.iter())
            .filter(|(_, _, record)| matches!(record, Record::Barrier { .. } | Record::Close { .. }))
            .map(|(offset, at, _)| (*offset, *at))
            .collect();
        // Who asked first after a refusal and won later in the same epoch shows that units were left.
        let mut later: Vec<(u64, u64, OrderId, Quantity)> = Vec::new();
        for (buyer, told) in &known.won {
            if evidence.history.buyers[*buyer].sale != sale.name {
                continue;
            }
            let first = known.by_buyer[buyer].first().map_or(0, |event| event.from);
            if let Some((event, number, quantity)) = told.first()
                && let Ok(id) = evidence.numbers.decode(number)
            {
                later.push((evidence.begun_at + first, evidence.begun_at + event.to, id, *quantity));
            }
        }
        for event in &evidence.history.events {
            let Answer::SoldOut { left } = event.answer else {
                continue;
            };
            let buyer = &evidence.history.buyers[event.buyer];
            if buyer.sale != sale.name {
                continue;
            }
            refusals += 1;
            if left >= u64::from(buyer.quantity) {
                violations.push(format!(
                    "{}: sold out for {} with {left} left",
                    sale.name, buyer.quantity
                ));
            }
            let (from, to) = (evidence.begun_at + event.from, evidence.begun_at + event.to);
            // The epoch that was in force during the whole request, if there was one.
            let since = epochs.iter().rfind(|(_, at)| at + A_MOMENT / 4 < from);
            let whole = since.filter(|(epoch, _)| !epochs.iter().any(|(e, at)| e > epoch && *at <= to + A_MOMENT / 4));
            let Some((epoch, _)) = whole else { continue };
            strict += 1;
            for (asked, won, id, quantity) in &later {
                if id.epoch.0 != *epoch || *asked <= to {
                    continue;
                }
                let back = returned(sale, from.saturating_sub(A_MOMENT), *won);
                if u64::from(*quantity) > u64::from(buyer.quantity - 1) + back {
                    violations.push(format!(
                        "{}: {} was told \"sold out\" at {} ms; {id} was asked for later, and sold in the same epoch",
                        sale.name, buyer.key, event.to
                    ));
                }
            }
        }
    }
    let checked = format!("{refusals} refusals, {strict} of them by an index that was in force throughout");
    finding("I11", "\"sold out\" was true when it was said", checked, violations)
}

fn folds(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let (mut orders, mut rebuilt) = (0, 0);
    for sale in &evidence.sales {
        let name = &sale.name;
        let fold = folded(sale, Offset::MAX);
        for (id, order) in fold.orders() {
            orders += 1;
            let expected = Stored {
                buyer: order.buyer.clone(),
                key: order.key,
                quantity: order.quantity,
                status: order.status,
            };
            match sale.orders.get(id) {
                Some(stored) if *stored == expected => {}
                Some(stored) => {
                    violations.push(format!("{name}: {id} is {stored:?} in MySQL, {expected:?} by the log"))
                }
                None => violations.push(format!("{name}: {id} counts by the log and is not in MySQL")),
            }
        }
        if fold.total() != sale.total {
            violations.push(format!(
                "{name}: the total is {} in MySQL, {} by the log",
                sale.total,
                fold.total()
            ));
        }
        if fold.cut() != sale.cut {
            violations.push(format!(
                "{name}: the cut is {:?} in MySQL, {:?} by the log",
                sale.cut,
                fold.cut()
            ));
        }
        let Some(rest) = &sale.at_rest else { continue };
        let fold = folded(sale, rest.log_end);
        if fold.cut().epoch().map(|epoch| epoch.0) != Some(rest.epoch) {
            violations.push(format!(
                "{name}: Redis sells epoch {}, the log is at {:?}",
                rest.epoch,
                fold.cut()
            ));
        }
        let expected: HashMap<String, BTreeSet<String>> = (fold.into_holdings().into_iter())
            .map(|(buyer, held)| {
                let texts = held.iter().map(|h| {
                    let mark = if h.cancelled { "x" } else { "" };
                    format!("{}.{}.{}.{}{mark}", h.epoch, h.seq, h.quantity, h.key)
                });
                (buyer.to_string(), texts.collect())
            })
            .collect();
        rebuilt += expected.len();
        for (buyer, held) in &expected {
            let there: BTreeSet<String> = (rest.holdings.get(buyer).map(String::as_str).unwrap_or_default())
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            if there != *held {
                violations.push(format!("{name}: {buyer} holds {there:?} in Redis, {held:?} by the log"));
            }
        }
        for buyer in rest.holdings.keys().filter(|buyer| !expected.contains_key(*buyer)) {
            violations.push(format!("{name}: {buyer} holds something in Redis, nothing by the log"));
        }
    }
    let checked = format!("{orders} orders by the log, {rebuilt} buyers in Redis");
    finding(
        "I12",
        "MySQL is the fold of the log, Redis is its rebuild",
        checked,
        violations,
    )
}

/// The bound is 10 s; the machine may be busy with other things as well.
const RECOVERS_WITHIN_MS: u64 = 30_000;

fn recovery(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let Recovery {
        resumed_ms,
        drained_ms,
        unsettled,
    } = &evidence.recovery;
    for (what, took) in [
        ("selling did not resume", resumed_ms),
        ("what was sold was not stored", drained_ms),
    ] {
        if took.is_none_or(|took| took > RECOVERS_WITHIN_MS) {
            violations.push(format!("{what} within {} s: {took:?} ms", RECOVERS_WITHIN_MS / 1000));
        }
    }
    violations.extend(unsettled.iter().cloned());
    let shown = |took: &Option<u64>| took.map_or("never".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
    let checked = format!(
        "selling after {}, all stored after {}",
        shown(resumed_ms),
        shown(drained_ms)
    );
    finding(
        "I13",
        "after the last fault selling resumes and all is stored",
        checked,
        violations,
    )
}

/// Several times what they have with a crowd like this, so that only growth comes to it.
const MOST_KIB: u64 = 256 * 1024;

fn memory(evidence: &Evidence) -> Finding {
    let above = evidence.peaks.iter().filter(|(_, peak)| **peak > MOST_KIB);
    let violations = above
        .map(|(name, peak)| format!("{name}: {} MiB", peak / 1024))
        .collect();
    let most = evidence.peaks.iter().max_by_key(|(_, peak)| **peak);
    let checked = most.map_or_else(String::new, |(name, peak)| {
        format!("at most {} MiB, {name}", peak / 1024)
    });
    finding("I14", "memory stays bounded", checked, violations)
}

/// A fault that is not played tests nothing.
fn played(evidence: &Evidence) -> Finding {
    let checked = format!("{} could not", evidence.unplayed.len());
    finding(
        "played",
        "every fault could be played",
        checked,
        evidence.unplayed.clone(),
    )
}

fn answered(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let buyers = &evidence.history.buyers;
    for (i, buyer) in buyers.iter().enumerate().filter(|(_, buyer)| !buyer.done) {
        let last = evidence.history.events.iter().rev().find(|event| event.buyer == i);
        violations.push(format!(
            "{} ({}) never learnt it; last: {:?}",
            buyer.key,
            buyer.sale,
            last.map(|e| &e.answer)
        ));
    }
    for event in &evidence.history.events {
        if let Answer::Odd(what) = &event.answer {
            violations.push(format!("buyer {} was told at {} ms: {what}", event.buyer, event.to));
        }
    }
    let checked = format!("{} buyers, {} requests", buyers.len(), evidence.history.events.len());
    finding("answered", "every buyer gets a definite answer", checked, violations)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
