//! MySQL and Redis against the log: I12.
use std::collections::{BTreeSet, HashMap};

use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{Fold, Offset};

use super::finding::{Finding, finding};
use super::lookup::fold;
use crate::evidence::{Evidence, IndexAtRest, Sale, StoredOrder};

pub fn i12_mysql_and_redis_match_the_log(evidence: &Evidence) -> Finding {
    let unknown = evidence.unknown_sales.iter();
    let mut violations: Vec<String> = unknown
        .map(|(sale, batches)| format!("the log has {batches} batches of sale {sale}, which MySQL does not know"))
        .collect();
    let (mut orders, mut buyers) = (0, 0);
    for sale in &evidence.sales {
        orders += compare_mysql(sale, &mut violations);
        if let Some(index) = &sale.at_rest {
            buyers += compare_redis(&sale.name, index, fold(sale, index.log_end), &mut violations);
        }
    }
    let checked = format!("{orders} orders by the log, {buyers} buyers in Redis");
    let says = "MySQL is the fold of the log, Redis is its rebuild";
    finding("I12", says, checked, violations)
}

/// Returns how many orders were compared.
fn compare_mysql(sale: &Sale, violations: &mut Vec<String>) -> usize {
    let name = &sale.name;
    let fold = fold(sale, Offset::MAX);
    for (id, order) in fold.orders() {
        let expected = StoredOrder {
            buyer: order.buyer.clone(),
            key: order.key,
            quantity: order.quantity,
            status: order.status,
        };
        match sale.orders.get(id) {
            Some(stored) if *stored == expected => {}
            Some(stored) => violations.push(format!("{name}: {id} is {stored:?} in MySQL, {expected:?} by the log")),
            None => violations.push(format!("{name}: {id} counts by the log and is not in MySQL")),
        }
    }
    if fold.total() != sale.total {
        let (stored, expected) = (sale.total, fold.total());
        violations.push(format!("{name}: the total is {stored} in MySQL, {expected} by the log"));
    }
    if fold.cut() != sale.cut {
        let (stored, expected) = (sale.cut, fold.cut());
        violations.push(format!(
            "{name}: the cut is {stored:?} in MySQL, {expected:?} by the log"
        ));
    }
    fold.orders().len()
}

/// Returns how many buyers were compared.
fn compare_redis(name: &str, index: &IndexAtRest, fold: Fold, violations: &mut Vec<String>) -> usize {
    if fold.cut().epoch().map(|epoch| epoch.0) != Some(index.epoch) {
        let (epoch, cut) = (index.epoch, fold.cut());
        violations.push(format!("{name}: Redis sells epoch {epoch}, the log is at {cut:?}"));
    }
    let orders = fold.orders().len() as u64;
    if index.ever != Some(orders) {
        let ever = index.ever;
        violations.push(format!(
            "{name}: {ever:?} orders were ever made by Redis, {orders} by the log"
        ));
    }
    let expected = expected_holdings(fold);
    for (buyer, expected) in &expected {
        let text = index.holdings.get(buyer).map(String::as_str).unwrap_or_default();
        let found: BTreeSet<String> = text.split_whitespace().map(str::to_owned).collect();
        if found != *expected {
            violations.push(format!(
                "{name}: {buyer} holds {found:?} in Redis, {expected:?} by the log"
            ));
        }
    }
    for buyer in index.holdings.keys().filter(|buyer| !expected.contains_key(*buyer)) {
        violations.push(format!("{name}: {buyer} holds something in Redis, nothing by the log"));
    }
    expected.len()
}

/// Buyer -> holdings, in the text form of Redis.
fn expected_holdings(fold: Fold) -> HashMap<String, BTreeSet<String>> {
    let holdings = fold.into_holdings().into_iter().map(|(buyer, held)| {
        let texts = held.iter().map(|h| {
            let mark = if h.cancelled { "x" } else { "" };
            let tier = if h.tier == GENERAL {
                String::new()
            } else {
                format!("t{}", h.tier)
            };
            format!("{}.{}.{}.{}{tier}{mark}", h.epoch, h.seq, h.quantity, h.key)
        });
        (buyer.to_string(), texts.collect())
    });
    holdings.collect()
}
