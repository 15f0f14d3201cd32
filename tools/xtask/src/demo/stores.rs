//! Reads the contents of MySQL and Redis directly.
use anyhow::{Context, Result};

use super::tool::Tool;

/// The clients, with the addresses of their servers.
#[derive(Debug, Clone)]
pub struct Stores {
    pub mysql: Tool,
    pub redis: Tool,
}

/// The rows of a sale in MySQL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The id as it is written in Redis keys.
    pub id: String,
    pub orders: u64,
    pub units_in_orders: u64,
    pub left: i64,
}

impl Stores {
    /// Returns None if the sale is not in the ledger yet.
    pub fn ledger(&self, namespace: &str, name: &str) -> Result<Option<Ledger>> {
        // Both names come from our own manifests, so they need no escaping.
        let sql = format!(
            "SELECT LOWER(LPAD(HEX(s.id), 8, '0')), COUNT(o.seq), COALESCE(SUM(o.quantity), 0), \
             CAST(s.total AS SIGNED) - CAST(s.sold AS SIGNED) \
             FROM sales s LEFT JOIN orders o ON o.sale = s.id AND o.status NOT IN ('cancelled', 'expired') \
             WHERE s.namespace = '{namespace}' AND s.name = '{name}' GROUP BY s.id"
        );
        let rows = self.mysql.text(&["-N", "-B", "-e", &sql])?;
        rows.lines().last().map(row).transpose()
    }

    /// A number for the old demo's routes that no sale of the ledger has.
    pub fn new_item_id(&self) -> Result<u64> {
        let sql = "SELECT COALESCE(MAX(item_id), 0) + 1 FROM sales";
        let id = self.mysql.text(&["-N", "-B", "-e", sql])?;
        id.trim()
            .parse()
            .with_context(|| format!("MySQL: the item id is {id:?}"))
    }

    /// The units left in the index of the sale; None if the index does not exist.
    pub fn left_in_redis(&self, sale_id: &str) -> Result<Option<i64>> {
        let left = self.redis.text(&["HGET", &format!("{{{sale_id}}}:m"), "left"])?;
        match left.trim() {
            "" => Ok(None),
            left => left
                .parse()
                .map(Some)
                .with_context(|| format!("Redis: left is {left:?}")),
        }
    }

    /// The versions of the servers.
    pub fn versions(&self) -> Result<[(String, String); 2]> {
        let info = self.redis.text(&["INFO", "server"])?;
        let redis = info.lines().find_map(|l| l.trim().strip_prefix("redis_version:"));
        let mysql = self.mysql.text(&["-N", "-B", "-e", "SELECT VERSION()"])?;
        Ok([
            ("redis".into(), redis.unwrap_or("unknown").into()),
            ("mysql".into(), mysql.trim().into()),
        ])
    }
}

fn row(line: &str) -> Result<Ledger> {
    let columns: Vec<_> = line.split('\t').collect();
    let unexpected = || format!("MySQL: unexpected row {line:?}");
    let [id, orders, units_in_orders, left] = columns[..] else {
        anyhow::bail!(unexpected());
    };
    Ok(Ledger {
        id: id.into(),
        orders: orders.parse().with_context(unexpected)?,
        units_in_orders: units_in_orders.parse().with_context(unexpected)?,
        left: left.parse().with_context(unexpected)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_row_is_parsed() {
        let ledger = row("00c0ffee\t50\t50\t0").expect("a row");
        assert_eq!((ledger.id.as_str(), ledger.orders, ledger.left), ("00c0ffee", 50, 0));
        assert!(row("00c0ffee\t50").is_err());
        assert!(row("00c0ffee\tNULL\t1\t1").is_err());
    }

    #[test]
    fn missing_index_differs_from_an_empty_one() {
        let stores = |reply: &str| Stores {
            mysql: Tool::new(["true"]),
            redis: Tool::new(["printf", reply]),
        };
        assert_eq!(stores("0\n").left_in_redis("00000001").expect("Redis"), Some(0));
        assert_eq!(stores("\n").left_in_redis("00000001").expect("Redis"), None);
    }
}
