//! A small run without violations, and changes of it that break each invariant once.
use std::collections::{BTreeMap, HashMap};

use seckill_protocol::index::{OrderBounds, SaleState, Terms};
use seckill_protocol::tiers::TierTerms;
use seckill_protocol::{
    Batch, Buyer, Epoch, KeyHash, Offset, Order, OrderId, OrderNoKeys, OrderStatus, Quantity, Record, SaleCut, SaleId,
    Seq,
};

use super::check;
use super::operation::MAX_PROGRAM_KIB;
use crate::evidence::{ClockStep, Evidence, IndexAtRest, LogEntry, Recovery, Sale, StoredOrder, Suspension};
use crate::history::{self, At, BuyerAnswer, Event, HistoryData, RequestKind};

const SALE: SaleId = SaleId(7);
const EPOCH: Epoch = Epoch(1);

fn order_no_keys() -> OrderNoKeys {
    "1:00112233445566778899aabbccddeeff".parse().unwrap()
}

fn id(epoch: Epoch, seq: Seq) -> OrderId {
    OrderId { sale: SALE, epoch, seq }
}

fn order(key: &str, quantity: Quantity) -> Order {
    Order {
        buyer: Buyer::anonymous(key),
        quantity,
        tier: 0,
        key: KeyHash::of(key),
    }
}

fn batch(epoch: Epoch, first: Seq, orders: &[(&str, Quantity)]) -> Record {
    Record::Batch(Batch {
        sale: SALE,
        epoch,
        first,
        orders: orders.iter().map(|(key, quantity)| order(key, *quantity)).collect(),
    })
}

fn stored(key: &str, quantity: Quantity) -> StoredOrder {
    let Order {
        buyer, key, quantity, ..
    } = order(key, quantity);
    StoredOrder {
        buyer,
        key,
        quantity,
        status: OrderStatus::Placed,
    }
}

fn won(seq: Seq, quantity: Quantity) -> BuyerAnswer {
    BuyerAnswer::Won {
        number: order_no_keys().encode(id(EPOCH, seq), 0).unwrap().to_string(),
        quantity,
        cancelled: false,
    }
}

fn event(buyer: usize, from: At, answer: BuyerAnswer) -> Event {
    Event {
        from,
        to: from + 10,
        buyer,
        kind: RequestKind::Buy,
        api: 0,
        answer,
    }
}

fn entry(offset: Offset, at: u64, record: Record) -> LogEntry {
    LogEntry { offset, at, record }
}

fn buyer(key: &str, quantity: Quantity) -> history::Buyer {
    history::Buyer {
        sale: "s".into(),
        key: key.into(),
        member: None,
        quantity,
        done: true,
    }
}

/// No limit and no tiers.
fn terms() -> Terms {
    Terms {
        version: 1,
        state: SaleState::Open,
        opens: 1_001_000,
        closes: 1_020_000,
        limit: 0,
        bounds: OrderBounds::default(),
        tiers: Vec::new(),
    }
}

/// Three units; a buys two of them, b one, and c hears "sold out".
fn valid_run() -> Evidence {
    let barrier = Record::Barrier {
        sale: SALE,
        nonce: "n".into(),
    };
    let total = Record::Total { sale: SALE, total: 3 };
    let holding = |seq: Seq, quantity: Quantity, key: &str| {
        let text = format!("1.{seq}.{quantity}.{}", KeyHash::of(key));
        (Buyer::anonymous(key).to_string(), text)
    };
    Evidence {
        history: HistoryData {
            buyers: vec![buyer("a", 2), buyer("b", 1), buyer("c", 1)],
            events: vec![
                event(0, 3000, won(1, 2)),
                event(1, 3100, won(2, 1)),
                event(2, 9000, BuyerAnswer::SoldOut { left: 0 }),
                event(0, 9100, won(1, 2)),
            ],
            wins: vec![3010, 3110],
        },
        started_at: 1_000_000,
        order_no_keys: order_no_keys(),
        sales: vec![Sale {
            name: "s".into(),
            id: SALE,
            opens_at: 1_001_000,
            closes_at: 1_020_000,
            terms: terms(),
            total: 3,
            sold: 3,
            cut: SaleCut {
                current_epoch: Some(1),
                closed: None,
            },
            orders: [(id(EPOCH, 1), stored("a", 2)), (id(EPOCH, 2), stored("b", 1))].into(),
            quarantined: 0,
            settled_without_index: false,
            log: vec![
                entry(0, 1_000_500, total),
                entry(1, 1_000_600, barrier),
                entry(2, 1_003_005, batch(EPOCH, 1, &[("a", 2)])),
                entry(3, 1_003_105, batch(EPOCH, 2, &[("b", 1)])),
            ],
            at_rest: Some(IndexAtRest {
                log_end: 4,
                epoch: 1,
                total: 3,
                left: 0,
                ever: Some(2),
                outbox: 0,
                taken: Vec::new(),
                holdings: [holding(1, 2, "a"), holding(2, 1, "b")].into(),
            }),
        }],
        suspensions: Vec::new(),
        clock_steps: Vec::new(),
        peak_memory: BTreeMap::from([("seckill-api-0".into(), 40_000)]),
        failed_faults: Vec::new(),
        unknown_sales: HashMap::new(),
        ended: HashMap::new(),
        ends: HashMap::from([("s".into(), 1_020_000)]),
        max_orders: HashMap::from([("s".into(), 2)]),
        taken: Vec::new(),
        recovery: Recovery {
            resumed_ms: Some(100),
            drained_ms: Some(100),
            unrecovered: Vec::new(),
        },
    }
}

