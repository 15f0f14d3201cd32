//! How many units are sold, left and refused: I1, I3, I4, I11.
use seckill_protocol::rebuild::HoldingCounts;
use seckill_protocol::{Fold, Offset, OrderId, Quantity, Record};

use super::finding::{Finding, finding};
use super::lookup::{Lookup, fold};
use crate::evidence::{Evidence, IndexAtRest, LogEntry, Sale};
use crate::history::{BuyerAnswer, Event};

/// How long before the time stamp of its record an event may have happened. All clocks in a run are the same clock.
const RECORD_DELAY_MS: u64 = 2000;
/// Clock tolerance when a request is compared with the beginning of an epoch.
const EPOCH_TOLERANCE_MS: u64 = 500;
/// Time limit for a stock adjustment to reach the index. The worker that applies it may be paused meanwhile.
const ADJUSTMENT_TIMEOUT_MS: u64 = 60_000;

pub fn i1_never_more_sold_than_offered(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let mut records = 0;
    for sale in &evidence.sales {
        let mut fold = Fold::new(sale.id);
        for LogEntry { offset, record, .. } in &sale.log {
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
        let live = sale.live_units();
        if live > sale.total {
            violations.push(format!("{}: MySQL has {live} live units of {}", sale.name, sale.total));
        }
    }
    let checked = format!("{records} records of {} sales", evidence.sales.len());
    finding("I1", "never more units are sold than offered", checked, violations)
}

pub fn i3_units_add_up_at_rest(evidence: &Evidence) -> Finding {
    let mut violations = Vec::new();
    let mut rested = 0;
    for sale in &evidence.sales {
        let (name, live) = (&sale.name, sale.live_units());
        if sale.sold != live {
            violations.push(format!("{name}: sales.sold is {}, {live} are live", sale.sold));
        }
        let Some(index) = &sale.at_rest else { continue };
        rested += 1;
        let rested_fold = fold(sale, index.log_end);
        let live = rested_fold.live();
        let IndexAtRest {
            total, left, outbox, ..
        } = index;
        if *total != left + live {
            violations.push(format!("{name}: total {total} is not {left} left + {live} live"));
        }
        let by_tier = live_by_tier(sale, rested_fold);
        if by_tier != index.taken {
            let taken = &index.taken;
            violations.push(format!(
                "{name}: the tiers have bought {taken:?} by Redis, {by_tier:?} by the log"
            ));
        }
        if *outbox > 0 {
            violations.push(format!("{name}: {outbox} batches are still in the outbox"));
        }
    }
    let checked = format!("{rested} sales at rest, {} in MySQL", evidence.sales.len());
    let says = "at rest total = left + live, and the outbox is empty";
    finding("I3", says, checked, violations)
}

/// The live units of each tier by the log; empty for a sale without tiers.
fn live_by_tier(sale: &Sale, fold: Fold) -> Vec<u64> {
    let mut counts = HoldingCounts::default();
    fold.into_holdings().values().for_each(|held| counts.add(held));
    counts.taken(&sale.terms)
}

pub fn i4_nobody_goes_without_while_units_are_left(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let (mut refused, mut excused) = (0, 0);
    for (buyer, events) in &lookup.events {
        let Some(Event {
            from,
            answer: BuyerAnswer::SoldOut { .. },
            ..
        }) = events.last()
        else {
            continue;
        };
        let buyer = &evidence.history.buyers[*buyer];
        let Some(sale) = lookup.sales.get(buyer.sale.as_str()) else {
            continue;
        };
        refused += 1;
        let since = (evidence.started_at + from).saturating_sub(RECORD_DELAY_MS);
        // A rebuild offers the units again that the lost index had reserved and that never reached the log.
        let rebuilt = |entry: &LogEntry| entry.at > since && matches!(entry.record, Record::Barrier { .. });
        if sale.settled_without_index || sale.log.iter().any(rebuilt) {
            excused += 1;
            continue;
        }
        let unsold = sale.total.saturating_sub(sale.live_units());
        let later = returned_units(sale, since, u64::MAX);
        if unsold.saturating_sub(later) >= u64::from(buyer.quantity) {
            let (name, key, quantity) = (&sale.name, &buyer.key, buyer.quantity);
            violations.push(format!(
                "{name}: {unsold} units were never sold, and {key}, who wanted {quantity}, was answered \"sold out\" \
                 at {from} ms"
            ));
        }
    }
    let checked =
        format!("{refused} buyers who went without; {excused} of them before the index was lost, which frees units");
    finding("I4", "nobody goes without while units are left", checked, violations)
}

/// A win that shows whether units were left before: who asked first at `asked` won at `won`, both in unix milliseconds.
struct LaterWin {
    asked: u64,
    won: u64,
    id: OrderId,
    quantity: Quantity,
}

pub fn i11_sold_out_was_true(evidence: &Evidence, lookup: &Lookup) -> Finding {
    let mut violations = Vec::new();
    let (mut refusals, mut strict) = (0, 0);
    for sale in &evidence.sales {
        let epochs = epoch_changes(sale);
        let wins = first_wins(sale, evidence, lookup);
        for event in &evidence.history.events {
            let BuyerAnswer::SoldOut { left } = event.answer else {
                continue;
            };
            let buyer = &evidence.history.buyers[event.buyer];
            if buyer.sale != sale.name {
                continue;
            }
            refusals += 1;
            if left >= u64::from(buyer.quantity) {
                violations.push(format!(
                    "{}: \"sold out\" for {} with {left} left",
                    sale.name, buyer.quantity
                ));
            }
            let (from, to) = (evidence.started_at + event.from, evidence.started_at + event.to);
            let Some(epoch) = epoch_throughout(&epochs, from, to) else {
                continue;
            };
            strict += 1;
            // Who asked after the refusal and won in the same epoch shows that units were left, unless units came back.
            for win in wins.iter().filter(|win| win.id.epoch.0 == epoch && win.asked > to) {
                let back = returned_units(sale, from.saturating_sub(RECORD_DELAY_MS), win.won);
                if u64::from(win.quantity) > u64::from(buyer.quantity - 1) + back {
                    violations.push(format!(
                        "{}: {} was answered \"sold out\" at {} ms; {} was asked for later, and sold in the same epoch",
                        sale.name, buyer.key, event.to, win.id
                    ));
                }
            }
        }
    }
    let checked = format!("{refusals} refusals, {strict} of them by an index that was in force throughout");
    finding("I11", "\"sold out\" was true when it was said", checked, violations)
}

/// Where and when the epochs of a sale began, and the last one ended.
fn epoch_changes(sale: &Sale) -> Vec<(Offset, u64)> {
    let changes = sale
        .log
        .iter()
        .filter(|entry| matches!(entry.record, Record::Barrier { .. } | Record::Close { .. }));
    changes.map(|entry| (entry.offset, entry.at)).collect()
}

/// The epoch that was in force during the whole request, if there was one.
fn epoch_throughout(changes: &[(Offset, u64)], from: u64, to: u64) -> Option<Offset> {
    let (epoch, _) = changes.iter().rfind(|(_, at)| at + EPOCH_TOLERANCE_MS < from)?;
    let replaced = |(next, at): &(Offset, u64)| next > epoch && *at <= to + EPOCH_TOLERANCE_MS;
    (!changes.iter().any(replaced)).then_some(*epoch)
}

/// The first win of each buyer of the sale.
fn first_wins(sale: &Sale, evidence: &Evidence, lookup: &Lookup) -> Vec<LaterWin> {
    let mut first_wins = Vec::new();
    for (buyer, wins) in &lookup.wins {
        if evidence.history.buyers[*buyer].sale == sale.name
            && let Some(win) = wins.first()
            && let Ok(id) = evidence.order_no_keys.decode(win.number)
        {
            first_wins.push(LaterWin {
                asked: evidence.started_at + lookup.first_request(*buyer),
                won: evidence.started_at + win.event.to,
                id,
                quantity: win.quantity,
            });
        }
    }
    first_wins
}

/// Units that a sale got back, or got on top, in a time: what was sold out before may not be sold out any more.
fn returned_units(sale: &Sale, from: u64, to: u64) -> u64 {
    let mut units = 0;
    let mut total = 0;
    for LogEntry { at, record, .. } in sale.log.iter().filter(|entry| entry.at <= to) {
        match record {
            Record::Cancel { epoch, seq, .. } if at + ADJUSTMENT_TIMEOUT_MS >= from => {
                let id = OrderId {
                    sale: sale.id,
                    epoch: *epoch,
                    seq: *seq,
                };
                units += sale.orders.get(&id).map_or(0, |order| u64::from(order.quantity));
            }
            Record::Total { total: new, .. } => {
                // The first total was offered from the beginning.
                if total > 0 && at + ADJUSTMENT_TIMEOUT_MS >= from {
                    units += new.saturating_sub(total);
                }
                total = total.max(*new);
            }
            _ => {}
        }
    }
    units
}
