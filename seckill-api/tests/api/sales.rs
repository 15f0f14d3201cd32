use std::time::Instant;

use futures::future::join_all;
use seckill_ledger::{Sale, SaleTerms};
use seckill_protocol::index::SaleState;
use seckill_protocol::{Epoch, Record};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

use crate::client::Request;
use crate::harness::*;
use crate::program::Program;

#[tokio::test]
async fn a_sale_is_shown_with_its_window_state_and_remaining_units() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    harness.buy_several(&sale, &key(), 2).await;
    let shown = harness.get(&path(&sale)).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert_eq!(shown.headers["cache-control"], "public, max-age=1");
    assert!(shown.headers.contains_key("date") && shown.headers.contains_key("server-time"));
    let body = &shown.body;
    assert_eq!(body["sale"], format!("{}/{}", sale.namespace, sale.name));
    assert_eq!(body["item"]["name"], "Phone");
    assert_eq!(body["item"]["price"], serde_json::Value::Null);
    assert_eq!(body["price"]["amount"], "499");
    assert_eq!((&body["state"], &body["remaining"]), (&"open".into(), &3.into()));
    assert!(body["starts_at"].as_str() < body["ends_at"].as_str());
    assert_eq!(body["limit_per_buyer"], serde_json::Value::Null);
    assert_eq!(body["max_per_order"], 1000);
    let single = SaleTerms {
        max_per_order: 1,
        ..open()
    };
    let single = harness.announce(5, single).await;
    assert_eq!(harness.get(&path(&single)).await.body["max_per_order"], 1);
}

#[tokio::test]
async fn each_state_is_shown() {
    let harness = Harness::start().await;
    let suspended = SaleTerms {
        state: SaleState::Suspended,
        ..open()
    };
    let sold_out = harness.sell(1, open()).await;
    harness.buy(&sold_out, &key()).await;
    let sales = [
        (harness.announce(7, not_open_yet()).await, "scheduled", 7),
        (harness.sell(7, not_open_yet()).await, "scheduled", 7),
        (harness.sell(7, open()).await, "open", 7),
        (harness.sell(7, suspended).await, "suspended", 7),
        (harness.sell(7, over()).await, "ended", 7),
        (sold_out, "sold_out", 0),
    ];
    for (sale, state, remaining) in &sales {
        let shown = harness.get(&path(sale)).await;
        assert_eq!(
            (&shown.body["state"], &shown.body["remaining"]),
            (&(*state).into(), &(*remaining).into()),
            "{shown:?}"
        );
    }
    let list = harness.get("/v1/sales").await;
    let list = list.body["sales"].as_array().expect("a list");
    assert_eq!(list.len(), sales.len());
    assert!(list.is_sorted_by_key(|sale| sale["sale"].as_str()));
}

#[tokio::test]
async fn an_unchanged_sale_is_not_sent_again() {
    let harness = Harness::start().await;
    let sale = harness.announce(5, not_open_yet()).await;
    for path in [path(&sale), "/v1/sales".to_owned()] {
        let first = harness.get(&path).await;
        let tag = first.headers["etag"].to_str().expect("text");
        let get_if_none_match = async |tag: &str| {
            let header = format!("If-None-Match: {tag}");
            harness.send(Request::new(format!("GET {path}"), &[&header], "")).await
        };
        let again = get_if_none_match(tag).await;
        assert_eq!((again.status, &again.body), (304, &serde_json::Value::Null));
        assert_eq!(again.headers["etag"], first.headers["etag"]);
        let other = get_if_none_match("\"x\"").await;
        assert_eq!((other.status, &other.body), (200, &first.body));
    }
    let shown = harness.get(&path(&sale)).await;
    harness.preheat(&sale).await;
    harness.change(&sale, open()).await;
    assert_ne!(harness.get(&path(&sale)).await.headers["etag"], shown.headers["etag"]);
}

/// Rows of `sales` that the storage engine gave to queries of this test's database.
async fn rows_read(harness: &Harness) -> u64 {
    let mut connection = MySqlConnection::connect(&harness.mysql_url)
        .await
        .expect("MySQL answers");
    let query = "SELECT CAST(COUNT_FETCH AS UNSIGNED) FROM performance_schema.table_io_waits_summary_by_table \
                 WHERE object_schema = DATABASE() AND object_name = 'sales'";
    let rows = sqlx::query_scalar(query).fetch_one(&mut connection).await;
    rows.expect("performance_schema is on")
}

