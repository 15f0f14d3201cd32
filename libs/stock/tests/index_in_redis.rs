//! Tests of the index in a real Redis.
mod common;
mod purchases;
mod shared_server;
mod switchover;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use common::{install, new_sale, write};
use futures::FutureExt as _;
use purchases::{open_terms, request};
use seckill_protocol::index::{Decision, Fenced, Holding, Request, SaleState, Terms};
use seckill_protocol::rebuild::BuyerHoldings;
use seckill_protocol::{AdjustmentOutcome, Batch, Buyer, Epoch, KeyHash, PendingAdjustment, SaleId, StockAdjustment};
use seckill_stock::{Applied, BYTES_AN_ORDER, BatchSink, Batcher, Install, Installed, PurchaseError, StockClient};
use shared_server::{connect, redis_url};
use tokio::sync::watch;

/// A sink that keeps its batches.
#[derive(Default)]
struct RecordedBatches(Mutex<Vec<Batch>>);

impl BatchSink for RecordedBatches {
    fn append(&self, batch: Batch) {
        self.0.lock().expect("not poisoned").push(batch);
    }
}

#[tokio::test]
async fn an_index_is_installed_once_and_never_over_a_newer_one() {
    let (client, sale) = (connect().await, new_sale());
    install(&client, sale, Epoch(5), 3, open_terms()).await;
    for epoch in [4, 5] {
        let again = Install {
            epoch: Epoch(epoch),
            total: 3,
            left: 3,
            holders: 0,
            orders: 0,
            taken: Vec::new(),
            terms: open_terms(),
        };
        assert!(
            matches!(
                client.install(sale, &again).await.expect("answers"),
                Installed::Refused(_)
            ),
            "{epoch}"
        );
    }
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn the_holdings_of_a_buyer_are_read_from_the_index_in_force_only() {
    let (client, sale) = (connect().await, new_sale());
    let buyers = [(Buyer::anonymous("a"), vec![holding("a")])];
    write(&client, sale, Epoch(5), &buyers).await.expect("Redis answers");
    let index = Install {
        epoch: Epoch(5),
        total: 3,
        left: 2,
        holders: 1,
        orders: 1,
        taken: Vec::new(),
        terms: open_terms(),
    };
    let installed = client.install(sale, &index).await.expect("Redis answers");
    assert_eq!(installed, Installed::Done);
    let held = async |epoch, buyer| {
        let read = client.holdings_of(sale, Epoch(epoch), &Buyer::anonymous(buyer)).await;
        read.expect("answers")
    };
    assert_eq!(held(5, "a").await, Some(vec![holding("a")]));
    assert_eq!(held(5, "b").await, Some(vec![]));
    // Neither an older one nor one that is still being written.
    assert_eq!((held(4, "a").await, held(6, "a").await), (None, None));
    client.drop_sale(sale).await.expect("answers");
    assert_eq!(held(5, "a").await, None);
}

fn holding(key: &str) -> Holding {
    Holding {
        epoch: Epoch(1),
        seq: 1,
        quantity: 1,
        tier: 0,
        key: KeyHash::of(key),
        cancelled: false,
    }
}

/// Buyers `0` to `count`, each with a holding of one unit.
fn buyers(count: u64) -> Vec<BuyerHoldings> {
    let one = |i: u64| (Buyer::anonymous(&i.to_string()), vec![holding("k")]);
    (0..count).map(one).collect()
}

/// Epoch 5 with holdings of one unit each, one for a buyer.
fn index_of(holders: u64) -> Install {
    Install {
        epoch: Epoch(5),
        total: holders + 3,
        left: 3,
        holders,
        orders: holders,
        taken: Vec::new(),
        terms: open_terms(),
    }
}

#[tokio::test]
async fn an_index_with_missing_holdings_is_refused() {
    let (client, sale) = (connect().await, new_sale());
    write(&client, sale, Epoch(5), &buyers(1234)).await.expect("answers");
    let refused = client.install(sale, &index_of(1235)).await.expect("answers");
    let counts = "1234 of 1235 buyers, 1234 of 1235 orders and 1234 of 1235 live units are there";
    assert_eq!(refused, Installed::Refused(counts.into()));
    // An order or a unit more or fewer than was written.
    let other_orders = Install {
        orders: 1235,
        ..index_of(1234)
    };
    let other_units = Install {
        left: 4,
        ..index_of(1234)
    };
    for index in [other_orders, other_units] {
        let refused = client.install(sale, &index).await.expect("answers");
        assert!(matches!(refused, Installed::Refused(_)), "{refused:?}");
    }
    let installed = client.install(sale, &index_of(1234)).await;
    assert_eq!(installed.expect("answers"), Installed::Done);
    // A retry gets the holding that was written.
    let (answers, sold) = client
        .purchase(
            sale,
            Epoch(5),
            &[Request {
                key: KeyHash::of("k"),
                ..request("7", 1)
            }],
        )
        .await
        .expect("answers")
        .expect("in force");
    assert_eq!((answers, sold), (vec![Decision::AlreadyReserved(holding("k"))], None));
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn lost_holdings_and_buyers_written_twice_prevent_the_install() {
    let (client, sale) = (connect().await, new_sale());
    write(&client, sale, Epoch(5), &buyers(700)).await.expect("answers");
    // The same holdings again, as a client that retries would send them, and one order of a buyer after the other.
    assert!(write(&client, sale, Epoch(5), &buyers(1)).await.is_err());
    let second = [(Buyer::anonymous("0"), vec![holding("other")])];
    assert!(write(&client, sale, Epoch(5), &second).await.is_err());
    let two_orders = Install {
        total: 704,
        orders: 701,
        ..index_of(700)
    };
    let refused = client.install(sale, &two_orders).await.expect("answers");
    assert!(matches!(refused, Installed::Refused(_)), "{refused:?}");
    client.drop_written(sale, Epoch(5)).await.expect("answers");
    // The holdings are gone, the counts are there.
    write(&client, sale, Epoch(5), &buyers(1)).await.expect("answers");
    let mut connection = redis::Client::open(redis_url())
        .expect("a URL")
        .get_multiplexed_async_connection()
        .await
        .expect("connects");
    let () = redis::cmd("DEL")
        .arg(format!("{{{sale}}}:u:5"))
        .query_async(&mut connection)
        .await
        .expect("deletes");
    let refused = client.install(sale, &index_of(1)).await.expect("answers");
    assert!(matches!(refused, Installed::Refused(_)), "{refused:?}");
    client.drop_written(sale, Epoch(5)).await.expect("answers");
    let installed = client.install(sale, &index_of(0)).await;
    assert_eq!(installed.expect("answers"), Installed::Done);
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn an_index_with_another_replication_id_sells_nothing() {
    let (client, sale) = (connect().await, new_sale());
    install(&client, sale, Epoch(5), 3, open_terms()).await;
    let mut connection = redis::Client::open(redis_url())
        .expect("a URL")
        .get_multiplexed_async_connection()
        .await
        .expect("connects");
    let key = format!("{{{sale}}}:m");
    let () = redis::cmd("HSET")
        .arg(&key)
        .arg("rid")
        .arg("0".repeat(40))
        .query_async(&mut connection)
        .await
        .expect("sets");
    let fenced = client
        .purchase(sale, Epoch(5), &[request("k", 1)])
        .await
        .expect("answers");
    assert_eq!(fenced, Err(Fenced::Stale));
    assert_eq!(
        client
            .apply(
                sale,
                Epoch(5),
                &Terms {
                    version: 9,
                    ..open_terms()
                }
            )
            .await
            .expect("answers"),
        Applied::NotHere
    );
    let probe = client.probe(sale).await.expect("answers");
    assert!(probe.index.is_some() && probe.valid().is_none());
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn terms_change_only_to_newer_ones() {
    let (client, sale) = (connect().await, new_sale());
    assert_eq!(
        client.apply(sale, Epoch(5), &open_terms()).await.expect("answers"),
        Applied::NotHere
    );
    install(&client, sale, Epoch(5), 3, open_terms()).await;
    let suspended = Terms {
        version: 2,
        state: SaleState::Suspended,
        ..open_terms()
    };
    for another in [4, 6] {
        let applied = client.apply(sale, Epoch(another), &suspended).await;
        assert_eq!(applied.expect("answers"), Applied::NotHere);
    }
    assert_eq!(
        client.apply(sale, Epoch(5), &suspended).await.expect("answers"),
        Applied::Done
    );
    assert_eq!(
        client.apply(sale, Epoch(5), &open_terms()).await.expect("answers"),
        Applied::Older
    );
    let (answers, _) = client
        .purchase(sale, Epoch(5), &[request("k", 1)])
        .await
        .expect("answers")
        .expect("in force");
    assert_eq!(answers, [Decision::Suspended]);
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn the_outbox_is_read_in_order_and_trimmed_from_its_start() {
    let (client, sale, epoch) = (connect().await, new_sale(), Epoch(5));
    install(&client, sale, epoch, 9, open_terms()).await;
    for batch in [
        vec![request("a", 1), request("b", 2)],
        vec![request("c", 1)],
        vec![request("d", 1)],
    ] {
        client
            .purchase(sale, epoch, &batch)
            .await
            .expect("answers")
            .expect("in force");
    }
    let lasts = async |after| {
        let entries = client.outbox(sale, epoch, after, 10).await.expect("answers");
        entries.iter().map(|e| e.batch.last()).collect::<Vec<_>>()
    };
    assert_eq!(lasts(0).await, [2, 3, 4]);
    assert_eq!(lasts(3).await, [4]);
    assert_eq!(client.trim_outbox(sale, epoch, 3).await.expect("answers"), 2);
    assert_eq!(lasts(0).await, [4]);
    assert_eq!(client.outbox_len(sale, epoch).await.expect("answers"), 1);
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn keys_of_earlier_epochs_are_freed() {
    let (client, sale) = (connect().await, new_sale());
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    client
        .purchase(sale, Epoch(5), &[request("a", 1)])
        .await
        .expect("answers")
        .expect("in force");
    write(&client, sale, Epoch(9), &buyers(1)).await.expect("answers");
    let index = Install {
        epoch: Epoch(9),
        total: 9,
        left: 8,
        holders: 1,
        orders: 1,
        taken: Vec::new(),
        terms: open_terms(),
    };
    assert_eq!(client.install(sale, &index).await.expect("answers"), Installed::Done);
    client.drop_epochs_before(sale, Epoch(9)).await.expect("answers");
    assert_eq!(client.outbox_len(sale, Epoch(5)).await.expect("answers"), 0);
    let index = client.probe(sale).await.expect("answers").index.expect("there");
    assert_eq!((index.epoch, index.left, index.holders), (Epoch(9), 8, 1));
    client.drop_sale(sale).await.expect("answers");
    assert_eq!(client.probe(sale).await.expect("answers").index, None);
}

#[tokio::test]
async fn a_crowd_gets_exactly_the_stock_once() {
    let (client, sale, epoch) = (connect().await, new_sale(), Epoch(5));
    install(&client, sale, epoch, 100, open_terms()).await;
    let kept = Arc::new(RecordedBatches::default());
    let (_known, epoch_known) = watch::channel(Some(epoch));
    let batcher = Batcher::spawn(client.clone(), sale, epoch_known, kept.clone(), 1000);
    let buyers = (0..500).map(|i| {
        let batcher = batcher.clone();
        tokio::spawn(async move {
            batcher
                .purchase(request(&format!("{sale}-{i}"), 1))
                .await
                .expect("decided")
                .1
        })
    });
    let mut won = HashSet::new();
    let mut sold_out = 0;
    for buyer in buyers.collect::<Vec<_>>() {
        match buyer.await.expect("no panic") {
            Decision::Reserved { seq } => assert!(won.insert(seq), "{seq} twice"),
            Decision::SoldOut { .. } => sold_out += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((won.len(), sold_out), (100, 400));
    let kept = std::mem::take(&mut *kept.0.lock().expect("not poisoned"));
    let logged: HashSet<_> = kept.iter().flat_map(|b| b.iter()).map(|(id, _)| id.seq).collect();
    assert_eq!(logged, won);
    assert!(kept.len() < 100, "a crowd shares script calls");
    client.drop_sale(sale).await.expect("answers");
}

/// The test does not wait, so the batcher does not run before the callers are gone.
#[tokio::test]
async fn callers_that_went_away_buy_nothing_and_hold_no_place() {
    const PLACES: usize = 10;
    let (client, sale, epoch) = (connect().await, new_sale(), Epoch(5));
    install(&client, sale, epoch, 100, open_terms()).await;
    let (_known, epoch_known) = watch::channel(Some(epoch));
    let batcher = Batcher::spawn(
        client.clone(),
        sale,
        epoch_known,
        Arc::new(RecordedBatches::default()),
        PLACES,
    );
    for n in 0..3 * PLACES {
        let purchase = batcher.purchase(request(&format!("gone-{n}"), 1)).now_or_never();
        assert!(purchase.is_none(), "{purchase:?}");
    }
    let stays = batcher.purchase(request("stays", 1)).await;
    assert!(matches!(stays, Ok((_, Decision::Reserved { seq: 1 }))), "{stays:?}");
    let index = client.probe(sale).await.expect("answers").index.expect("there");
    assert_eq!((index.left, index.holders), (99, 1));
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn a_batcher_reports_a_missing_or_older_index() {
    let (client, sale) = (connect().await, new_sale());
    let (known, epoch) = watch::channel(None);
    let batcher = Batcher::spawn(client.clone(), sale, epoch, Arc::new(RecordedBatches::default()), 10);
    assert!(matches!(
        batcher.purchase(request("k", 1)).await,
        Err(PurchaseError::NoIndex)
    ));
    known.send_replace(Some(Epoch(4)));
    assert!(matches!(
        batcher.purchase(request("k", 1)).await,
        Err(PurchaseError::Stale)
    ));
    install(&client, sale, Epoch(5), 3, open_terms()).await;
    assert!(matches!(
        batcher.purchase(request("k", 1)).await,
        Err(PurchaseError::Refresh(Epoch(5)))
    ));
    known.send_replace(Some(Epoch(5)));
    assert!(matches!(
        batcher.purchase(request("k", 1)).await,
        Ok((Epoch(5), Decision::Reserved { seq: 1 }))
    ));
    client.drop_sale(sale).await.expect("answers");
}

/// Buys one unit, as `buyer` with a key of its own.
async fn buy(client: &StockClient, sale: SaleId, buyer: &str, key: u64) -> Decision {
    let request = Request {
        key: KeyHash(key),
        ..request(buyer, 1)
    };
    let decided = client.purchase(sale, EPOCH, &[request]).await.expect("answers");
    decided.expect("in force").0[0]
}

const EPOCH: Epoch = Epoch(5);

fn cancel(buyer: &str, offset: i64, seq: u64) -> PendingAdjustment {
    PendingAdjustment {
        offset,
        since: EPOCH,
        adjustment: StockAdjustment::Return {
            buyer: Buyer::anonymous(buyer),
            epoch: EPOCH,
            seq,
        },
    }
}

/// Buys and cancels in a loop, until a purchase is refused. Returns the number of orders and the refusal.
async fn buy_and_cancel(client: &StockClient, sale: SaleId, buyer: impl Fn(u64) -> String) -> (u64, Decision) {
    for n in 1..1000 {
        match buy(client, sale, &buyer(n), n).await {
            Decision::Reserved { seq } => {
                let cancelled = [cancel(&buyer(n), 100 + n as i64, seq)];
                let outcomes = client.apply_adjustments(sale, &cancelled).await.expect("answers");
                assert_eq!(outcomes, [AdjustmentOutcome::Done]);
            }
            refusal => return (n - 1, refusal),
        }
    }
    panic!("a thousand orders were made");
}

#[tokio::test]
async fn a_buyer_who_buys_and_cancels_is_bounded() {
    let (client, sale) = (connect().await, new_sale());
    install(&client, sale, EPOCH, 3, open_terms()).await;
    // 32 cancelled orders lock nobody out.
    let made = buy_and_cancel(&client, sale, |_| "b".into()).await;
    assert_eq!(made, (64, Decision::TooManyOrders));
    assert!(matches!(buy(&client, sale, "c", 1).await, Decision::Reserved { .. }));
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn live_orders_of_a_buyer_are_bounded_until_one_is_cancelled() {
    let (client, sale) = (connect().await, new_sale());
    install(&client, sale, EPOCH, 100, open_terms()).await;
    for key in 1..=32 {
        assert_eq!(buy(&client, sale, "b", key).await, Decision::Reserved { seq: key });
    }
    assert_eq!(buy(&client, sale, "b", 33).await, Decision::TooManyOrders);
    let cancelled = client.apply_adjustments(sale, &[cancel("b", 9, 7)]).await;
    assert_eq!(cancelled.expect("answers"), [AdjustmentOutcome::Done]);
    assert_eq!(buy(&client, sale, "b", 33).await, Decision::Reserved { seq: 33 });
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn orders_of_a_sale_are_bounded_across_buyers_and_rebuilds() {
    let (client, sale) = (connect().await, new_sale());
    let mut terms = open_terms();
    terms.bounds.orders_ever_max = 20;
    install(&client, sale, EPOCH, 3, terms.clone()).await;
    let made = buy_and_cancel(&client, sale, |n| format!("buyer-{n}")).await;
    assert_eq!(made, (20, Decision::OrdersExhausted));
    // Another epoch begins with all orders of the log.
    let cancelled = |n: u64| Holding {
        epoch: EPOCH,
        seq: n,
        quantity: 1,
        tier: 0,
        key: KeyHash(n),
        cancelled: true,
    };
    let buyers: Vec<BuyerHoldings> = (1..=20)
        .map(|n| (Buyer::anonymous(&format!("buyer-{n}")), vec![cancelled(n)]))
        .collect();
    write(&client, sale, Epoch(6), &buyers).await.expect("answers");
    let rebuilt = Install {
        epoch: Epoch(6),
        total: 3,
        left: 3,
        holders: 20,
        orders: 20,
        taken: Vec::new(),
        terms: terms.clone(),
    };
    assert_eq!(client.install(sale, &rebuilt).await.expect("answers"), Installed::Done);
    let refused = client
        .purchase(sale, Epoch(6), &[request("new", 1)])
        .await
        .expect("answers");
    assert_eq!(refused.expect("in force").0, [Decision::OrdersExhausted]);
    (terms.version, terms.bounds.orders_ever_max) = (2, 21);
    assert_eq!(
        client.apply(sale, Epoch(6), &terms).await.expect("answers"),
        Applied::Done
    );
    let two = [request("new", 1), request("newer", 1)];
    let decided = client.purchase(sale, Epoch(6), &two).await.expect("answers");
    let decided = decided.expect("in force").0;
    assert_eq!(decided, [Decision::Reserved { seq: 1 }, Decision::OrdersExhausted]);
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn an_index_of_an_earlier_version_sells_without_bounds() {
    let (client, sale) = (connect().await, new_sale());
    let mut terms = open_terms();
    (terms.bounds.max_per_order, terms.bounds.orders_ever_max) = (1, 1);
    install(&client, sale, EPOCH, 9, terms).await;
    let mut redis = redis::Client::open(redis_url())
        .expect("a URL")
        .get_multiplexed_async_connection()
        .await
        .expect("Redis");
    let new = [
        "max_per_order",
        "orders_ever_max",
        "buyer_live_max",
        "buyer_ever_max",
        "ever",
        "adjusted",
    ];
    let () = redis::cmd("HDEL")
        .arg(format!("{{{sale}}}:m"))
        .arg(&new)
        .query_async(&mut redis)
        .await
        .expect("deleted");
    let requests = [request("a", 5), request("b", 1)];
    let decided = client.purchase(sale, EPOCH, &requests).await.expect("answers");
    let decided = decided.expect("in force").0;
    assert_eq!(decided, [Decision::Reserved { seq: 1 }, Decision::Reserved { seq: 2 }]);
    let cancelled = client.apply_adjustments(sale, &[cancel("b", 9, 2)]).await;
    assert_eq!(cancelled.expect("answers"), [AdjustmentOutcome::Done]);
    let index = client.probe(sale).await.expect("answers").index.expect("installed");
    assert_eq!((index.left, index.ever, index.adjusted), (4, None, None));
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn a_quantity_above_the_bound_of_the_index_is_refused() {
    let (client, sale) = (connect().await, new_sale());
    let mut terms = open_terms();
    terms.bounds.max_per_order = 2;
    install(&client, sale, EPOCH, 1000, terms).await;
    let requests = [request("a", 900), request("b", 2)];
    let decided = client.purchase(sale, EPOCH, &requests).await.expect("answers");
    let decided = decided.expect("in force").0;
    assert_eq!(
        decided,
        [Decision::QuantityTooLarge { most: 2 }, Decision::Reserved { seq: 1 }]
    );
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn a_full_call_of_adjustments_is_applied_at_once() {
    const ALL: usize = StockClient::MAX_ADJUSTMENTS;
    let (client, sale) = (connect().await, new_sale());
    install(&client, sale, EPOCH, ALL as u64, open_terms()).await;
    let buyers: Vec<String> = (0..ALL).map(|n| format!("buyer-{n}")).collect();
    for buyer in &buyers {
        assert!(matches!(buy(&client, sale, buyer, 1).await, Decision::Reserved { .. }));
    }
    let numbered = (1..).zip(&buyers);
    let pending: Vec<PendingAdjustment> = numbered.map(|(n, buyer)| cancel(buyer, 100 + n, n as u64)).collect();
    let outcomes = client.apply_adjustments(sale, &pending).await.expect("answers");
    assert_eq!(outcomes, [AdjustmentOutcome::Done; ALL]);
    let index = client.probe(sale).await.expect("answers").index.expect("installed");
    assert_eq!((index.left, index.adjusted), (ALL as u64, Some(100 + ALL as i64)));
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn a_sold_unit_takes_the_estimated_memory() {
    const UNITS: u64 = 20_000;
    let (client, sale) = (connect().await, new_sale());
    install(&client, sale, Epoch(1), UNITS, open_terms()).await;
    let buyers: Vec<Request> = (0..UNITS).map(|n| request(&format!("buyer-{n}"), 1)).collect();
    for batch in buyers.chunks(50) {
        let decided = client.purchase(sale, Epoch(1), batch).await.expect("answers");
        assert!(decided.expect("in force").1.is_some());
    }
    let mut redis = redis::Client::open(redis_url())
        .expect("a URL")
        .get_multiplexed_async_connection()
        .await
        .expect("Redis");
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{{{sale}}}:*"))
        .query_async(&mut redis)
        .await
        .expect("answers");
    let mut bytes = 0;
    for key in &keys {
        let usage: u64 = redis::cmd("MEMORY")
            .arg(&["USAGE", key, "SAMPLES", "0"])
            .query_async(&mut redis)
            .await
            .expect("answers");
        bytes += usage;
    }
    assert_eq!(keys.len(), 3, "{keys:?}");
    let each = bytes / UNITS;
    assert!((BYTES_AN_ORDER / 2..=BYTES_AN_ORDER).contains(&each), "{each} bytes");
    client.drop_sale(sale).await.expect("answers");
}

#[tokio::test]
async fn many_indexes_are_probed_at_once_in_their_order() {
    let client = connect().await;
    let sales: Vec<SaleId> = (0..300).map(|_| new_sale()).collect();
    for sale in [sales[7], sales[299]] {
        install(&client, sale, Epoch(4), 9, open_terms()).await;
    }
    let probes = client.probe_all(&sales).await.expect("answers");
    let in_force = probes
        .iter()
        .map(|probe| probe.as_ref()?.valid().map(|index| index.left));
    let in_force: Vec<usize> = in_force.enumerate().filter_map(|(n, left)| left.map(|_| n)).collect();
    assert_eq!((probes.len(), in_force), (300, vec![7, 299]));
    let seventh = probes[7].clone().expect("its server answered");
    assert_eq!(seventh.index, client.probe(sales[7]).await.expect("answers").index);
    assert_eq!(client.probe_all(&[]).await.expect("nothing to do"), []);
    for sale in [sales[7], sales[299]] {
        client.drop_sale(sale).await.expect("answers");
    }
}

#[tokio::test]
async fn settings_describe_the_server() {
    let settings = connect().await.settings().await.expect("answers");
    let [settings] = settings.as_slice() else {
        panic!("{settings:?}")
    };
    assert_eq!(
        (settings.eviction.as_deref(), settings.max_memory),
        (Some("noeviction"), Some(0))
    );
    assert!(settings.used_memory > Some(0) && settings.persistence_fails == Some(false));
    // Redis runs on this machine.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let apart = now.as_millis().abs_diff(u128::from(settings.clock));
    assert!(apart < 60_000, "{settings:?}");
}
