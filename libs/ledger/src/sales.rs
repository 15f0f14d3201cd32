//! Sales. The operator writes all columns of a row except `total`, `sold`, `taken`, `returned`, `orders_ever`, `cur`, `closed_at`
//! and `identity_at`, which follow the log. From `identity_at` on, item and start follow the log too.
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use seckill_protocol::format::check;
use seckill_protocol::index::SaleState;
use seckill_protocol::sale::{LedgerUnits, NewSale, Offer, Sale, SaleTerms};
use seckill_protocol::{Epoch, Format, Offset, SaleCut, SaleId, Seq};
use sqlx::mysql::MySqlRow;
use sqlx::{Executor, MySqlConnection, Row};

use crate::adjustments::changes_units;
use crate::connection::Ledger;
use crate::error::LedgerError;
use crate::format::{check_now, raise_for, required_format};
use crate::position::positions;
use crate::{identity, rows};

/// There are 2^32 ids. This many taken ids in a row mean that something else is wrong.
const MAX_ID_DRAWS: u32 = 32;

/// Bounds one read of the catalogue: the time limit of a query is for a server that does not answer.
const SETTLED_IN_A_PAGE: u32 = 10_000;

/// A part of the catalogue at one instant.
pub struct CataloguePage {
    pub sales: Vec<Sale>,
    /// The next offset of each partition: a sale that is missing may be in the log behind.
    pub positions: Vec<(u32, Offset)>,
    /// Where the next page begins: a time of settlement, exclusive. `None`: this page has the last settled sales.
    pub next_after: Option<i64>,
}

/// The columns of a sale as numbers and text, without date, decimal and JSON types, and the format that the ledger requires.
macro_rules! select_sales {
    ($rest:literal) => {
        select_sales!("sales", $rest)
    };
    ($from:literal, $rest:literal) => {
        concat!(
            "SELECT id, class, namespace, name, cluster, uid, part, format, version, state, opens_at, closes_at, limit_per_buyer, \
             max_per_order, orders_ever_max, CAST(item AS CHAR) AS item, item_id, issuer, \
             CAST(tiers AS CHAR) AS tiers, CAST(tier_limits AS CHAR) AS tier_limits, CAST(price AS CHAR) AS price, currency, offered, live_epoch, total, \
             sold, taken, returned, orders_ever, cur, closed_at, identity_at, missing_since, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000 AS created_at_ms, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', updated_at) DIV 1000 AS updated_at_ms, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', settled_at) DIV 1000 AS settled_at_ms, settled_left, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', freed_at) DIV 1000 AS freed_at_ms, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000 AS now_ms, \
             EXISTS (SELECT 1 FROM emergency_stops WHERE emergency_stops.class = sales.class AND active) AS stopped, CAST(",
            required_format!(),
            " AS UNSIGNED) AS required_format FROM ",
            $from,
            " WHERE ",
            $rest
        )
    };
}

