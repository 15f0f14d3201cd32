//! The demo's results: the report file, the table, and differences from the expected results.
use std::collections::BTreeMap;

use serde::Serialize;

/// `target/demo/report.json`.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub sales: Vec<Sale>,
    pub versions: BTreeMap<String, String>,
}

/// One of the load cases. `not_started` and `ended` count the extra buyers before the start and after the end; the other
/// counts do not include them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sale {
    pub name: String,
    pub buyers: u64,
    pub answered: u64,
    pub won: u64,
    pub sold_out: u64,
    pub not_started: u64,
    pub ended: u64,
    pub other: u64,
    pub orders_in_mysql: u64,
    /// The number of different order numbers in the answers.
    pub distinct_orders: u64,
    /// Read after the last answer and before the end. None: the index did not exist.
    pub stock_left_redis: Option<i64>,
    pub stock_left_mysql: i64,
    /// The time from sending a request to its answer.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The time from the sale's readiness to its start.
    pub ready_lead_s: f64,
    /// The time from the last answer to the last order in MySQL.
    pub drained_s: f64,
    pub phases: Vec<String>,
}

impl Sale {
    /// The differences from the expected results, for a sale of `units` whose buyers each want one.
    pub fn differences(&self, units: u64) -> Vec<String> {
        let won = self.buyers.min(units);
        let left = (units - won) as i64;
        let mut differences = Vec::new();
        let mut compare = |what: &str, actual: String, expected: String| {
            if actual != expected {
                differences.push(format!("{}: {what} is {actual}, expected {expected}", self.name));
            }
        };
        compare("answered", self.answered.to_string(), self.buyers.to_string());
        compare("won", self.won.to_string(), won.to_string());
        compare("sold_out", self.sold_out.to_string(), (self.buyers - won).to_string());
        compare("other", self.other.to_string(), "0".into());
        compare("orders_in_mysql", self.orders_in_mysql.to_string(), won.to_string());
        compare("distinct_orders", self.distinct_orders.to_string(), won.to_string());
        compare(
            "stock_left_redis",
            format!("{:?}", self.stock_left_redis),
            format!("{:?}", Some(left)),
        );
        compare("stock_left_mysql", self.stock_left_mysql.to_string(), left.to_string());
        compare(
            "ready before the start",
            (self.ready_lead_s > 0.0).to_string(),
            "true".into(),
        );
        compare(
            "the last phase",
            format!("{:?}", self.phases.last()),
            format!("{:?}", Some("Settled")),
        );
        differences
    }
}

/// The lines of the table that the demo prints.
pub fn table(sales: &[Sale]) -> Vec<String> {
    type Row = (&'static str, fn(&Sale) -> String);
    let rows: [Row; 16] = [
        ("buyers", |s| s.buyers.to_string()),
        ("  answered", |s| s.answered.to_string()),
        ("  won", |s| s.won.to_string()),
        ("  sold out", |s| s.sold_out.to_string()),
        ("  other", |s| s.other.to_string()),
        ("before the start: not started", |s| s.not_started.to_string()),
        ("after the end: ended", |s| s.ended.to_string()),
        ("orders in MySQL", |s| s.orders_in_mysql.to_string()),
        ("different order numbers", |s| s.distinct_orders.to_string()),
        ("stock left in Redis", |s| {
            s.stock_left_redis.map_or("no index".into(), |n| n.to_string())
        }),
        ("stock left in MySQL", |s| s.stock_left_mysql.to_string()),
        ("answer, from send: p50", |s| format!("{:.1} ms", s.p50_ms)),
        ("answer, from send: p99", |s| format!("{:.1} ms", s.p99_ms)),
        ("ready before the start", |s| format!("{:.1} s", s.ready_lead_s)),
        ("last answer to last order stored", |s| format!("{:.1} s", s.drained_s)),
        ("phases", |s| s.phases.len().to_string()),
    ];
    let cells: Vec<Vec<String>> = sales
        .iter()
        .map(|sale| {
            std::iter::once(sale.name.clone())
                .chain(rows.iter().map(|(_, cell)| cell(sale)))
                .collect()
        })
        .collect();
    let widths: Vec<usize> = cells
        .iter()
        .map(|c| c.iter().map(String::len).max().unwrap_or(0) + 3)
        .collect();
    let names = std::iter::once("").chain(rows.iter().map(|(name, _)| *name));
    names
        .enumerate()
        .map(|(i, name)| {
            let values: String = cells
                .iter()
                .zip(&widths)
                .map(|(c, w)| format!("{:>w$}", c[i]))
                .collect();
            format!("  {name:<34}{values}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn correct() -> Sale {
        Sale {
            name: "phones".into(),
            buyers: 300,
            answered: 300,
            won: 50,
            sold_out: 250,
            not_started: 20,
            ended: 20,
            orders_in_mysql: 50,
            distinct_orders: 50,
            stock_left_redis: Some(0),
            ready_lead_s: 12.0,
            phases: vec!["Scheduled".into(), "Settled".into()],
            ..Sale::default()
        }
    }

    #[test]
    fn correct_sale_has_no_differences() {
        assert_eq!(correct().differences(50), Vec::<String>::new());
    }

    #[test]
    fn each_wrong_value_is_reported() {
        type Change = fn(&mut Sale);
        let wrong: [(&str, Change); 9] = [
            ("answered", |s| s.answered = 299),
            ("won", |s| s.won = 51),
            ("sold_out", |s| s.sold_out = 1),
            ("other", |s| s.other = 1),
            ("orders_in_mysql", |s| s.orders_in_mysql = 49),
            ("distinct_orders", |s| s.distinct_orders = 49),
            ("stock_left_redis", |s| s.stock_left_redis = None),
            ("stock_left_mysql", |s| s.stock_left_mysql = 1),
            ("ready", |s| s.ready_lead_s = -1.0),
        ];
        for (what, change) in wrong {
            let mut sale = correct();
            change(&mut sale);
            let differences = sale.differences(50);
            assert_eq!(differences.len(), 1, "{differences:?}");
            assert!(differences[0].contains(what), "{differences:?}");
        }
    }

    #[test]
    fn report_has_the_documented_fields() {
        let report = Report {
            sales: vec![correct()],
            versions: BTreeMap::new(),
        };
        let json = serde_json::to_value(&report).expect("JSON");
        let mut found: Vec<_> = json["sales"][0]
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        found.sort();
        let mut documented = vec![
            "name",
            "buyers",
            "answered",
            "won",
            "sold_out",
            "not_started",
            "ended",
            "other",
            "orders_in_mysql",
            "distinct_orders",
            "stock_left_redis",
            "stock_left_mysql",
            "p50_ms",
            "p99_ms",
            "ready_lead_s",
            "drained_s",
            "phases",
        ];
        documented.sort();
        assert_eq!(found, documented);
    }

    #[test]
    fn table_has_a_column_for_each_sale() {
        let lines = table(&[
            correct(),
            Sale {
                name: "tickets".into(),
                ..correct()
            },
        ]);
        assert!(lines[0].contains("phones") && lines[0].contains("tickets"), "{lines:?}");
        let ends: Vec<_> = lines.iter().map(String::len).collect();
        assert!(ends.iter().all(|e| *e == ends[0]), "{lines:?}");
    }
}
