//! Queries for orders.
use std::collections::HashMap;

use futures::TryStreamExt as _;
use seckill_protocol::sale::Sale;
use seckill_protocol::{Buyer, Epoch, KeyHash, Offset, OrderId, OrderStatus, Quantity, SaleId, Seq, Tier};
use sqlx::mysql::MySqlRow;
use sqlx::{FromRow, MySql, MySqlConnection, QueryBuilder, Row};

use crate::connection::Ledger;
use crate::error::LedgerError;
use crate::{position, rows, sales};

/// Maximum number of keys in one call of [`Ledger::orders_by_key`].
pub const MAX_KEYS: usize = 128;
/// Each number of keys is a statement of its own, which the server prepares. So there are only these numbers.
const KEY_SIZES: [usize; 3] = [1, 16, MAX_KEYS];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOrder {
    pub id: OrderId,
    pub buyer: Buyer,
    pub tier: Tier,
    pub key: KeyHash,
    pub quantity: Quantity,
    /// Price of one unit, as a number with two digits after the point or more.
    pub price: String,
    pub status: OrderStatus,
    pub created_at_ms: i64,
}

impl StoredOrder {
    /// The price of one unit as the FlashSale of the order's sale states it.
    pub fn stated_price<'a>(&'a self, sale: &'a Sale) -> &'a str {
        match rows::price(&sale.price) == self.price {
            true => &sale.price,
            false => &self.price,
        }
    }
}

/// The keys of all orders of a sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllKeys {
    /// The ledger does not have all orders yet.
    Incomplete,
    /// There are more than the caller takes. After CLOSE that does not change.
    TooMany,
    Keys(Vec<KeyHash>),
}

/// What the ledger has of an order, and how far it has read the log, at one instant.
#[derive(Debug, Clone)]
pub struct OrderLookup {
    /// The row of its sale. MySQL may have lost it, until the log brings it back.
    pub sale: Option<Sale>,
    pub order: Option<StoredOrder>,
    /// The order was promised and is in quarantine. Its buyer still sees it as processing.
    pub quarantined: bool,
    /// The next offset of each partition.
    pub positions: Vec<(u32, Offset)>,
}

/// The columns of an order, in a form that needs no date and decimal types.
macro_rules! order_columns {
    () => {
        "o.sale, o.epoch, o.seq, o.buyer, o.tier, o.key_hash, o.quantity, CAST(o.price AS CHAR) AS price, o.status, \
         TIMESTAMPDIFF(MICROSECOND, '1970-01-01', o.created_at) DIV 1000 AS created_at_ms"
    };
}

/// Whether the ledger has all orders of the sale `s`: CLOSE was folded, and nothing of the sale is in quarantine.
macro_rules! is_complete {
    () => {
        "s.closed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.sale = s.id)"
    };
}

#[derive(FromRow)]
pub(crate) struct OrderRow {
    sale: u32,
    epoch: i64,
    seq: u64,
    buyer: String,
    tier: u8,
    key_hash: u64,
    quantity: u32,
    price: String,
    status: String,
    created_at_ms: i64,
}

impl TryFrom<OrderRow> for StoredOrder {
    type Error = LedgerError;

    fn try_from(row: OrderRow) -> Result<Self, LedgerError> {
        Ok(StoredOrder {
            id: OrderId {
                sale: SaleId(row.sale),
                epoch: Epoch(row.epoch),
                seq: row.seq,
            },
            buyer: rows::buyer(row.buyer)?,
            tier: row.tier,
            key: KeyHash(row.key_hash),
            quantity: row.quantity,
            price: rows::price(&row.price),
            status: rows::status(row.status)?,
            created_at_ms: row.created_at_ms,
        })
    }
}

impl Ledger {
    pub async fn order(&self, id: OrderId) -> Result<Option<StoredOrder>, LedgerError> {
        self.query(async |connection| order(connection, id).await).await
    }

    /// An order, its sale and the positions, from one snapshot: MySQL may fail over between two queries.
    pub async fn look_up_order(&self, id: OrderId) -> Result<OrderLookup, LedgerError> {
        self.snapshot(async |connection| {
            Ok(OrderLookup {
                positions: position::positions(connection).await?,
                sale: sales::by_id(connection, id.sale, self.spoken).await?,
                order: order(connection, id).await?,
                quarantined: is_quarantined(connection, id).await?,
            })
        })
        .await
    }

    /// The order that a buyer made with this key, and whether the ledger has all orders of the sale. See
    /// [`orders_by_key`](Self::orders_by_key).
    pub async fn order_by_key(
        &self,
        sale: SaleId,
        buyer: &Buyer,
        key: KeyHash,
    ) -> Result<(Option<StoredOrder>, bool), LedgerError> {
        let (orders, complete) = self.orders_by_key(sale, &[(buyer, key)]).await?;
        Ok((orders.into_iter().next().flatten(), complete))
    }