/// Sales that were settled in the last days.
async fn add_settled_sales(harness: &Harness, sale: &Sale, count: u32) {
    let columns =
        "class, namespace, uid, part, version, opens_at, closes_at, limit_per_buyer, item, price, currency, offered";
    // In the SQL of MySQL and of MariaDB.
    let digits = (0..10)
        .map(|n| format!("SELECT {n} AS n"))
        .collect::<Vec<_>>()
        .join(" UNION ALL ");
    let factors = ["1", "10", "100", "1000", "10000"]
        .map(|factor| format!("(SELECT n * {factor} AS n FROM ({digits}) d{factor}) f{factor}"));
    let numbers = format!(
        "SELECT 1 + f1.n + f10.n + f100.n + f1000.n + f10000.n AS n FROM {}",
        factors.join(" JOIN ")
    );
    let add = format!(
        "INSERT INTO sales (id, name, state, closed_at, settled_at, {columns}) \
         SELECT {} ^ n, CONCAT('settled-', n), 'closed', 1, CURRENT_TIMESTAMP(3) - INTERVAL 6 * n + 600 SECOND, {columns} \
         FROM sales JOIN ({numbers}) numbers WHERE sales.id = {} AND n <= {count}",
        sale.id.0, sale.id.0
    );
    let mut connection = MySqlConnection::connect(&harness.mysql_url)
        .await
        .expect("MySQL answers");
    connection.execute(AssertSqlSafe(add)).await.expect("inserted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_the_catalogue_do_not_grow_with_settled_sales() {
    const SETTLED: u32 = 30_000;
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    harness.store().await; // otherwise a name that is missing may be in the log
    add_settled_sales(&harness, &sale, SETTLED).await;
    // A new process reads all of them once.
    let program = Program::start(&harness.mysql_url, &harness.topic);
    program.wait_for_readiness(|response| response.status == 200).await;
    let old = format!("/v1/sales/{}/settled-{SETTLED}", sale.namespace);
    let shown = Request::get(&old).send(program.v1).await.expect("a response");
    assert_eq!(
        (shown.status, &shown.body["state"]),
        (200, &"ended".into()),
        "{shown:?}"
    );

    let (begun, before) = (Instant::now(), rows_read(&harness).await);
    // Anybody can ask for names that no sale has.
    for number in 0..40 {
        let unknown = format!("/v1/sales/{}/none-{}", sale.namespace, number / 2);
        let request = Request::get(&unknown);
        let answers = join_all((0..5).map(|_| request.send(program.v1))).await;
        for answer in answers {
            answer.expect("a response").is(404, "sale_unknown");
        }
    }
    let (rows, seconds) = (rows_read(&harness).await - before, begun.elapsed().as_secs_f64());
    println!(
        "{rows} rows in {seconds:.1} s: {:.0} rows/s for two processes",
        rows as f64 / seconds
    );
    // Two processes read every half second: the sale, those that were settled in the last minute, and the ends of the ranges.
    let reads = 2.0 * (seconds / 0.5 + 2.0);
    assert!((rows as f64) <= 15.0 * reads, "{rows} rows in at most {reads} reads");
}

#[tokio::test]
async fn a_sale_in_an_added_partition_is_sold() {
    let harness = Harness::start().await;
    harness.add_partition().await;
    let sale = harness.announce_on(1, 3, open(), None).await;
    let append = async |record| harness.log.append(1, &record).await.expect("Kafka answers");
    eventually("the partition is known", async || harness.log.partitions() == 2).await;
    append(Record::Identity(Box::new(sale.identity()))).await;
    let (nonce, total) = (key(), sale.offered);
    let epoch = Epoch(append(Record::Barrier { sale: sale.id, nonce }).await);
    append(Record::Total { sale: sale.id, total }).await;
    harness.install(&sale, epoch).await;
    let key = key();
    eventually("it is sold", async || harness.buy(&sale, &key).await.status == 201).await;
}