/// An error if the ledger requires a format that this program does not speak.
fn sale_of(row: &MySqlRow, spoken: Format) -> Result<Sale, LedgerError> {
    let required: u64 = row.try_get("required_format")?;
    check(Format(u16::try_from(required).unwrap_or(u16::MAX)), spoken)?;
    let state: String = row.try_get("state")?;
    let item: String = row.try_get("item")?;
    let item = serde_json::from_str(&item).map_err(|_| LedgerError::Content {
        column: "sales.item",
        value: item,
    })?;
    Ok(Sale {
        id: SaleId(row.try_get("id")?),
        class: row.try_get("class")?,
        namespace: row.try_get("namespace")?,
        name: row.try_get("name")?,
        cluster: row.try_get("cluster")?,
        uid: row.try_get("uid")?,
        partition: row.try_get("part")?,
        format: Format(row.try_get("format")?),
        version: row.try_get("version")?,
        state: SaleState::from_text(&state).ok_or(LedgerError::Content {
            column: "sales.state",
            value: state,
        })?,
        stopped: row.try_get("stopped")?,
        opens_at: row.try_get("opens_at")?,
        closes_at: row.try_get("closes_at")?,
        limit_per_buyer: row.try_get("limit_per_buyer")?,
        max_per_order: row.try_get("max_per_order")?,
        orders_ever_max: row.try_get("orders_ever_max")?,
        item_id: row.try_get("item_id")?,
        issuer: row.try_get("issuer")?,
        tiers: rows::tiers(row.try_get("tiers")?)?,
        tier_limits: rows::tier_limits(row.try_get("tier_limits")?)?,
        price: rows::stated_price(row.try_get("price")?, &item),
        item,
        currency: row.try_get("currency")?,
        offered: row.try_get("offered")?,
        live_epoch: row.try_get::<Option<Offset>, _>("live_epoch")?.map(Epoch),
        total: row.try_get("total")?,
        sold: row.try_get("sold")?,
        taken: row.try_get("taken")?,
        returned: row.try_get("returned")?,
        orders_ever: row.try_get("orders_ever")?,
        cut: SaleCut {
            current_epoch: row.try_get("cur")?,
            closed: row.try_get("closed_at")?,
        },
        identity_at: row.try_get("identity_at")?,
        created_at_ms: row.try_get("created_at_ms")?,
        updated_at_ms: row.try_get("updated_at_ms")?,
        settled_at_ms: row.try_get("settled_at_ms")?,
        settled_left: row.try_get("settled_left")?,
        freed_at_ms: row.try_get("freed_at_ms")?,
        missing_since_ms: row.try_get("missing_since")?,
    })
}

fn sales_of(rows: &[MySqlRow], spoken: Format) -> Result<Vec<Sale>, LedgerError> {
    rows.iter().map(|row| sale_of(row, spoken)).collect()
}

impl Ledger {
    pub async fn sale(&self, id: SaleId) -> Result<Option<Sale>, LedgerError> {
        self.query(async |connection| by_id(connection, id, self.spoken).await)
            .await
    }

    pub async fn sale_by_name(&self, class: &str, namespace: &str, name: &str) -> Result<Option<Sale>, LedgerError> {
        Ok(self.sale_and_clock(class, namespace, name).await?.map(|(sale, _)| sale))
    }