    /// The order of each key, and whether the ledger has all orders of the sale, at one instant. If it has all, a key
    /// without an order never gets one. It has all after CLOSE was folded, except those in quarantine.
    ///
    /// At most [`MAX_KEYS`] keys in one call.
    pub async fn orders_by_key(
        &self,
        sale: SaleId,
        keys: &[(&Buyer, KeyHash)],
    ) -> Result<(Vec<Option<StoredOrder>>, bool), LedgerError> {
        let Some((last, _)) = keys.last() else {
            return Ok((Vec::new(), false));
        };
        let size = KEY_SIZES.into_iter().find(|size| *size >= keys.len());
        let padding = size.unwrap_or(keys.len()) - keys.len();
        let buyers = keys.iter().map(|(buyer, _)| *buyer);
        // The index has the buyer, not the key, and a buyer has few orders in a sale.
        let mut query: QueryBuilder<MySql> = QueryBuilder::new(concat!(
            "SELECT ",
            is_complete!(),
            " AS complete, o.sale IS NOT NULL AS found, ",
            order_columns!(),
            " FROM sales s LEFT JOIN orders o ON o.sale = s.id AND o.buyer IN ("
        ));
        let mut list = query.separated(", ");
        for buyer in buyers.chain(std::iter::repeat_n(*last, padding)) {
            list.push_bind(buyer.as_str());
        }
        query.push(") WHERE s.id = ").push_bind(sale.0);
        query.push(" ORDER BY o.epoch, o.seq");
        let rows: Vec<MySqlRow> = self
            .query(async |connection| Ok(query.build().fetch_all(connection).await?))
            .await?;
        let mut found: HashMap<(Buyer, KeyHash), StoredOrder> = HashMap::new();
        let mut complete = false;
        for row in &rows {
            complete = row.try_get("complete")?;
            if row.try_get("found")? {
                let order = StoredOrder::try_from(OrderRow::from_row(row)?)?;
                found.entry((order.buyer.clone(), order.key)).or_insert(order);
            }
        }
        let order_of = |(buyer, key): &(&Buyer, KeyHash)| found.get(&((*buyer).clone(), *key)).cloned();
        Ok((keys.iter().map(order_of).collect(), complete))
    }

    /// The keys of all orders of a sale, at one instant at which the ledger has all orders of it: a key that is not among
    /// them never gets an order.
    pub async fn keys_of_all_orders(&self, sale: SaleId, most: usize) -> Result<AllKeys, LedgerError> {
        self.snapshot(async |connection| {
            let complete: Option<bool> =
                sqlx::query_scalar(concat!("SELECT ", is_complete!(), " FROM sales s WHERE s.id = ?"))
                    .bind(sale.0)
                    .fetch_optional(&mut *connection)
                    .await?;
            if complete != Some(true) {
                return Ok(AllKeys::Incomplete);
            }
            // Counted first, because a sale with too many is asked for too.
            let sql = "SELECT COUNT(*) FROM (SELECT 1 FROM orders WHERE sale = ? LIMIT ?) o";
            let count = sqlx::query_scalar(sql).bind(sale.0).bind(most as u64 + 1);
            let count: i64 = count.fetch_one(&mut *connection).await?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if count > most {
                return Ok(AllKeys::TooMany);
            }
            let mut rows = sqlx::query_scalar("SELECT key_hash FROM orders WHERE sale = ?")
                .bind(sale.0)
                .fetch(connection);
            let mut keys = Vec::with_capacity(count);
            while let Some(key) = rows.try_next().await? {
                keys.push(KeyHash(key));
            }
            Ok(AllKeys::Keys(keys))
        })
        .await
    }

    /// Whether the order was promised and is in quarantine. Its buyer still sees it as processing.
    pub async fn is_quarantined(&self, id: OrderId) -> Result<bool, LedgerError> {
        self.query(async |connection| is_quarantined(connection, id).await)
            .await
    }

    /// The orders among `first..=last` of an epoch that are stored or in quarantine, in order.
    pub async fn folded_seqs(
        &self,
        sale: SaleId,
        epoch: Epoch,
        first: Seq,
        last: Seq,
    ) -> Result<Vec<Seq>, LedgerError> {
        self.query(async |connection| {
            let stored = sqlx::query_scalar(
                "SELECT seq FROM orders WHERE sale = ? AND epoch = ? AND seq BETWEEN ? AND ? ORDER BY seq",
            );
            let stored = stored.bind(sale.0).bind(epoch.0).bind(first).bind(last);
            let mut seqs: Vec<Seq> = stored.fetch_all(&mut *connection).await?;
            let quarantined = sqlx::query_as(
                "SELECT first_seq, last_seq FROM quarantine WHERE sale = ? AND epoch = ? AND first_seq <= ? AND last_seq >= ?",
            );
            let quarantined = quarantined.bind(sale.0).bind(epoch.0).bind(last).bind(first);
            let quarantined: Vec<(Seq, Seq)> = quarantined.fetch_all(connection).await?;
            if !quarantined.is_empty() {
                seqs.extend(quarantined.into_iter().flat_map(|(from, to)| from.max(first)..=to.min(last)));
                seqs.sort_unstable();
                seqs.dedup();
            }
            Ok(seqs)
        })
        .await
    }
}

async fn order(connection: &mut MySqlConnection, id: OrderId) -> Result<Option<StoredOrder>, LedgerError> {
    const SQL: &str = concat!(
        "SELECT ",
        order_columns!(),
        " FROM orders o WHERE o.sale = ? AND o.epoch = ? AND o.seq = ?"
    );
    let query = sqlx::query_as(SQL).bind(id.sale.0).bind(id.epoch.0).bind(id.seq);
    let row: Option<OrderRow> = query.fetch_optional(connection).await?;
    row.map(StoredOrder::try_from).transpose()
}

async fn is_quarantined(connection: &mut MySqlConnection, id: OrderId) -> Result<bool, LedgerError> {
    let query = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM quarantine WHERE sale = ? AND epoch = ? AND first_seq <= ? AND last_seq >= ?)",
    );
    let query = query.bind(id.sale.0).bind(id.epoch.0).bind(id.seq).bind(id.seq);
    Ok(query.fetch_one(connection).await?)
}
