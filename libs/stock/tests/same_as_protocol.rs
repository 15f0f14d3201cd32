//! Compares the Lua scripts with the pure functions: random batches, terms and adjustments go through both, and all
//! answers and stored data must be equal.
mod common;
mod shared_server;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::new_sale;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use seckill_protocol::adjustment::apply_adjustments;
use seckill_protocol::index::{self, Holding, Index, OrderBounds, Request, SaleState, Server, Terms};
use seckill_protocol::install::{self, Install, WrittenHoldings, apply};
use seckill_protocol::rebuild::{BuyerHoldings, HoldingCounts};
use seckill_protocol::tiers::TierTerms;
use seckill_protocol::{Buyer, Epoch, KeyHash, PendingAdjustment, StockAdjustment};
use seckill_stock::{Installed, StockClient};
use shared_server::{connect, redis_url};

/// One call on an index.
#[derive(Debug, Clone)]
enum Call {
    Purchase { caller: i64, requests: Vec<Request> },
    Apply { epoch: i64, terms: Terms },
    Adjust { records: Vec<(i64, AdjustingRecord)> },
}

/// How the terms of a test are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tiered {
    No,
    Yes,
}

const EPOCH: i64 = 40;
/// So far from now that the clock can't pass it within a test.
const HOUR: u64 = 3_600_000;

fn requests() -> impl Strategy<Value = Vec<Request>> {
    // Few buyers and keys, so that duplicates, replays and limits happen all the time.
    let request = (
        0..6u8,
        0..5u64,
        prop_oneof![4 => Just(1u32), 2 => 2..5u32, 1 => Just(0u32)],
        0..6u8,
    );
    prop::collection::vec(request, 1..40).prop_map(|requests| {
        let request = |(number, key, quantity, tier)| Request {
            buyer: buyer(number),
            quantity,
            tier,
            key: KeyHash(key),
        };
        requests.into_iter().map(request).collect()
    })
}

fn buyer(number: u8) -> Buyer {
    Buyer::new(format!("buyer-{number}:%")).expect("valid")
}

/// A record that adjusts an index.
#[derive(Debug, Clone)]
enum AdjustingRecord {
    /// Cancels the order that this number picks among the holdings. So most exist and some are cancelled twice.
    Cancelled(usize),
    /// Cancels any order.
    CancelledUnknown(u8, i64, u64),
    Total(u64),
    /// Cancels an order that had ended.
    CancelledAgain,
}

impl AdjustingRecord {
    fn adjustment(&self, index: &Index) -> StockAdjustment {
        match *self {
            AdjustingRecord::Cancelled(pick) => {
                let mut held: Vec<_> = index
                    .holdings
                    .iter()
                    .flat_map(|(buyer, held)| held.iter().map(move |h| (h.seq, buyer)))
                    .collect();
                held.sort();
                match held.get(pick % held.len().max(1)) {
                    None => AdjustingRecord::CancelledUnknown(0, EPOCH, 1).adjustment(index),
                    Some(&(seq, buyer)) => StockAdjustment::Return {
                        buyer: buyer.clone(),
                        epoch: Epoch(EPOCH),
                        seq,
                    },
                }
            }
            AdjustingRecord::CancelledUnknown(number, epoch, seq) => StockAdjustment::Return {
                buyer: buyer(number),
                epoch: Epoch(epoch),
                seq,
            },
            AdjustingRecord::Total(total) => StockAdjustment::Raise { total },
            AdjustingRecord::CancelledAgain => StockAdjustment::Pass,
        }
    }
}

fn adjusting_record() -> impl Strategy<Value = AdjustingRecord> {
    prop_oneof![
        6 => (0..4usize).prop_map(AdjustingRecord::Cancelled),
        1 => (0..6u8, EPOCH - 1..EPOCH + 1, 1..12u64).prop_map(|(n, epoch, seq)| AdjustingRecord::CancelledUnknown(n, epoch, seq)),
        1 => (0..60u64).prop_map(AdjustingRecord::Total),
        1 => Just(AdjustingRecord::CancelledAgain),
    ]
}

fn terms(now: u64, tiered: Tiered) -> impl Strategy<Value = Terms> {
    let state = prop_oneof![6 => Just(SaleState::Open), 1 => Just(SaleState::Suspended), 1 => Just(SaleState::Closed)];
    let opens = prop_oneof![6 => Just(now - HOUR), 1 => Just(now + HOUR)];
    let closes = prop_oneof![6 => Just(now + 2 * HOUR), 1 => Just(now - HOUR / 2)];
    let limit = || prop_oneof![3 => Just(0u32), 2 => 1..6u32];
    let window = (opens, closes);
    (1..8u64, state, window, limit(), bounds(), tiers(now, tiered)).prop_map(
        |(version, state, (opens, closes), limit, bounds, tiers)| Terms {
            version,
            state,
            opens,
            closes,
            limit,
            bounds,
            tiers,
        },
    )
}