    /// A sale, and the time of the server when it read the sale, in Unix ms.
    pub async fn sale_and_clock(
        &self,
        class: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(Sale, u64)>, LedgerError> {
        self.query(async |connection| by_name(connection, [class, namespace, name], self.spoken).await)
            .await
    }

    /// The time of the server, in Unix ms.
    pub async fn clock(&self) -> Result<u64, LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query_scalar::<_, i64>(
                "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000",
            );
            Ok(unsigned(query.fetch_one(connection).await?))
        })
        .await
    }

    /// Inserts a sale under a random id. If the name is taken, it returns the existing sale unchanged.
    ///
    /// If the sale needs a newer format than the ledger requires, the ledger requires it from then on. An error names the
    /// running programs that do not speak it.
    pub async fn create_sale(&self, new: &NewSale) -> Result<Sale, LedgerError> {
        // An error closes the connection, and the server rolls back.
        self.query(async |connection| {
            connection.execute("START TRANSACTION").await?;
            let raise = raise_for(connection, new.format, self.spoken).await?;
            for _ in 0..MAX_ID_DRAWS {
                match insert(connection, SaleId(rand::random()), new).await {
                    Ok(()) => raise.write(connection).await?,
                    Err(sqlx::Error::Database(e)) if e.is_unique_violation() => {}
                    Err(e) => return Err(e.into()),
                }
                // If no sale has the name, the id was taken.
                let name = [&new.class, &new.namespace, &new.name].map(String::as_str);
                if let Some((sale, _)) = by_name(connection, name, self.spoken).await? {
                    connection.execute("COMMIT").await?;
                    return Ok(sale);
                }
            }
            Err(LedgerError::NoFreeId(MAX_ID_DRAWS))
        })
        .await
    }

    /// False if the version has changed, the sale is closed and the new state is not, or another start is fixed in the log.
    pub async fn update_terms(
        &self,
        id: SaleId,
        expected_version: u64,
        terms: &SaleTerms,
    ) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query(
                "UPDATE sales SET state = ?, opens_at = ?, closes_at = ?, limit_per_buyer = ?, tier_limits = ?, max_per_order = ?, \
                 orders_ever_max = ?, version = version + 1 WHERE id = ? AND version = ? AND (state <> 'closed' OR ? = 'closed') \
                 AND (identity_at IS NULL OR opens_at = ?)",
            )
            .bind(terms.state.as_str())
            .bind(terms.opens_at)
            .bind(terms.closes_at)
            .bind(terms.limit_per_buyer)
            .bind(rows::tier_limits_to_json(&terms.tier_limits))
            .bind(terms.max_per_order)
            .bind(terms.orders_ever_max)
            .bind(id.0)
            .bind(expected_version)
            .bind(terms.state.as_str())
            .bind(terms.opens_at),
        )
        .await
    }

    /// Makes a sale one of `cluster`, where its FlashSale was not deleted. False if it is not one of `from` any more; `None`
    /// is no cluster.
    pub async fn claim_sale(&self, id: SaleId, from: Option<&str>, cluster: &str) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query("UPDATE sales SET cluster = ?, missing_since = NULL WHERE id = ? AND cluster <=> ?")
                .bind(cluster)
                .bind(id.0)
                .bind(from),
        )
        .await
    }

    /// Keeps since when the FlashSale is deleted, in unix ms. False if that is known already, or the sale has ended.
    pub async fn record_deletion(&self, id: SaleId, since: u64) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query(
                "UPDATE sales SET missing_since = ? WHERE id = ? AND missing_since IS NULL AND state <> 'closed'",
            )
            .bind(since)
            .bind(id.0),
        )
        .await
    }

    /// The FlashSale is not deleted, or its deletion does not count. False if the sale has ended.
    pub async fn forget_deletion(&self, id: SaleId) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query("UPDATE sales SET missing_since = NULL WHERE id = ? AND state <> 'closed'").bind(id.0),
        )
        .await
    }

    /// False if the version has changed, or the item is fixed in the log. If the sale now needs a newer format than the ledger
    /// requires, it has the same effect and the same error as in [`Self::create_sale`].
    pub async fn update_offer(
        &self,
        id: SaleId,
        expected_version: u64,
        offer: &Offer,
        format: Format,
    ) -> Result<bool, LedgerError> {
        // An error closes the connection, and the server rolls back.
        self.query(async |connection| {
            connection.execute("START TRANSACTION").await?;
            let raise = raise_for(connection, format, self.spoken).await?;
            let query = sqlx::query(
                "UPDATE sales SET item = ?, item_id = ?, issuer = ?, tiers = ?, price = ?, currency = ?, offered = ?, \
                 format = GREATEST(format, ?), version = version + 1 WHERE id = ? AND version = ? AND identity_at IS NULL",
            )
            .bind(offer.item.to_string())
            .bind(offer.item_id)
            .bind(&offer.issuer)
            .bind(rows::tiers_to_json(offer.tiers.as_ref()))
            .bind(&offer.price)
            .bind(&offer.currency)
            .bind(offer.offered)
            .bind(format.0)
            .bind(id.0)
            .bind(expected_version);
            let is_written = query.execute(&mut *connection).await?.rows_affected() == 1;
            if is_written {
                raise.write(connection).await?;
            }
            connection.execute("COMMIT").await?;
            Ok(is_written)
        })
        .await
    }

    /// Begins or ends the emergency stop of a class. All its sales get a newer version in the same transaction, so that the
    /// indexes take the terms that it changes.
    pub async fn set_emergency_stop(&self, class: &str, active: bool) -> Result<(), LedgerError> {
        // An error closes the connection, and the server rolls back.
        self.query(async |connection| {
            check_now(connection, self.spoken).await?;
            connection.execute("START TRANSACTION").await?;
            sqlx::query("INSERT INTO emergency_stops (class, active) VALUES (?, ?) ON DUPLICATE KEY UPDATE active = ?")
                .bind(class)
                .bind(active)
                .bind(active)
                .execute(&mut *connection)
                .await?;
            sqlx::query("UPDATE sales SET version = version + 1 WHERE class = ? AND settled_at IS NULL")
                .bind(class)
                .execute(&mut *connection)
                .await?;
            connection.execute("COMMIT").await?;
            Ok(())
        })
        .await
    }

    /// Gives the unchanged terms a newer version. False if the version has changed.
    pub async fn renumber_terms(&self, id: SaleId, expected_version: u64, version: u64) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query("UPDATE sales SET version = ? WHERE id = ? AND version = ? AND version < ?")
                .bind(version)
                .bind(id.0)
                .bind(expected_version)
                .bind(version),
        )
        .await
    }

    /// Offers more units. They count after a TOTAL in the log. False if the version has changed, or at least as many
    /// units are offered already.
    pub async fn raise_offered(&self, id: SaleId, expected_version: u64, units: u64) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query(
                "UPDATE sales SET offered = ?, version = version + 1 WHERE id = ? AND version = ? AND offered < ?",
            )
            .bind(units)
            .bind(id.0)
            .bind(expected_version)
            .bind(units),
        )
        .await
    }

    /// The units of a sale at one instant. [`LedgerUnits::beyond`] counts those of orders after the given one.
    pub async fn units(&self, id: SaleId, epoch: Epoch, seq: Seq) -> Result<Option<LedgerUnits>, LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query_as::<_, (u64, u64, u64, u64, bool)>(concat!(
                "SELECT s.total, s.taken, s.returned, \
                 (SELECT CAST(COALESCE(SUM(o.quantity), 0) AS UNSIGNED) FROM orders o \
                  WHERE o.sale = s.id AND (o.epoch > ? OR (o.epoch = ? AND o.seq > ?))) AS beyond, \
                 EXISTS (SELECT 1 FROM effects e WHERE e.sale = s.id AND ",
                changes_units!(),
                ") AS pending FROM sales s WHERE s.id = ?",
            ));
            let query = query.bind(epoch.0).bind(epoch.0).bind(seq).bind(id.0);
            let row = query.fetch_optional(connection).await?;
            Ok(
                row.map(|(total, taken, returned, beyond, adjustments_pending)| LedgerUnits {
                    total,
                    taken,
                    returned,
                    beyond,
                    adjustments_pending,
                }),
            )
        })
        .await
    }

    /// False if this epoch or a newer one is live already.
    pub async fn set_live_epoch(&self, id: SaleId, epoch: Epoch) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query("UPDATE sales SET live_epoch = ? WHERE id = ? AND (live_epoch IS NULL OR live_epoch < ?)")
                .bind(epoch.0)
                .bind(id.0)
                .bind(epoch.0),
        )
        .await
    }

    /// Stores the units that the index had left, if there was one. False if the sale is settled already, or CLOSE is
    /// not folded yet: until then some of its orders may be missing.
    pub async fn set_settled(&self, id: SaleId, left: Option<u64>) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query(
                "UPDATE sales SET settled_at = CURRENT_TIMESTAMP(3), settled_left = ? \
                 WHERE id = ? AND settled_at IS NULL AND closed_at IS NOT NULL",
            )
            .bind(left)
            .bind(id.0),
        )
        .await
    }

    /// False if it was set before, or the sale is not settled yet: until then the settlement needs the data in Redis.
    pub async fn set_freed(&self, id: SaleId) -> Result<bool, LedgerError> {
        self.updates_one_row(
            sqlx::query(
                "UPDATE sales SET freed_at = CURRENT_TIMESTAMP(3) \
                 WHERE id = ? AND freed_at IS NULL AND settled_at IS NOT NULL",
            )
            .bind(id.0),
        )
        .await
    }

    /// Frees the name of a sale that was closed before it offered a unit, so that another sale can have it. False if it has
    /// offered one, CLOSE is not folded yet, or its name is free already.
    pub async fn free_name(&self, id: SaleId) -> Result<bool, LedgerError> {
        self.query(async |connection| identity::free_name(connection, id).await)
            .await
    }

    /// Sales that the operator still has work with.
    pub async fn unfinished_sales(&self, class: &str) -> Result<Vec<Sale>, LedgerError> {
        let rows = self
            .query(async |connection| {
                let query = sqlx::query(select_sales!("freed_at IS NULL AND class = ? ORDER BY id")).bind(class);
                Ok(query.fetch_all(connection).await?)
            })
            .await?;
        sales_of(&rows, self.spoken)
    }

    /// The most orders that the unfinished sales of a class may still make together.
    pub async fn orders_to_come(&self, class: &str) -> Result<u64, LedgerError> {
        self.query(async |connection| {
            // Columns without a sign must not become negative. A sale without a bound makes an order for each unit.
            let query = sqlx::query_scalar(
                "SELECT CAST(COALESCE(SUM(GREATEST(GREATEST(orders_ever_max, offered), orders_ever) - orders_ever), 0) \
                 AS UNSIGNED) FROM sales WHERE freed_at IS NULL AND state <> 'closed' AND class = ?",
            );
            Ok(query.bind(class).fetch_one(connection).await?)
        })
        .await
    }

    /// Unsettled sales of every class that have an index. The relay reads their outboxes.
    pub async fn selling_sales(&self) -> Result<Vec<Sale>, LedgerError> {
        let rows = self
            .query(async |connection| {
                let query = sqlx::query(select_sales!(
                    "settled_at IS NULL AND live_epoch IS NOT NULL ORDER BY id"
                ));
                Ok(query.fetch_all(connection).await?)
            })
            .await?;
        sales_of(&rows, self.spoken)
    }

    /// All sales of a class that are unsettled or were settled less than `settled_within` ago.
    pub async fn catalogue(&self, class: &str, settled_within: Duration) -> Result<Vec<Sale>, LedgerError> {
        let within = i64::try_from(settled_within.as_millis()).unwrap_or(i64::MAX);
        let mut since = i64::try_from(self.clock().await?)
            .unwrap_or(i64::MAX)
            .saturating_sub(within);
        let mut sales = BTreeMap::new();
        loop {
            let page = self.catalogue_page(class, since, &[]).await?;
            sales.extend(page.sales.into_iter().map(|sale| (sale.id, sale)));
            match page.next_after {
                Some(next) => since = next,
                None => return Ok(sales.into_values().collect()),
            }
        }
    }

    /// The sales of a class that are unsettled, the first ones that were settled after a time (unix ms), and those of `known`
    /// that are neither: they were settled before. An error if the ledger requires a format that this program does not speak,
    /// also if there are no sales.
    ///
    /// It reads no other rows, however many sales the ledger has.
    pub async fn catalogue_page(
        &self,
        class: &str,
        settled_after: i64,
        known: &[SaleId],
    ) -> Result<CataloguePage, LedgerError> {
        self.snapshot(async |connection| {
            // Without the hints, a server without statistics may choose another key, and read all sales of the class.
            let unsettled = sqlx::query(select_sales!(
                "sales FORCE INDEX (class_settled)",
                "class = ? AND settled_at IS NULL"
            ));
            let mut rows = unsettled.bind(class).fetch_all(&mut *connection).await?;
            let settled = sqlx::query(select_sales!(
                "sales FORCE INDEX (class_settled)",
                "class = ? AND settled_at > TIMESTAMP('1970-01-01') + INTERVAL ? * 1000 MICROSECOND ORDER BY settled_at LIMIT ?"
            ));
            let settled = settled.bind(class).bind(settled_after.max(0)).bind(SETTLED_IN_A_PAGE);
            let settled = settled.fetch_all(&mut *connection).await?;
            let is_last = settled.len() < SETTLED_IN_A_PAGE as usize;
            rows.extend(settled);
            // Each row has the required format.
            if rows.is_empty() {
                check_now(connection, self.spoken).await?;
            }
            let mut sales = sales_of(&rows, self.spoken)?;
            let found: HashSet<SaleId> = sales.iter().map(|sale| sale.id).collect();
            for id in known.iter().filter(|id| !found.contains(id)) {
                sales.extend(by_id(connection, *id, self.spoken).await?);
            }
            sales.sort_by_key(|sale| sale.id);
            // The next page has the last millisecond of this one again, which may have more sales than this page took.
            let last = sales.iter().filter_map(|sale| sale.settled_at_ms).max();
            let next_after = last.filter(|last| !is_last && *last > settled_after + 1).map(|last| last - 1);
            Ok(CataloguePage {
                sales,
                positions: positions(connection).await?,
                next_after,
            })
        })
        .await
    }

    async fn updates_one_row(
        &self,
        query: sqlx::query::Query<'_, sqlx::MySql, sqlx::mysql::MySqlArguments>,
    ) -> Result<bool, LedgerError> {
        // "Affected" means matched rows, even if a row had these values before: sqlx sets CLIENT_FOUND_ROWS.
        self.query(async |connection| Ok(query.execute(connection).await?.rows_affected() == 1))
            .await
    }
}