fn violated(evidence: &Evidence) -> Vec<&'static str> {
    let findings = check(evidence);
    findings
        .iter()
        .filter(|finding| !finding.violations.is_empty())
        .map(|finding| finding.invariant)
        .collect()
}

/// What is violated once this was changed.
fn after(change: impl FnOnce(&mut Evidence)) -> Vec<&'static str> {
    let mut evidence = valid_run();
    change(&mut evidence);
    violated(&evidence)
}

#[test]
fn a_valid_run_violates_nothing() {
    assert_eq!(violated(&valid_run()), Vec::<&str>::new());
}

#[test]
fn i1_finds_an_oversold_unit() {
    let found = after(|e| e.sales[0].log.push(entry(4, 1_004_000, batch(EPOCH, 3, &[("d", 1)]))));
    assert!(found.contains(&"I1"), "{found:?}");
}

#[test]
fn i2_finds_a_number_that_is_missing_or_stored_for_another_buyer() {
    let lost = after(|e| drop(e.sales[0].orders.remove(&id(EPOCH, 2))));
    assert!(lost.contains(&"I2"), "{lost:?}");
    let anothers = after(|e| drop(e.sales[0].orders.insert(id(EPOCH, 2), stored("d", 1))));
    assert!(anothers.contains(&"I2"), "{anothers:?}");
    let fewer = after(|e| drop(e.sales[0].orders.insert(id(EPOCH, 1), stored("a", 1))));
    assert!(fewer.contains(&"I2"), "{fewer:?}");
}

#[test]
fn i3_finds_a_unit_that_is_neither_left_nor_sold() {
    assert_eq!(after(|e| e.sales[0].at_rest.as_mut().unwrap().left = 1), ["I3"]);
    assert_eq!(after(|e| e.sales[0].at_rest.as_mut().unwrap().outbox = 1), ["I3"]);
    assert_eq!(after(|e| e.sales[0].sold = 2), ["I3"]);
}

#[test]
fn i4_finds_a_unit_left_while_a_buyer_went_without() {
    let unsold = |e: &mut Evidence| {
        let sale = &mut e.sales[0];
        sale.total = 4;
        sale.log[0].record = Record::Total { sale: SALE, total: 4 };
        let rest = sale.at_rest.as_mut().unwrap();
        (rest.total, rest.left) = (4, 1);
    };
    assert_eq!(after(unsold), ["I4"]);
    let lost_at_the_end = after(|e| {
        unsold(e);
        e.sales[0].settled_without_index = true;
    });
    assert_eq!(lost_at_the_end, Vec::<&str>::new());
    // Units that came later were not there to be sold.
    let raised = after(|e| {
        unsold(e);
        e.sales[0].log[0].record = Record::Total { sale: SALE, total: 3 };
        e.sales[0]
            .log
            .push(entry(4, 1_010_000, Record::Total { sale: SALE, total: 4 }));
        e.sales[0].at_rest.as_mut().unwrap().log_end = 5;
    });
    assert_eq!(raised, Vec::<&str>::new());
}