/// Small reserves that keep much of the units. The terms may have other tiers than those before, which never happens.
fn tiers(now: u64, tiered: Tiered) -> impl Strategy<Value = Vec<TierTerms>> {
    let opens = prop_oneof![6 => Just(now - HOUR), 1 => Just(now + HOUR)];
    let release = prop_oneof![Just(now - HOUR), Just(now + HOUR), Just(now + 2 * HOUR)];
    let limit = prop_oneof![2 => Just(0u32), 2 => 1..6u32];
    let tier = (opens, limit, 0..12u64, release).prop_map(|(opens, limit, reserved, release)| TierTerms {
        opens,
        limit,
        reserved,
        release,
    });
    let numbers = if tiered == Tiered::Yes { 2..6 } else { 0..1 };
    prop::collection::vec(tier, numbers)
}

/// Small ones, so that they are reached.
fn bounds() -> impl Strategy<Value = OrderBounds> {
    let bound = |most: u32| prop_oneof![3 => Just(0), 2 => 1..most];
    (bound(5), bound(30), bound(4), bound(6)).prop_map(|(order, sale, live, ever)| OrderBounds {
        max_per_order: order,
        orders_ever_max: sale.into(),
        buyer_live_max: live,
        buyer_ever_max: ever,
    })
}

fn calls(now: u64, tiered: Tiered) -> impl Strategy<Value = (u64, Terms, Vec<Call>)> {
    let caller = prop_oneof![12 => Just(EPOCH), 1 => Just(EPOCH - 1), 1 => Just(EPOCH + 1)];
    let since = prop_oneof![8 => Just(EPOCH), 1 => Just(EPOCH - 3), 1 => Just(EPOCH + 1)];
    let known = prop_oneof![4 => Just(EPOCH), 1 => Just(EPOCH - 3), 1 => Just(EPOCH + 1)];
    let call = prop_oneof![
        5 => (caller, requests()).prop_map(|(caller, requests)| Call::Purchase { caller, requests }),
        1 => (known, terms(now, tiered)).prop_map(|(epoch, terms)| Call::Apply { epoch, terms }),
        4 => prop::collection::vec((since, adjusting_record()), 1..4).prop_map(|records| Call::Adjust { records }),
    ];
    (0..40u64, terms(now, tiered), prop::collection::vec(call, 1..12))
}

#[test]
fn the_scripts_match_the_pure_functions() {
    compare(Tiered::No, 300);
}

/// 10,000 batches and more.
#[test]
fn the_scripts_match_the_pure_functions_for_tiers() {
    let batches = compare(Tiered::Yes, 3600);
    assert!(batches >= 10_000, "{batches}");
}

