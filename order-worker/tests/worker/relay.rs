use std::collections::HashMap;
use std::time::Duration;

use seckill_ledger::Sale;
use seckill_protocol::index::Request;
use seckill_protocol::{Buyer, Epoch, KeyHash, Record};
use seckill_stock::StockClient;
use seckill_stock::rebuild::{Install, Installed};

use crate::harness::{Harness, batch};

/// Installs an index as the operator does.
pub async fn install(harness: &Harness, stock: &StockClient, sale: &Sale, epoch: Epoch, total: u64) {
    let install = Install {
        epoch,
        total,
        left: total,
        holders: 0,
        orders: 0,
        taken: Vec::new(),
        terms: sale.terms(),
    };
    let installed = stock.install(sale.id, &install).await.expect("Redis");
    assert!(matches!(installed, Installed::Done), "{installed:?}");
    assert!(harness.ledger.set_live_epoch(sale.id, epoch).await.expect("MySQL"));
}

/// Sells in Redis without a record in the log, like a process that dies right after.
pub async fn sell(stock: &StockClient, sale: &Sale, epoch: Epoch, keys: &[&str]) {
    let request = |key: &&str| Request {
        buyer: Buyer::anonymous(key),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(key),
    };
    let requests: Vec<Request> = keys.iter().map(request).collect();
    stock
        .purchase(sale.id, epoch, &requests)
        .await
        .expect("Redis")
        .expect("not fenced");
}

