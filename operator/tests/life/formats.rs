//! Upgrades and rollbacks: programs of two versions on one ledger, fields of a newer resource, and sales that an older version
//! left.
use std::process::Command;

use seckill_crds::{FlashSale, FlashSaleStatus, Phase};
use seckill_ledger::Ledger;
use seckill_operator::cluster::convert::{desired_sale, sale_key};
use seckill_protocol::index::Decision;
use seckill_protocol::{Batch, Buyer, Epoch, Format, KeyHash, Order, Record};
use serde_json::json;

use crate::harness::{self, Harness, RunningProgram, status_and_reason};
use crate::proxy::{Fault, Proxy};

const FIRST: Format = Format(1);
const SECOND: Format = Format(2);
const TOO_OLD: &str = "the ledger requires format 2, this program speaks 1: upgrade it";

/// An operator of another version, whose new sales need its format.
fn operator_speaking(harness: &Harness, format: Format, pod: &str) -> RunningProgram {
    let mut args = harness.operator_args("operator", 3);
    let format = format.to_string();
    let more = [
        "--spoken-format",
        &format,
        "--new-sales-need",
        &format,
        "--pod-name",
        pod,
    ];
    args.extend(more.map(str::to_owned));
    harness.operator_with_client(&harness.kube, args)
}

/// The harness of a newer version.
async fn newer_harness() -> (Harness, Ledger) {
    let mut harness = Harness::new().await;
    let older = harness.ledger.clone().speaking(FIRST);
    harness.ledger = harness.ledger.speaking(SECOND);
    (harness, older)
}

async fn required(harness: &Harness) -> Format {
    harness.ledger.formats().await.expect("MySQL").required
}

async fn running(harness: &Harness) -> Vec<String> {
    let running = harness.ledger.formats().await.expect("MySQL").running;
    running
        .into_iter()
        .map(|h| format!("{}/{} {}", h.program, h.instance, h.format))
        .collect()
}