/// Gives the number of batches.
fn compare(tiered: Tiered, cases: u32) -> usize {
    let batches = AtomicUsize::new(0);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(connect());
    let now = runtime
        .block_on(client.probe(new_sale()))
        .expect("Redis answers")
        .server
        .now;
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..Default::default()
    });
    runner
        .run(&calls(now, tiered), |(total, terms, calls)| {
            runtime.block_on(async {
                let sale = new_sale();
                let mut index = common::install(&client, sale, Epoch(EPOCH), total, terms).await;
                let server = Server {
                    is_master: true,
                    rid: index.rid.clone(),
                    now,
                };
                // Some records are older than the index.
                let mut offset = EPOCH - 3;
                for call in calls {
                    match call {
                        Call::Purchase { caller, requests } => {
                            let by_script = client.purchase(sale, Epoch(caller), &requests).await.expect("answers");
                            let by_function = index::purchase(Some(&mut index), &server, Epoch(caller), &requests);
                            prop_assert_eq!(by_script, by_function);
                            batches.fetch_add(1, Ordering::Relaxed);
                        }
                        Call::Apply { epoch, terms } => {
                            let by_script = client.apply(sale, Epoch(epoch), &terms).await.expect("answers");
                            let by_function = apply(Some(&mut index), &server, Epoch(epoch), &terms);
                            prop_assert_eq!(by_script, by_function);
                        }
                        Call::Adjust { records } => {
                            let pending = |(since, record): &(i64, AdjustingRecord)| {
                                offset += 1;
                                PendingAdjustment {
                                    offset,
                                    since: Epoch(*since),
                                    adjustment: record.adjustment(&index),
                                }
                            };
                            let pending: Vec<PendingAdjustment> = records.iter().map(pending).collect();
                            let by_script = client.apply_adjustments(sale, &pending).await.expect("answers");
                            let by_function = apply_adjustments(Some(&mut index), &server, &pending);
                            prop_assert_eq!(by_script, by_function);
                        }
                    }
                    same_data(&client, &index).await?;
                }
                client.drop_sale(sale).await.expect("answers");
                Ok(())
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    batches.into_inner()
}

/// Calls that write buyers. There are few buyers, so that some are written twice.
fn written_calls() -> impl Strategy<Value = Vec<Vec<BuyerHoldings>>> {
    let holding = (0..EPOCH, 1..99u64, 1..4u32, 0..6u8, any::<u64>(), any::<bool>());
    let holding = holding.prop_map(|(epoch, seq, quantity, tier, key, cancelled)| Holding {
        epoch: Epoch(epoch),
        seq,
        quantity,
        tier,
        key: KeyHash(key),
        cancelled,
    });
    let held = (0..30u8, prop::collection::vec(holding, 1..4)).prop_map(|(number, held)| (buyer(number), held));
    prop::collection::vec(prop::collection::vec(held, 1..6), 0..4)
}

#[test]
fn writing_and_installing_match_the_pure_functions() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(connect());
    let server = runtime.block_on(client.probe(new_sale())).expect("answers").server;
    let server_now = server.now;
    let wrong_by = prop_oneof![8 => Just([0u64; 3]), 1 => Just([1, 0, 0]), 1 => Just([0, 1, 0]), 1 => Just([0, 0, 1])];
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..Default::default()
    };
    TestRunner::new(config)
        .run(
            &(
                written_calls(),
                wrong_by,
                any::<bool>()
                    .prop_flat_map(move |tiered| terms(server_now, if tiered { Tiered::Yes } else { Tiered::No })),
            ),
            |(calls, wrong_by, terms)| {
                runtime.block_on(async {
                    let (sale, epoch) = (new_sale(), Epoch(EPOCH));
                    let (mut written, mut counts) = (WrittenHoldings::default(), HoldingCounts::default());
                    for call in &calls {
                        let by_script = common::write(&client, sale, epoch, call).await.is_ok();
                        let by_function = install::write(&mut written, call).is_ok();
                        prop_assert_eq!(by_script, by_function);
                        call.iter().for_each(|(_, held)| counts.add(held));
                    }
                    let index = Install {
                        epoch,
                        total: counts.units + wrong_by[2] + 7,
                        left: 7,
                        holders: counts.holders + wrong_by[0],
                        orders: counts.orders + wrong_by[1],
                        taken: counts.taken(&terms),
                        terms,
                    };
                    let by_script = client.install(sale, &index).await.expect("answers");
                    let by_function = install::install(None, &server, sale, &index, written);
                    prop_assert_eq!(by_script == Installed::Done, by_function.is_ok(), "{:?}", by_script);
                    if let Ok(index) = by_function {
                        same_data(&client, &index).await?;
                    }
                    client.drop_sale(sale).await.expect("answers");
                    Ok(())
                })
            },
        )
        .unwrap_or_else(|failure| panic!("{failure}"));
}

async fn same_data(client: &StockClient, index: &Index) -> Result<(), TestCaseError> {
    let stored = client
        .probe(index.sale)
        .await
        .expect("answers")
        .index
        .expect("installed");
    prop_assert_eq!(
        (stored.left, stored.seq, stored.total),
        (index.left, index.seq, index.total)
    );
    prop_assert_eq!((stored.ever, stored.adjusted), (index.ever, index.adjusted));
    prop_assert_eq!(&stored.taken, &index.taken);
    prop_assert_eq!(&stored.terms, &index.terms);
    prop_assert_eq!(stored.holders, index.holdings.len() as u64);

    let mut connection = redis::Client::open(redis_url())
        .expect("a URL")
        .get_multiplexed_async_connection()
        .await
        .expect("connects");
    let held: HashMap<String, String> = redis::cmd("HGETALL")
        .arg(format!("{{{}}}:u:{}", index.sale, index.epoch))
        .query_async(&mut connection)
        .await
        .expect("answers");
    let expected: HashMap<String, String> = index
        .holdings
        .iter()
        .map(|(buyer, holdings)| (buyer.to_string(), text(holdings)))
        .collect();
    prop_assert_eq!(held, expected);

    // The outbox holds each sold order once, in order.
    let outbox = client.outbox(index.sale, index.epoch, 0, 1000).await.expect("answers");
    let sold: Vec<_> = outbox
        .iter()
        .flat_map(|e| e.batch.iter())
        .map(|(id, order)| (id.seq, order.clone()))
        .collect();
    prop_assert_eq!(sold.len() as u64, index.seq);
    for (i, (seq, order)) in sold.iter().enumerate() {
        prop_assert_eq!(*seq, i as u64 + 1);
        let held = &index.holdings[&order.buyer];
        prop_assert!(
            held.iter()
                .any(|h| (h.seq, h.quantity, h.tier, h.key) == (*seq, order.quantity, order.tier, order.key))
        );
    }
    Ok(())
}

fn text(holdings: &[Holding]) -> String {
    let cancelled = |h: &Holding| if h.cancelled { "x" } else { "" };
    let tier = |h: &Holding| {
        if h.tier == 0 {
            String::new()
        } else {
            format!("t{}", h.tier)
        }
    };
    let one = |h: &Holding| {
        format!(
            "{}.{}.{}.{}{}{}",
            h.epoch,
            h.seq,
            h.quantity,
            h.key,
            tier(h),
            cancelled(h)
        )
    };
    holdings.iter().map(one).collect::<Vec<_>>().join(" ")
}
