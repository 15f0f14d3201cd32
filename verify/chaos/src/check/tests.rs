//! A small run in which all is well, and each invariant broken in it once.
use seckill_protocol::{Batch, Epoch, Order, Seq};

use super::*;
use crate::history;

const SALE: SaleId = SaleId(7);
const EPOCH: Epoch = Epoch(1);

fn numbers() -> OrderNoKeys {
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

fn stored(key: &str, quantity: Quantity) -> Stored {
    let Order {
        buyer, key, quantity, ..
    } = order(key, quantity);
    Stored {
        buyer,
        key,
        quantity,
        status: OrderStatus::Placed,
    }
}

fn won(seq: Seq, quantity: Quantity) -> Answer {
    Answer::Won {
        number: numbers().encode(id(EPOCH, seq)).unwrap().to_string(),
        quantity,
        cancelled: false,
    }
}

fn event(buyer: usize, from: At, answer: Answer) -> Event {
    Event {
        from,
        to: from + 10,
        buyer,
        kind: Kind::Buy,
        api: 0,
        answer,
    }
}

fn buyer(key: &str, quantity: Quantity) -> history::Buyer {
    history::Buyer {
        sale: "s".into(),
        key: key.into(),
        quantity,
        done: true,
    }
}

/// Three units; a buys two of them, b one, and c hears "sold out".
fn well() -> Evidence {
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
        history: Inner {
            buyers: vec![buyer("a", 2), buyer("b", 1), buyer("c", 1)],
            events: vec![
                event(0, 3000, won(1, 2)),
                event(1, 3100, won(2, 1)),
                event(2, 9000, Answer::SoldOut { left: 0 }),
                event(0, 9100, won(1, 2)),
            ],
            wins: vec![3010, 3110],
        },
        begun_at: 1_000_000,
        numbers: numbers(),
        sales: vec![Sale {
            name: "s".into(),
            id: SALE,
            opens_at: 1_001_000,
            closes_at: 1_020_000,
            total: 3,
            sold: 3,
            cut: SaleCut {
                cur: Some(1),
                closed: None,
            },
            orders: [(id(EPOCH, 1), stored("a", 2)), (id(EPOCH, 2), stored("b", 1))].into(),
            quarantined: 0,
            settled_without_index: false,
            log: vec![
                (0, 1_000_500, total),
                (1, 1_000_600, barrier),
                (2, 1_003_005, batch(EPOCH, 1, &[("a", 2)])),
                (3, 1_003_105, batch(EPOCH, 2, &[("b", 1)])),
            ],
            at_rest: Some(Rest {
                log_end: 4,
                epoch: 1,
                total: 3,
                left: 0,
                outbox: 0,
                holdings: [holding(1, 2, "a"), holding(2, 1, "b")].into(),
            }),
        }],
        suspended: Vec::new(),
        stepped: Vec::new(),
        peaks: BTreeMap::from([("seckill-api-0".into(), 40_000)]),
        unplayed: Vec::new(),
        ended: HashMap::new(),
        recovery: Recovery {
            resumed_ms: Some(100),
            drained_ms: Some(100),
            unsettled: Vec::new(),
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
    let mut evidence = well();
    change(&mut evidence);
    violated(&evidence)
}

#[test]
fn a_run_in_which_all_is_well_violates_nothing() {
    assert_eq!(violated(&well()), Vec::<&str>::new());
}

#[test]
fn i1_a_unit_too_many() {
    let found = after(|e| e.sales[0].log.push((4, 1_004_000, batch(EPOCH, 3, &[("d", 1)]))));
    assert!(found.contains(&"I1"), "{found:?}");
}

#[test]
fn i2_a_number_that_is_not_stored_or_is_anothers() {
    let lost = after(|e| drop(e.sales[0].orders.remove(&id(EPOCH, 2))));
    assert!(lost.contains(&"I2"), "{lost:?}");
    let anothers = after(|e| drop(e.sales[0].orders.insert(id(EPOCH, 2), stored("d", 1))));
    assert!(anothers.contains(&"I2"), "{anothers:?}");
    let fewer = after(|e| drop(e.sales[0].orders.insert(id(EPOCH, 1), stored("a", 1))));
    assert!(fewer.contains(&"I2"), "{fewer:?}");
}

#[test]
fn i3_a_unit_that_is_neither_left_nor_sold() {
    assert_eq!(after(|e| e.sales[0].at_rest.as_mut().unwrap().left = 1), ["I3"]);
    assert_eq!(after(|e| e.sales[0].at_rest.as_mut().unwrap().outbox = 1), ["I3"]);
    assert_eq!(after(|e| e.sales[0].sold = 2), ["I3"]);
}

#[test]
fn i4_a_unit_left_while_somebody_went_without() {
    let unsold = |e: &mut Evidence| {
        let sale = &mut e.sales[0];
        sale.total = 4;
        sale.log[0].2 = Record::Total { sale: SALE, total: 4 };
        let rest = sale.at_rest.as_mut().unwrap();
        (rest.total, rest.left) = (4, 1);
    };
    assert_eq!(after(unsold), ["I4"]);
    let lost_at_the_end = after(|e| {
        unsold(e);
        e.sales[0].settled_without_index = true;
    });
    assert_eq!(lost_at_the_end, Vec::<&str>::new());
    // What came back later was not there to be sold.
    let raised = after(|e| {
        unsold(e);
        e.sales[0].log[0].2 = Record::Total { sale: SALE, total: 3 };
        e.sales[0]
            .log
            .push((4, 1_010_000, Record::Total { sale: SALE, total: 4 }));
        e.sales[0].at_rest.as_mut().unwrap().log_end = 5;
    });
    assert_eq!(raised, Vec::<&str>::new());
}

#[test]
fn i6_another_number_or_a_refusal_for_a_winner() {
    let another = after(|e| e.history.events[3].answer = won(2, 2));
    assert!(another.contains(&"I6"), "{another:?}");
    assert_eq!(after(|e| e.history.events[3].answer = Answer::Ended), ["I6"]);
}

#[test]
fn i7_one_number_for_two() {
    let found = after(|e| e.history.events[1].answer = won(1, 1));
    assert!(found.contains(&"I7"), "{found:?}");
}

#[test]
fn i8_an_order_before_the_start_after_the_end_or_while_suspended() {
    assert_eq!(after(|e| e.sales[0].opens_at = 1_003_050), ["I8"]);
    assert_eq!(after(|e| e.sales[0].closes_at = 1_003_050), ["I8"]);
    let stepped = |off| {
        after(|e| {
            e.sales[0].opens_at = 1_003_050;
            e.stepped.push((2500, 3050, off));
        })
    };
    assert_eq!(stepped(40_000), [""; 0], "by the clock of Redis it had begun");
    assert_eq!(stepped(1), ["I8"]);
    assert_eq!(after(|e| e.suspended.push(("s".into(), 2500, 3050))), ["I8"]);
    assert_eq!(
        after(|e| e.suspended.push(("s".into(), 3005, 3050))),
        Vec::<&str>::new()
    );
}

#[test]
fn i9_a_void_order_stored_or_answered() {
    let found = after(|e| {
        // A newer epoch had begun before the second order came.
        let barrier = Record::Barrier {
            sale: SALE,
            nonce: "m".into(),
        };
        e.sales[0].log.insert(3, (3, 1_003_100, barrier));
    });
    assert!(found.contains(&"I9"), "{found:?}");
}

#[test]
fn i10_a_cancellation_that_is_not_stored() {
    let cancel = |e: &mut Evidence| e.history.events.push(event(1, 9500, Answer::Cancelled));
    assert_eq!(after(cancel), ["I10"]);
}

#[test]
fn i11_sold_out_while_units_were_left() {
    // c is refused before b asks, and b gets what was left.
    let untrue = after(|e| e.history.events[2].from = 3000);
    assert_eq!(untrue, Vec::<&str>::new(), "b may have been first");
    let untrue = after(|e| {
        e.history.events[2] = event(2, 2000, Answer::SoldOut { left: 0 });
    });
    assert_eq!(untrue, ["I11"]);
    assert_eq!(
        after(|e| e.history.events[2].answer = Answer::SoldOut { left: 1 }),
        ["I11"]
    );
}

#[test]
fn i12_mysql_and_redis_as_the_log_has_it() {
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
fn i13_no_recovery_in_time() {
    assert_eq!(after(|e| e.recovery.resumed_ms = None), ["I13"]);
    assert_eq!(after(|e| e.recovery.drained_ms = Some(31_000)), ["I13"]);
}

#[test]
fn a_buyer_without_an_answer_or_with_an_odd_one() {
    assert_eq!(after(|e| e.history.buyers[2].done = false), ["answered"]);
    assert_eq!(
        after(|e| e.history.events[2].answer = Answer::Odd("404".into())),
        ["answered"]
    );
}

#[test]
fn i14_a_program_that_grows() {
    assert_eq!(
        after(|e| e.peaks.extend([("operator-1".into(), MOST_KIB + 1)])),
        ["I14"]
    );
}

#[test]
fn a_fault_that_could_not_be_played() {
    assert_eq!(after(|e| e.unplayed.push("kill-api".into())), ["played"]);
}