#[test]
fn i6_finds_a_second_number_or_a_refusal_for_a_winner() {
    let another = after(|e| e.history.events[3].answer = won(2, 2));
    assert!(another.contains(&"I6"), "{another:?}");
    assert_eq!(
        after(|e| e.history.events[3].answer = BuyerAnswer::Ended),
        ["I6", "I15"]
    );
}

#[test]
fn i7_finds_one_number_for_two_buyers() {
    let found = after(|e| e.history.events[1].answer = won(1, 1));
    assert!(found.contains(&"I7"), "{found:?}");
}

#[test]
fn i8_finds_orders_before_the_start_after_the_end_or_while_suspended() {
    assert_eq!(after(|e| e.sales[0].opens_at = 1_003_050), ["I8"]);
    assert_eq!(after(|e| e.sales[0].closes_at = 1_003_050), ["I8"]);
    let stepped = |offset_ms, preheated: Option<&str>| {
        after(|e| {
            e.sales[0].opens_at = 1_003_050;
            e.clock_steps.push(ClockStep {
                from: 2500,
                to: 3050,
                offset_ms,
                preheated: preheated.map(str::to_owned),
            });
        })
    };
    assert_eq!(
        stepped(40_000, None),
        [""; 0],
        "by the clock of Redis the sale had begun"
    );
    assert_eq!(stepped(1, None), ["I8"]);
    assert_eq!(
        stepped(40_000, Some("s")),
        ["I8"],
        "its index was installed by the other clocks"
    );
    let suspended = |from| {
        let sale = "s".into();
        let to = 3050;
        after(|e| e.suspensions.push(Suspension { sale, from, to }))
    };
    assert_eq!(suspended(2500), ["I8"]);
    assert_eq!(suspended(3005), [""; 0], "it was bought before");
}

#[test]
fn i9_finds_a_void_order_stored_or_answered() {
    let found = after(|e| {
        // A newer epoch had begun before the second order came.
        let barrier = Record::Barrier {
            sale: SALE,
            nonce: "m".into(),
        };
        e.sales[0].log.insert(3, entry(3, 1_003_100, barrier));
    });
    assert!(found.contains(&"I9"), "{found:?}");
}

#[test]
fn i10_finds_a_cancellation_that_is_not_stored() {
    let cancel = |e: &mut Evidence| e.history.events.push(event(1, 9500, BuyerAnswer::Cancelled));
    assert_eq!(after(cancel), ["I10"]);
}

#[test]
fn i11_finds_sold_out_while_units_were_left() {
    // c is refused before b asks, and b gets what was left.
    let untrue = after(|e| e.history.events[2].from = 3000);
    assert_eq!(untrue, Vec::<&str>::new(), "b may have been first");
    let untrue = after(|e| {
        e.history.events[2] = event(2, 2000, BuyerAnswer::SoldOut { left: 0 });
    });
    assert_eq!(untrue, ["I11"]);
    assert_eq!(
        after(|e| e.history.events[2].answer = BuyerAnswer::SoldOut { left: 1 }),
        ["I11"]
    );
}

#[test]
fn i12_finds_mysql_or_redis_different_from_the_log() {
    assert_eq!(after(|e| e.sales[0].total = 4), ["I4", "I12"]);
    let holding = after(|e| {
        let rest = e.sales[0].at_rest.as_mut().unwrap();
        rest.holdings.insert("a:ff".into(), "1.9.1.00".into());
    });
    assert_eq!(holding, ["I12"]);
    let lacks = after(|e| e.sales[0].at_rest.as_mut().unwrap().holdings.clear());
    assert_eq!(lacks, ["I12"]);
    assert_eq!(after(|e| e.sales[0].at_rest.as_mut().unwrap().epoch = 0), ["I12"]);
}

#[test]
fn i12_finds_orders_of_a_sale_that_mysql_lost() {
    assert_eq!(after(|e| e.unknown_sales.extend([(SaleId(8), 1)])), ["I12"]);
}