async fn wait_until_trimmed(stock: &StockClient, sale: &Sale, epoch: Epoch) {
    while stock.outbox_len(sale.id, epoch).await.expect("Redis") > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_outbox_entries_are_published_stored_and_trimmed() {
    let harness = Harness::new().await;
    let stock = StockClient::connect(&harness.redis).await.expect("Redis");
    let (sale, epoch) = harness.sale(0, 100).await;
    install(&harness, &stock, &sale, epoch, 100).await;
    sell(&stock, &sale, epoch, &["a", "b"]).await;
    sell(&stock, &sale, epoch, &["c"]).await;
    let worker = harness.worker();
    harness.wait_for_orders(3).await;
    wait_until_trimmed(&stock, &sale, epoch).await;
    let snapshot = harness.ledger.sale_snapshot(sale.id).await.expect("read");
    let orders = snapshot.all_orders().await.expect("read");
    let keys: HashMap<u64, KeyHash> = orders.into_iter().map(|(id, o)| (id.seq, o.key)).collect();
    assert_eq!(
        keys,
        HashMap::from([(1, KeyHash::of("a")), (2, KeyHash::of("b")), (3, KeyHash::of("c"))])
    );
    let metrics = worker.get("/metrics").await;
    assert!(
        metrics.contains("seckill_worker_relay_republished_total 2\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("seckill_worker_orders_duplicate_total 0\n"),
        "{metrics}"
    );
    stock.drop_sale(sale.id).await.expect("Redis");
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_published_after_the_clock_of_redis_stepped_back() {
    let harness = Harness::new().await;
    let stock = StockClient::connect(&harness.redis).await.expect("Redis");
    let (sale, epoch) = harness.sale(0, 100).await;
    install(&harness, &stock, &sale, epoch, 100).await;
    // Sold an hour from now.
    let key = format!("{{{}}}:l:{epoch}", sale.id);
    let Record::Batch(sold) = batch(sale.id, epoch, 1, 1) else {
        unreachable!("a batch");
    };
    let orders = serde_json::to_string(&sold.orders).expect("JSON");
    let at = seckill_service::Clock::system().now() + 3_600_000;
    let client = redis::Client::open(harness.redis.as_str()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let mut entry = redis::cmd("XADD");
    entry.arg(&key).arg(format!("{epoch}-1"));
    entry.arg("at").arg(at).arg("first").arg(1).arg("orders").arg(orders);
    let _: String = entry.query_async(&mut connection).await.expect("Redis");
    let _worker = harness.worker();
    harness.wait_for_orders(1).await;
    wait_until_trimmed(&stock, &sale, epoch).await;
    stock.drop_sale(sale.id).await.expect("Redis");
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_entries_are_only_trimmed() {
    let harness = Harness::new().await;
    let stock = StockClient::connect(&harness.redis).await.expect("Redis");
    let (sale, epoch) = harness.sale(0, 10_000).await;
    install(&harness, &stock, &sale, epoch, 10_000).await;
    for i in 0..600 {
        sell(&stock, &sale, epoch, &[&format!("key-{i}")]).await;
    }
    for entry in stock.outbox(sale.id, epoch, 0, 1000).await.expect("Redis") {
        let record = Record::Batch(entry.batch);
        harness.log.append_now(0, &record).expect("queued");
    }
    // The entries are older than the relay waits, and in the log before the worker starts.
    harness.log.flush(Duration::from_secs(10)).await.expect("flushed");
    let worker = harness.worker();
    harness.wait_for_orders(600).await;
    wait_until_trimmed(&stock, &sale, epoch).await;
    worker.wait_for_metric("seckill_worker_relay_trimmed_total 600").await;
    worker.wait_for_metric("seckill_worker_relay_republished_total 0").await;
    stock.drop_sale(sale.id).await.expect("Redis");
    harness.drop().await;
}

pub async fn wait_until_left(stock: &StockClient, sale: &Sale, total: u64, left: u64) {
    let begun = std::time::Instant::now();
    loop {
        let index = stock.probe(sale.id).await.expect("Redis").index.expect("installed");
        if (index.total, index.left) == (total, left) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{index:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_and_raised_totals_change_the_stock_once() {
    let harness = Harness::new().await;
    let stock = StockClient::connect(&harness.redis).await.expect("Redis");
    let (sale, epoch) = harness.sale(0, 10).await;
    install(&harness, &stock, &sale, epoch, 10).await;
    sell(&stock, &sale, epoch, &["a", "b"]).await;
    let worker = harness.worker();
    harness.wait_for_orders(2).await;
    let cancel = |seq| Record::Cancel {
        sale: sale.id,
        epoch,
        seq,
        reason: "buyer".into(),
    };
    let total = |total| Record::Total { sale: sale.id, total };
    for record in [cancel(1), cancel(1), total(15), total(12)] {
        harness.append(0, &record).await;
    }
    wait_until_left(&stock, &sale, 15, 14).await;
    // The index names the last record that left an adjustment: the second cancel of an order is one too.
    let adjusted = async || {
        stock
            .probe(sale.id)
            .await
            .expect("Redis")
            .index
            .expect("installed")
            .adjusted
    };
    let again = harness.append(0, &cancel(1)).await;
    while adjusted().await < Some(again) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A worker that is killed before it deletes an adjustment applies it again.
    worker.kill();
    harness.execute(&format!(
        "INSERT INTO effects (part, off, sale, since, buyer, epoch, seq) VALUES (0, 2, {}, {epoch}, '{}', {epoch}, 1)",
        sale.id.0,
        Buyer::anonymous("a")
    ))
    .await;
    let worker = harness.worker();
    harness.append(0, &cancel(2)).await;
    wait_until_left(&stock, &sale, 15, 15).await;
    while harness.number("SELECT COUNT(*) FROM effects").await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait_until_left(&stock, &sale, 15, 15).await;
    drop(worker);
    stock.drop_sale(sale.id).await.expect("Redis");
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_waits_for_an_index_of_its_epoch() {
    let harness = Harness::new().await;
    let stock = StockClient::connect(&harness.redis).await.expect("Redis");
    let (sale, epoch) = harness.sale(0, 10).await;
    install(&harness, &stock, &sale, epoch, 10).await;
    // A rebuild has begun, and its index is not installed yet.
    let barrier = Record::Barrier {
        sale: sale.id,
        nonce: "n".into(),
    };
    let next = Epoch(harness.append(0, &barrier).await);
    let raise = Record::Total {
        sale: sale.id,
        total: 12,
    };
    harness.append(0, &raise).await;
    let worker = harness.worker();
    while harness.number("SELECT COUNT(*) FROM effects").await == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    wait_until_left(&stock, &sale, 10, 10).await;
    // The fold of the new index ends at the barrier, so it needs the adjustment too.
    install(&harness, &stock, &sale, next, 10).await;
    wait_until_left(&stock, &sale, 12, 12).await;
    drop(worker);
    stock.drop_sale(sale.id).await.expect("Redis");
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_without_an_index_does_not_delay_adjustments_of_others() {
    let harness = Harness::new().await;
    let stock = StockClient::connect(&harness.redis).await.expect("Redis");
    let (starved, _) = harness.sale(0, 10_000).await;
    let (sale, epoch) = harness.sale(0, 10).await;
    install(&harness, &stock, &sale, epoch, 10).await;
    sell(&stock, &sale, epoch, &["a"]).await;
    // More than a worker reads at once, all before those of the other sale.
    let rows: Vec<String> = (1..=2000)
        .map(|n| format!("(0, -{n}, {}, 1, 'b', 1, {n})", starved.id.0))
        .collect();
    harness
        .execute(&format!(
            "INSERT INTO effects (part, off, sale, since, buyer, epoch, seq) VALUES {}",
            rows.join(", ")
        ))
        .await;
    let worker = harness.worker();
    harness.wait_for_orders(1).await;
    let cancel = Record::Cancel {
        sale: sale.id,
        epoch,
        seq: 1,
        reason: "buyer".into(),
    };
    harness.append(0, &cancel).await;
    wait_until_left(&stock, &sale, 10, 10).await;
    let of_starved = format!("SELECT COUNT(*) FROM effects WHERE sale = {}", starved.id.0);
    assert_eq!(harness.number(&of_starved).await, 2000);
    // The settlement drops what no index can get any more.
    harness
        .execute(&format!(
            "UPDATE sales SET settled_at = NOW(3) WHERE id = {}",
            starved.id.0
        ))
        .await;
    while harness.number(&of_starved).await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(worker);
    stock.drop_sale(sale.id).await.expect("Redis");
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storing_continues_while_redis_is_away() {
    let mut harness = Harness::new().await;
    harness.redis = "redis://127.0.0.1:1".into();
    let (sale, epoch) = harness.sale(0, 100).await;
    harness.ledger.set_live_epoch(sale.id, epoch).await.expect("MySQL");
    let worker = harness.worker();
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    harness.wait_for_orders(10).await;
    worker.wait_until_ready().await;
    harness.drop().await;
}