pub(crate) async fn by_id(
    connection: &mut MySqlConnection,
    id: SaleId,
    spoken: Format,
) -> Result<Option<Sale>, LedgerError> {
    let query = sqlx::query(select_sales!("id = ?")).bind(id.0);
    let row = query.fetch_optional(connection).await?;
    row.map(|row| sale_of(&row, spoken)).transpose()
}

async fn by_name(
    connection: &mut MySqlConnection,
    [class, namespace, name]: [&str; 3],
    spoken: Format,
) -> Result<Option<(Sale, u64)>, LedgerError> {
    let query = sqlx::query(select_sales!("class = ? AND namespace = ? AND name = ?"));
    let row = query
        .bind(class)
        .bind(namespace)
        .bind(name)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let now = unsigned(row.try_get("now_ms")?);
    Ok(Some((sale_of(&row, spoken)?, now)))
}

/// A time before 1970 is no time.
fn unsigned(unix_ms: i64) -> u64 {
    u64::try_from(unix_ms).unwrap_or_default()
}

async fn insert(connection: &mut MySqlConnection, id: SaleId, new: &NewSale) -> Result<(), sqlx::Error> {
    let NewSale { terms, offer, .. } = new;
    sqlx::query(
        "INSERT INTO sales (id, class, namespace, name, cluster, uid, part, format, version, state, opens_at, closes_at, \
         limit_per_buyer, tier_limits, max_per_order, orders_ever_max, item, item_id, issuer, tiers, price, currency, offered) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id.0)
    .bind(&new.class)
    .bind(&new.namespace)
    .bind(&new.name)
    .bind(&new.cluster)
    .bind(&new.uid)
    .bind(new.partition)
    .bind(new.format.0)
    .bind(terms.state.as_str())
    .bind(terms.opens_at)
    .bind(terms.closes_at)
    .bind(terms.limit_per_buyer)
    .bind(rows::tier_limits_to_json(&terms.tier_limits))
    .bind(terms.max_per_order)
    .bind(terms.orders_ever_max)
    .bind(offer.item.to_string())
    .bind(offer.item_id)
    .bind(&offer.issuer)
    .bind(rows::tiers_to_json(offer.tiers.as_ref()))
    .bind(&offer.price)
    .bind(&offer.currency)
    .bind(offer.offered)
    .execute(connection)
    .await?;
    Ok(())
}
