//! The rows of sales and their IDENTITY records: a row that MySQL has lost is inserted again, and the first IDENTITY fixes
//! what never changes of a row.
use seckill_protocol::admission::{KnownSale, has_freed_name};
use seckill_protocol::index::SaleState;
use seckill_protocol::{Format, Identity, Offset, SaleCut, SaleId};
use sqlx::{FromRow, MySqlConnection};

use crate::error::LedgerError;
use crate::{format, rows};

/// The sale that has the name of the identity.
pub(crate) async fn sale_of_name(
    connection: &mut MySqlConnection,
    identity: &Identity,
) -> Result<Option<KnownSale>, LedgerError> {
    let query =
        sqlx::query_as("SELECT id, total, cur, closed_at FROM sales WHERE class = ? AND namespace = ? AND name = ?");
    let query = query
        .bind(&identity.class)
        .bind(&identity.namespace)
        .bind(&identity.name);
    let row: Option<(u32, u64, Option<Offset>, Option<Offset>)> = query.fetch_optional(connection).await?;
    Ok(row.map(|(id, total, current_epoch, closed)| KnownSale {
        sale: SaleId(id),
        has_freed_name: has_freed_name(SaleCut { current_epoch, closed }, total),
    }))
}

/// Gives the row of a sale that has freed its name another one, which no FlashSale can have. The row stays: records of the
/// sale may still come. False if the sale has not freed its name, or has another one already.
pub(crate) async fn free_name(connection: &mut MySqlConnection, sale: SaleId) -> Result<bool, LedgerError> {
    let query = sqlx::query(
        "UPDATE sales SET name = CONCAT(LEFT(name, 240), '~', LPAD(HEX(id), 8, '0')) \
         WHERE id = ? AND closed_at IS NOT NULL AND total = 0 AND name NOT LIKE '%~%'",
    );
    let done = query.bind(sale.0).execute(connection).await?;
    Ok(done.rows_affected() == 1)
}

/// Inserts the row of a sale that MySQL has lost. The sale is suspended: its latest terms are lost too, and nothing may be
/// sold under older ones. The operator writes them again from the FlashSale. With the row, MySQL may have lost that the
/// ledger requires the sale's format.
pub(crate) async fn insert_row(
    connection: &mut MySqlConnection,
    partition: u32,
    offset: Offset,
    identity: &Identity,
) -> Result<(), LedgerError> {
    if identity.format > Format::FIRST {
        format::raise_to(connection, identity.format).await?;
    }
    sqlx::query(
        "INSERT INTO sales (id, class, namespace, name, cluster, uid, part, format, version, state, opens_at, closes_at, \
         limit_per_buyer, item, item_id, issuer, tiers, price, currency, offered, identity_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(identity.sale.0)
    .bind(&identity.class)
    .bind(&identity.namespace)
    .bind(&identity.name)
    .bind(&identity.cluster)
    .bind(&identity.uid)
    .bind(partition)
    .bind(identity.format.0)
    .bind(SaleState::Suspended.as_str())
    .bind(identity.starts_at)
    .bind(identity.ends_at)
    .bind(identity.item.to_string())
    .bind(identity.item_id)
    .bind(&identity.issuer)
    .bind(rows::tiers_to_json(identity.tiers.as_ref()))
    .bind(&identity.price)
    .bind(&identity.currency)
    .bind(identity.offered)
    .bind(offset)
    .execute(connection)
    .await?;
    Ok(())
}

/// What an IDENTITY fixes of a row.
#[derive(FromRow)]
struct Fixed {
    item: String,
    item_id: Option<i64>,
    issuer: Option<String>,
    tiers: Option<String>,
    format: u16,
    price: String,
    currency: String,
    opens_at: u64,
}

/// Notes the first IDENTITY of a sale in its row. The log decides: a row that was changed after the record was appended,
/// or that is older because MySQL lost its tail, gets the item, the issuer, the tiers, the price and the start of the record. With the
/// newer row, MySQL may have lost that the ledger requires its format.
pub(crate) async fn fix_row(
    connection: &mut MySqlConnection,
    offset: Offset,
    identity: &Identity,
) -> Result<(), LedgerError> {
    let row: Fixed = sqlx::query_as(
        "SELECT CAST(item AS CHAR) AS item, item_id, issuer, CAST(tiers AS CHAR) AS tiers, format, CAST(price AS CHAR) AS price, currency, opens_at FROM sales \
         WHERE id = ? FOR UPDATE",
    )
    .bind(identity.sale.0)
    .fetch_one(&mut *connection)
    .await?;
    if row.is_of(identity) {
        let query = sqlx::query("UPDATE sales SET identity_at = ? WHERE id = ?");
        query.bind(offset).bind(identity.sale.0).execute(connection).await?;
        return Ok(());
    }
    if identity.format.0 > row.format {
        format::raise_to(connection, identity.format).await?;
    }
    sqlx::query(
        "UPDATE sales SET identity_at = ?, item = ?, item_id = ?, issuer = ?, tiers = ?, format = GREATEST(format, ?), price = ?, \
         currency = ?, opens_at = ?, version = version + 1 WHERE id = ?",
    )
    .bind(offset)
    .bind(identity.item.to_string())
    .bind(identity.item_id)
    .bind(&identity.issuer)
    .bind(rows::tiers_to_json(identity.tiers.as_ref()))
    .bind(identity.format.0)
    .bind(&identity.price)
    .bind(&identity.currency)
    .bind(identity.starts_at)
    .bind(identity.sale.0)
    .execute(connection)
    .await?;
    Ok(())
}

impl Fixed {
    fn is_of(&self, identity: &Identity) -> bool {
        let item = serde_json::from_str::<serde_json::Value>(&self.item).ok();
        item.as_ref() == Some(&identity.item)
            && self.item_id == identity.item_id
            && self.issuer == identity.issuer
            && rows::tiers(self.tiers.clone()).is_ok_and(|tiers| tiers == identity.tiers)
            && rows::price(&self.price) == rows::price(&identity.price)
            && self.currency == identity.currency
            && self.opens_at == identity.starts_at
    }
}