fn message<'a>(status: &'a FlashSaleStatus, type_: &str) -> &'a str {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_);
    condition.map_or("", |condition| &condition.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_of_a_newer_format_waits_for_older_pods() {
    let (harness, older) = newer_harness().await;
    let operator = operator_speaking(&harness, SECOND, "operator-new");
    let worker = harness.worker_speaking(SECOND, "worker-new");
    older.beat("seckill-api", "api-old").await.expect("MySQL");
    // It outlives the slowest test.
    harness
        .execute("UPDATE heartbeats SET at = at + INTERVAL 1 HOUR WHERE instance = 'api-old'")
        .await;
    harness.apply("newer", -1, 3600, json!({})).await;
    let waits = harness.until_reason("newer", "Accepted", "NewerFormatNeeded").await;
    assert_eq!(status_and_reason(&waits, "Accepted").0, "False");
    assert_eq!(status_and_reason(&waits, "Ready"), ("False", "NewerFormatNeeded"));
    // The upgrade may be under way.
    harness.until_reason("newer", "Reconciling", "NewerFormatNeeded").await;
    let why = message(&waits, "Accepted");
    assert!(
        why.contains("needs format 2") && why.contains("speak: seckill-api/api-old (format 1); upgrade"),
        "{why}"
    );
    let row = harness
        .ledger
        .sale_by_name(&harness.name, &harness.namespace, "newer")
        .await;
    assert_eq!((row.expect("MySQL"), required(&harness).await), (None, FIRST));

    // The pod was killed.
    harness
        .execute("UPDATE heartbeats SET at = UTC_TIMESTAMP(3) - INTERVAL 31 SECOND WHERE instance = 'api-old'")
        .await;
    harness.until_phase("newer", Phase::Open).await;
    assert_eq!(
        (harness.sale("newer").await.format, required(&harness).await),
        (SECOND, SECOND)
    );
    assert_eq!(harness.buy("newer", &["a", "b"]).await, 2);
    harness
        .eventually("the orders are stored", async || harness.orders("newer").await == 2)
        .await;
    assert_eq!(
        running(&harness).await,
        ["operator/operator-new 2", "order-worker/worker-new 2"]
    );
    operator.stop().await;
    worker.stop().await;
    assert!(running(&harness).await.is_empty());
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_with_access_waits_for_older_pods_and_an_anonymous_one_does_not() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let older = harness.ledger.clone().speaking(FIRST);
    older.beat("seckill-api", "api-old").await.expect("MySQL");
    // It outlives the slowest test.
    harness
        .execute("UPDATE heartbeats SET at = at + INTERVAL 1 HOUR WHERE instance = 'api-old'")
        .await;
    let access = json!({"access": {"issuer": "main"}});
    let limited = json!({"access": {"issuer": "main"}, "limitPerBuyer": 1});
    harness.apply("limited", -1, 3600, limited).await;
    harness.apply("anonymous", -1, 3600, json!({})).await;
    harness.apply("early", 3600, 3600, json!({})).await;
    let waits = harness.until_reason("limited", "Accepted", "NewerFormatNeeded").await;
    assert!(
        message(&waits, "Accepted").contains("seckill-api/api-old (format 1)"),
        "{waits:?}"
    );
    harness.until_phase("anonymous", Phase::Open).await;
    harness.until_phase("early", Phase::Scheduled).await;
    // A sale that is accepted already waits as well, and stays as it is.
    harness.edit("early", json!({"spec": access})).await;
    let waits = harness.until_reason("early", "Reconciling", "NewerFormatNeeded").await;
    assert!(
        message(&waits, "Reconciling").contains("seckill-api/api-old (format 1)"),
        "{waits:?}"
    );
    for name in ["anonymous", "early"] {
        let sale = harness.sale(name).await;
        assert_eq!((sale.format, sale.issuer), (FIRST, None), "{name}");
    }
    assert_eq!(required(&harness).await, FIRST);

    // The pod was killed.
    harness
        .execute("UPDATE heartbeats SET at = UTC_TIMESTAMP(3) - INTERVAL 31 SECOND WHERE instance = 'api-old'")
        .await;
    harness.until_phase("limited", Phase::Open).await;
    assert_eq!(harness.index("limited").await.terms.limit, 1);
    for name in ["limited", "early"] {
        harness
            .eventually("the sale has its issuer", async || {
                let sale = harness.sale(name).await;
                (sale.format, sale.issuer.as_deref()) == (SECOND, Some("main"))
            })
            .await;
    }
    assert_eq!(harness.sale("anonymous").await.format, FIRST);
    assert_eq!(required(&harness).await, SECOND);
    // The hook of a rollback to the version before.
    let (code, error) = check_format(&harness.database, "1");
    assert!(code == Some(1) && error.contains(TOO_OLD), "{code:?} {error}");
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_too_old_does_nothing_and_steps_down() {
    let (harness, _) = newer_harness().await;
    let newer = operator_speaking(&harness, SECOND, "operator-new");
    let worker = harness.worker_speaking(SECOND, "worker-new");
    harness.apply("newer", -1, 3600, json!({})).await;
    harness.until_phase("newer", Phase::Open).await;
    assert_eq!(harness.buy("newer", &["a", "b", "c"]).await, 3);
    newer.stop().await;

    // A rollback that nothing has refused.
    let old = operator_speaking(&harness, FIRST, "operator-old");
    harness
        .eventually("it is not ready", async || old.readiness().await.contains(TOO_OLD))
        .await;
    let waits = harness.until_reason("newer", "Reconciling", "NewerFormatNeeded").await;
    assert_eq!(message(&waits, "Reconciling"), TOO_OLD);
    let sale = harness.sale("newer").await;
    let end = harness.log.end_offset(sale.partition).await.expect("Kafka");
    harness.stock.drop_sale(sale.id).await.expect("Redis");
    harness.apply("another", -1, 3600, json!({})).await;
    let failures = async || old.metric_sum("seckill_operator_failures_total", "ledger").await;
    let before = failures().await;
    harness
        .eventually("it has tried again", async || failures().await > before + 5)
        .await;
    assert!(!harness.has_index("newer").await);
    assert_eq!(harness.records_after(sale.partition, end, sale.id).await, 0);
    assert_eq!(harness.sale("newer").await, sale);
    let row = harness
        .ledger
        .sale_by_name(&harness.name, &harness.namespace, "another")
        .await;
    assert_eq!(row.expect("MySQL"), None);

    // The old one does not keep the lease.
    let newer = operator_speaking(&harness, SECOND, "operator-new");
    let epoch = sale.live_epoch.expect("a live epoch").0;
    harness
        .until("newer", "rebuilt", |status| {
            status.epoch > Some(epoch) && status.phase == Some(Phase::Open)
        })
        .await;
    harness.until_phase("another", Phase::Open).await;
    let (decisions, _) = harness.reserve("newer", &["a", "b", "c"]).await;
    assert!(
        decisions
            .iter()
            .all(|decision| matches!(decision, Decision::AlreadyReserved(_))),
        "{decisions:?}"
    );
    assert_eq!(harness.buy("newer", &["d"]).await, 1);
    assert!(old.readiness().await.contains(TOO_OLD));
    assert!(!newer.readiness().await.contains("format"));

    // A person knows that nothing of the newer format was written.
    harness.execute("UPDATE required_format SET format = 1").await;
    harness
        .eventually("it is ready again", async || old.readiness().await.contains("ready\n"))
        .await;
    for program in [newer, old, worker] {
        program.stop().await;
    }
    harness.drop().await;
}

/// Exit code and error of `operator check-format` of a version that speaks this format.
fn check_format(mysql_url: &str, format: &str) -> (Option<i32>, String) {
    let checked = Command::new(env!("CARGO_BIN_EXE_operator"))
        .args([
            "check-format",
            "--mysql-url",
            mysql_url,
            "--spoken-format",
            format,
            "--timeout-seconds",
            "15",
        ])
        .output()
        .expect("ran");
    (
        checked.status.code(),
        String::from_utf8_lossy(&checked.stderr).into_owned(),
    )
}

#[tokio::test]
async fn a_rollback_below_the_required_format_is_refused() {
    let harness = Harness::new().await;
    assert_eq!(check_format(&harness.database, "1"), (Some(0), String::new()));
    harness.execute("UPDATE required_format SET format = 2").await;
    assert_eq!(check_format(&harness.database, "2"), (Some(0), String::new()));
    let (code, error) = check_format(&harness.database, "1");
    assert!(code == Some(1) && error.contains(TOO_OLD), "{code:?} {error}");
    let (code, error) = check_format("mysql://u:secret@127.0.0.1:1/seckill", "2");
    assert!(
        code == Some(1) && error.contains("SECKILL_MYSQL_URL") && error.contains("refused"),
        "{code:?} {error}"
    );
    assert!(!error.contains("secret"), "{error}");
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_a_newer_resource_are_refused_and_open_sales_go_on() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    // FlashSales with this cool-down have one more field, as if the installed resource were newer.
    proxy.set(Fault::NewerResource).await;
    let args = harness.operator_args("operator", 15);
    let operator = harness.operator_with_client(&proxy.client(), args);
    let worker = harness.worker();
    let newer = json!({"coolDownSeconds": 7});
    harness.apply("newer", -1, 3600, newer.clone()).await;
    harness.apply("open", -1, 3600, json!({})).await;
    let refused = harness.until_reason("newer", "Accepted", "UnknownFields").await;
    assert_eq!(status_and_reason(&refused, "Accepted").0, "False");
    assert_eq!(status_and_reason(&refused, "Ready"), ("False", "UnknownFields"));
    let why = message(&refused, "Accepted");
    assert!(
        why.starts_with("unknown fields: spec.rehearsal; this operator is older"),
        "{why}"
    );
    let row = harness
        .ledger
        .sale_by_name(&harness.name, &harness.namespace, "newer")
        .await;
    assert_eq!(row.expect("MySQL"), None);
    harness.until_phase("open", Phase::Open).await;

    harness.edit("open", json!({"spec": newer})).await;
    let reported = harness.until_reason("open", "Accepted", "UnknownFields").await;
    assert_eq!(
        (status_and_reason(&reported, "Accepted").0, reported.phase),
        ("True", Some(Phase::Open))
    );
    assert_eq!(harness.buy("open", &["a"]).await, 1);
    let sale = harness.sale("open").await;
    harness.stock.drop_sale(sale.id).await.expect("Redis");
    harness
        .until("open", "rebuilt", |status| {
            status.epoch > sale.live_epoch.map(|epoch| epoch.0)
        })
        .await;
    // What the operator knows still has its effect.
    harness.edit("open", json!({"spec": {"suspend": true}})).await;
    harness.until_phase("open", Phase::Suspended).await;

    harness.edit("newer", json!({"spec": {"coolDownSeconds": 8}})).await;
    harness.until_phase("newer", Phase::Open).await;
    harness.edit("open", json!({"spec": {"coolDownSeconds": 8}})).await;
    harness.until_reason("open", "Accepted", "Accepted").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// The order that [`Harness::buy`] makes.
fn order(buyer: &str) -> Order {
    Order {
        buyer: Buyer::anonymous(buyer),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(buyer),
    }
}

/// What a version without the record IDENTITY left: a row, and a log with a total, an epoch and three orders.
async fn old_sale(harness: &Harness, object: &FlashSale) -> Epoch {
    let new = desired_sale(object).new_sale(&harness.name, harness::CLUSTER, &sale_key(object), 2);
    let sale = harness.ledger.create_sale(&new).await.expect("MySQL");
    let barrier = Record::Barrier {
        sale: sale.id,
        nonce: "old".into(),
    };
    let total = Record::Total {
        sale: sale.id,
        total: sale.offered,
    };
    harness.log.append(sale.partition, &total).await.expect("Kafka");
    let epoch = Epoch(harness.log.append(sale.partition, &barrier).await.expect("Kafka"));
    let batch = Record::Batch(Batch {
        sale: sale.id,
        epoch,
        first: 1,
        orders: ["a", "b", "c"].map(order).into(),
    });
    harness.log.append(sale.partition, &batch).await.expect("Kafka");
    harness.ledger.set_live_epoch(sale.id, epoch).await.expect("MySQL");
    epoch
}

async fn until_stored(harness: &Harness, orders: usize) {
    let stored = async || {
        let row = harness
            .ledger
            .sale_by_name(&harness.name, &harness.namespace, "old")
            .await;
        let identified = row.expect("MySQL").is_some_and(|sale| sale.identity_at.is_some());
        identified && harness.orders("old").await == orders
    };
    harness
        .eventually("the ledger has the identity and all orders", stored)
        .await;
}

async fn assert_all_have_orders(harness: &Harness, buyers: &[&str]) {
    let (decisions, _) = harness.reserve("old", buyers).await;
    let all = decisions
        .iter()
        .all(|decision| matches!(decision, Decision::AlreadyReserved(_)));
    assert!(all, "{decisions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_from_before_identity_is_sold_on_and_restored() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    let object = harness.apply("old", -60, 3600, json!({})).await;
    let first = old_sale(&harness, &object).await;
    harness
        .eventually("the orders are stored", async || harness.orders("old").await == 3)
        .await;
    let old = harness.sale("old").await;
    assert_eq!((old.identity_at, old.format, old.sold), (None, FIRST, 3));

    // The upgrade: the operator finds a sale without an index.
    let operator = harness.operator();
    let open = |epoch: Epoch| {
        move |status: &FlashSaleStatus| status.epoch > Some(epoch.0) && status.phase == Some(Phase::Open)
    };
    harness.until("old", "open in a new epoch", open(first)).await;
    assert_all_have_orders(&harness, &["a", "b", "c"]).await;
    assert_eq!(harness.buy("old", &["d", "e"]).await, 2);
    until_stored(&harness, 5).await;
    let known = harness
        .until("old", "named in its status", |status| status.sale_id.is_some())
        .await;
    assert_eq!(known.sale_id, Some(old.id.to_string()));

    // Redis loses its index.
    let before = harness.sale("old").await;
    harness.stock.drop_sale(old.id).await.expect("Redis");
    harness
        .until("old", "rebuilt", open(before.live_epoch.expect("live")))
        .await;
    assert_all_have_orders(&harness, &["a", "b", "c", "d", "e"]).await;

    // MySQL loses its tail, back to before the identity.
    let (id, identity_at) = (old.id.0, before.identity_at.expect("identified"));
    harness
        .execute(&format!(
            "START TRANSACTION; DELETE FROM orders WHERE sale = {id} AND epoch > {first}; \
             UPDATE sales SET identity_at = NULL, sold = 3, taken = 3, orders_ever = 3, cur = {first}, live_epoch = {first} \
             WHERE id = {id}; UPDATE log_position SET off = {identity_at} WHERE part = {}; COMMIT",
            old.partition
        ))
        .await;
    until_stored(&harness, 5).await;

    // MySQL loses the row and all that was stored with it. The first records are older than the identity, so order-worker
    // waits until a person has inserted the row again.
    harness.lose_all_rows().await;
    let behind = harness.until_reason("old", "Accepted", "LedgerBehind").await;
    assert_eq!(behind.sale_id, Some(old.id.to_string()));
    harness
        .execute(&format!(
            "INSERT INTO sales (id, class, namespace, name, cluster, uid, part, version, state, opens_at, closes_at, \
             limit_per_buyer, item, price, currency, offered) VALUES ({id}, '{}', '{}', 'old', '{}', '{}', {}, 1, \
             'suspended', {}, {}, 0, '{}', '9.90', 'EUR', 10)",
            old.class,
            old.namespace,
            harness::CLUSTER,
            old.uid,
            old.partition,
            old.opens_at,
            old.closes_at,
            old.item
        ))
        .await;
    until_stored(&harness, 5).await;
    harness.until_reason("old", "Ready", "Selling").await;
    assert_all_have_orders(&harness, &["a", "b", "c", "d", "e"]).await;
    let buyers: Vec<String> = (0..10).map(|n| format!("new-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(harness.buy("old", &buyers).await, 5);
    harness.end_in("old", 2).await;
    let settled = harness.until_phase("old", Phase::Settled).await;
    assert_eq!(
        settled.ledger.as_ref().map(|ledger| (ledger.total, ledger.sold)),
        Some((10, 10))
    );
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
