//! Reads the evidence: MySQL, the whole log, and the index in Redis.
use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};
use seckill_ledger::{Ledger, OrderStatus};
use seckill_order_log::OrderLog;
use seckill_protocol::{Buyer, Epoch, KeyHash, OrderId, Record, SaleId};
use seckill_stock::StockClient;
use sqlx::{Connection as _, MySqlConnection};

use crate::evidence::{IndexAtRest, LogEntry, Sale, StoredOrder};
use crate::harness::Harness;

/// All sales of a class. Also the number of batches of each sale that only the log knows.
pub async fn sales(
    mysql: &str,
    log: &OrderLog,
    class: &str,
    mut at_rest: HashMap<SaleId, IndexAtRest>,
) -> Result<(Vec<Sale>, HashMap<SaleId, usize>)> {
    let mut records = log_by_sale(log).await?;
    let ledger = Ledger::connect(mysql, 2).await?;
    let mut connection = MySqlConnection::connect(mysql).await?;
    let mut sales = Vec::new();
    for sale in ledger.catalogue(class, std::time::Duration::from_secs(86_400)).await? {
        let quarantined: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM quarantine WHERE sale = ? OR sale IS NULL")
            .bind(sale.id.0)
            .fetch_one(&mut connection)
            .await?;
        sales.push(Sale {
            orders: orders(&mut connection, sale.id).await?,
            quarantined: usize::try_from(quarantined)?,
            settled_without_index: sale.settled_left.is_none(),
            log: records.remove(&sale.id).unwrap_or_default(),
            at_rest: at_rest.remove(&sale.id),
            terms: sale.terms(),
            name: sale.name,
            id: sale.id,
            opens_at: sale.opens_at,
            closes_at: sale.closes_at,
            total: sale.total,
            sold: sale.sold,
            cut: sale.cut,
        });
    }
    let batches = |log: Vec<LogEntry>| {
        log.iter()
            .filter(|entry| matches!(entry.record, Record::Batch(_)))
            .count()
    };
    let unknown = records.into_iter().map(|(sale, log)| (sale, batches(log)));
    Ok((sales, unknown.filter(|(_, batches)| *batches > 0).collect()))
}

async fn orders(connection: &mut MySqlConnection, sale: SaleId) -> Result<BTreeMap<OrderId, StoredOrder>> {
    type Row = (i64, u64, String, u64, u32, String);
    let rows: Vec<Row> =
        sqlx::query_as("SELECT epoch, seq, buyer, key_hash, quantity, status FROM orders WHERE sale = ?")
            .bind(sale.0)
            .fetch_all(connection)
            .await?;
    let mut orders = BTreeMap::new();
    for (epoch, seq, buyer, key, quantity, status) in rows {
        let id = OrderId {
            sale,
            epoch: Epoch(epoch),
            seq,
        };
        let order = StoredOrder {
            buyer: Buyer::new(buyer)?,
            key: KeyHash(key),
            quantity,
            status: OrderStatus::from_text(&status).with_context(|| format!("unknown order status {status:?}"))?,
        };
        orders.insert(id, order);
    }
    Ok(orders)
}

async fn log_by_sale(log: &OrderLog) -> Result<HashMap<SaleId, Vec<LogEntry>>> {
    let mut sales: HashMap<SaleId, Vec<LogEntry>> = HashMap::new();
    for partition in 0..log.partitions() {
        let range = log.offsets(partition).await?;
        log.read(partition, range.start, range.end, |entry| {
            let at = u64::try_from(entry.timestamp_ms).unwrap_or_default();
            if let Ok(record) = entry.record {
                let offset = entry.offset;
                let sale = sales.entry(record.sale()).or_default();
                sale.push(LogEntry { offset, at, record });
            }
        })
        .await?;
    }
    Ok(sales)
}

/// The index of each sale that sells now. Nothing may be in flight.
pub async fn indexes_at_rest(harness: &Harness, log: &OrderLog) -> Result<HashMap<SaleId, IndexAtRest>> {
    let ledger = harness.ledger().await?;
    let mut indexes = HashMap::new();
    for sale in ledger.selling_sales().await? {
        let redis = harness.redis_url_of(sale.id).await?;
        let stock = StockClient::connect(&redis).await?;
        let Some(index) = stock.probe(sale.id).await?.index else {
            continue;
        };
        let mut connection = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
        let holdings: HashMap<String, String> = redis::cmd("HGETALL")
            .arg(format!("{{{}}}:u:{}", sale.id, index.epoch))
            .query_async(&mut connection)
            .await?;
        let at_rest = IndexAtRest {
            log_end: log.end_offset(sale.partition).await?,
            epoch: index.epoch.0,
            total: index.total,
            left: index.left,
            ever: index.ever,
            outbox: index.outbox,
            taken: index.taken,
            holdings,
        };
        indexes.insert(sale.id, at_rest);
    }
    Ok(indexes)
}

/// Work in flight: batches in outboxes, records that are not stored, pending stock adjustments.
pub async fn in_flight(harness: &Harness, log: &OrderLog) -> Result<u64> {
    let ledger = harness.ledger().await?;
    let mut count = 0;
    for sale in ledger.selling_sales().await? {
        let stock = StockClient::connect(&harness.redis_url_of(sale.id).await?).await?;
        // The epoch that the ledger names may be older than the index.
        count += stock.probe(sale.id).await?.index.map_or(0, |index| index.outbox);
    }
    for (partition, position) in ledger.positions().await? {
        count += u64::try_from(log.end_offset(partition).await? - position).unwrap_or_default();
    }
    let mut connection = MySqlConnection::connect(&harness.mysql_url()).await?;
    let adjustments: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM effects")
        .fetch_one(&mut connection)
        .await?;
    Ok(count + u64::try_from(adjustments)?)
}