#[test]
fn i15_finds_a_sale_that_ended_too_early_or_is_lost() {
    let closed_at = |at| after(|e| e.sales[0].log.push(entry(4, at, Record::Close { sale: SALE })));
    assert!(closed_at(1_010_000).contains(&"I15"));
    assert!(!closed_at(1_020_000).contains(&"I15"));
    let told = after(|e| e.history.events[2].answer = BuyerAnswer::Ended);
    assert_eq!(told, ["I15"], "a buyer was told so");
    let wrong_clock = after(|e| {
        e.history.events[2].answer = BuyerAnswer::Ended;
        e.clock_steps.push(ClockStep {
            from: 8000,
            to: 10_000,
            offset_ms: 3_600_000,
            preheated: Some("s".into()),
        });
    });
    assert_eq!(wrong_clock, [""; 0], "by the clock of Redis it had ended");
    assert_eq!(after(|e| e.ends.extend([("lost".into(), 1_020_000)])), ["I15"]);
}

#[test]
fn i5_finds_a_buyer_with_more_than_the_limit() {
    assert_eq!(after(|e| e.sales[0].terms.limit = 2), [""; 0]);
    assert_eq!(after(|e| e.sales[0].terms.limit = 1), ["I5"]);
    // A second order of a, before and after the first one is cancelled.
    let second = |cancelled: bool| {
        after(|e| {
            let sale = &mut e.sales[0];
            sale.terms.limit = 2;
            let cancel = Record::Cancel {
                sale: SALE,
                epoch: EPOCH,
                seq: 1,
                reason: "buyer".into(),
            };
            let Record::Batch(mut more) = batch(EPOCH, 3, &[("d", 1)]) else {
                unreachable!()
            };
            more.orders[0].buyer = Buyer::anonymous("a");
            if cancelled {
                sale.log.push(entry(4, 1_003_900, cancel));
            }
            sale.log.push(entry(5, 1_004_000, Record::Batch(more)));
        })
    };
    assert!(second(false).contains(&"I5") && !second(true).contains(&"I5"));
}

/// One unit is kept for the first tier until `release`; general buyers have all that is sold.
fn tiered(evidence: &mut Evidence, opens: u64, release: u64) {
    let tier = |opens, reserved| TierTerms {
        opens,
        limit: 0,
        reserved,
        release,
    };
    let sale = &mut evidence.sales[0];
    sale.terms.tiers = vec![tier(opens, 0), tier(1_001_000, 1)];
    sale.at_rest.as_mut().unwrap().taken = vec![3, 0];
}

#[test]
fn i16_finds_a_unit_that_was_kept_for_a_tier() {
    assert_eq!(after(|e| tiered(e, 1_001_000, 1_003_050)), [""; 0]);
    assert_eq!(after(|e| tiered(e, 1_001_000, 1_010_000)), ["I16"]);
}

#[test]
fn i3_and_i8_find_units_and_openings_of_tiers_that_are_wrong() {
    let counted = after(|e| {
        tiered(e, 1_001_000, 1_003_050);
        e.sales[0].at_rest.as_mut().unwrap().taken = vec![2, 1];
    });
    assert_eq!(counted, ["I3"]);
    assert_eq!(after(|e| tiered(e, 1_004_000, 1_003_050)), ["I8"]);
}

#[test]
fn i13_finds_a_late_recovery() {
    assert_eq!(after(|e| e.recovery.resumed_ms = None), ["I13"]);
    assert_eq!(after(|e| e.recovery.drained_ms = Some(31_000)), ["I13"]);
    assert_eq!(after(|e| e.recovery.unrecovered.push("s".into())), ["I13"]);
}

#[test]
fn finds_a_buyer_without_an_answer_or_with_an_unexpected_one() {
    assert_eq!(after(|e| e.history.buyers[2].done = false), ["answered"]);
    assert_eq!(
        after(|e| e.history.events[2].answer = BuyerAnswer::Unexpected("404".into())),
        ["answered"]
    );
}

#[test]
fn i14_finds_a_program_that_grows() {
    assert_eq!(
        after(|e| e.peak_memory.extend([("operator-1".into(), MAX_PROGRAM_KIB + 1)])),
        ["I14"]
    );
}

#[test]
fn i14_finds_more_orders_than_the_bound_and_what_clients_took() {
    assert_eq!(after(|e| e.max_orders.extend([("s".into(), 1)])), ["I14"]);
    assert_eq!(after(|e| e.taken.push("all connections".into())), ["I14"]);
}

#[test]
fn finds_a_fault_that_could_not_be_played() {
    assert_eq!(after(|e| e.failed_faults.push("kill-api".into())), ["played"]);
}
