//! Two operators as processes of their own, of which one leads, and what sales notice when it changes.
use std::process::Stdio;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use seckill_crds::{FlashSale, Phase};
use seckill_order_log::Entry;
use seckill_protocol::Record;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::harness::{Harness, free_address, get, reason, set};

/// The program itself. It is killed when this is dropped.
struct Process {
    child: Child,
    admin: String,
}

impl Process {
    fn start(harness: &Harness, pod: &str, lease_seconds: u32) -> Self {
        let admin = free_address();
        let mut words = harness.operator_command("operator", lease_seconds);
        set(&mut words, "--admin-listen", &admin);
        words.extend(["--pod-name".to_owned(), pod.to_owned()]);
        let log = format!("{}/{}-{pod}.log", env!("CARGO_TARGET_TMPDIR"), harness.name);
        let log = std::fs::File::create(log).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_operator"))
            .args(&words[1..])
            .env(
                "KUBECONFIG",
                std::env::var_os("SECKILL_TEST_KUBECONFIG").expect("it is set"),
            )
            .stdin(Stdio::null())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        Process { child, admin }
    }

    async fn get(&self, path: &str) -> Option<String> {
        get(&self.admin, path).await
    }

    async fn is_ready(&self) -> bool {
        let answer = self.get("/readyz").await;
        answer.is_some_and(|text| text.starts_with("HTTP/1.1 200"))
    }

    /// What it says of itself; `None`: nothing.
    async fn leads(&self) -> Option<bool> {
        let metrics = self.get("/metrics").await?;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("seckill_operator_leader "))?;
        Some(line.ends_with(" 1"))
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([name, &pid]).status().await.expect("kill");
        assert!(sent.success());
    }

    async fn ends_well(mut self) {
        self.signal("-TERM").await;
        let ended = self.child.wait().await.expect("it ends");
        assert!(ended.success(), "{ended}");
    }
}

/// Starts two, and answers the one that leads first.
async fn leader_and_follower(harness: &Harness, lease_seconds: u32) -> (Process, Process) {
    let leader = Process::start(harness, "one", lease_seconds);
    harness
        .eventually("the first one leads", async || leader.leads().await == Some(true))
        .await;
    let follower = Process::start(harness, "other", lease_seconds);
    harness
        .eventually("the second one is ready", async || follower.is_ready().await)
        .await;
    // Time enough for more than one look at the lease.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        (leader.leads().await, follower.leads().await),
        (Some(true), Some(false))
    );
    (leader, follower)
}

/// Redis loses the index of an open sale at this moment; how long until it sells again?
async fn until_it_sells_again(harness: &Harness, name: &str) -> Duration {
    let begun = Instant::now();
    let before = harness.sale(name).await;
    harness.stock.drop_sale(before.id).await.expect("Redis");
    harness
        .until(name, "rebuilt", |status| {
            status.epoch > before.live_epoch.map(|epoch| epoch.0)
        })
        .await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_told_to_end_hands_its_sales_over_at_once() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    let (leader, follower) = leader_and_follower(&harness, 15).await;
    harness.apply("handed", -1, 3600, json!({})).await;
    harness.until_phase("handed", Phase::Open).await;
    assert_eq!(harness.buy_surely("handed", &["a", "b", "c"]).await, 3);

    let told = Instant::now();
    leader.ends_well().await;
    let ended = told.elapsed();
    let idle = until_it_sells_again(&harness, "handed").await;
    println!("SIGTERM: ended after {ended:?}, an index lost then is in force {idle:?} later");
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    assert_eq!(follower.leads().await, Some(true));
    harness.ends_in("handed", 2).await;
    let settled = harness.until_phase("handed", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 3)));
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    follower.ends_well().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_killed_is_followed_when_its_lease_has_ended() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    let (mut leader, follower) = leader_and_follower(&harness, 15).await;
    harness.apply("killed", -1, 3600, json!({})).await;
    harness.until_phase("killed", Phase::Open).await;
    assert_eq!(harness.buy_surely("killed", &["a", "b", "c"]).await, 3);

    let killed = Instant::now();
    leader.child.kill().await.expect("killed");
    let idle = until_it_sells_again(&harness, "killed").await;
    println!("SIGKILL: an index lost then is in force {idle:?} later");
    assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());
    assert_eq!(follower.leads().await, Some(true));
    harness.ends_in("killed", 2).await;
    let settled = harness.until_phase("killed", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 3)));
    follower.ends_well().await;
    worker.stop().await;
    harness.drop().await;
}

/// Each time as it begins a rebuild: it wakes with a barrier of its own in the log, and the rest of the way before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_beyond_its_lease_wakes_as_a_follower_and_nothing_is_done_twice() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    let (mut leader, mut follower) = leader_and_follower(&harness, 5).await;
    harness
        .apply("stopped", -1, 3600, json!({"demand": {"apiReplicas": 2}}))
        .await;
    harness.until_phase("stopped", Phase::Open).await;
    let sale = harness.sale("stopped").await;
    let mut sold = harness.buy_surely("stopped", &["a", "b", "c"]).await;
    harness
        .eventually("the worker has them", async || harness.orders("stopped").await == 3)
        .await;

    for round in 0..3 {
        let end = harness.log.end_offset(sale.part).await.expect("Kafka");
        harness.stock.drop_sale(sale.id).await.expect("Redis");
        harness
            .eventually_soon("a rebuild begins", async || {
                harness.log.end_offset(sale.part).await.expect("Kafka") > end
            })
            .await;
        leader.signal("-STOP").await;
        harness
            .eventually("the other leads", async || follower.leads().await == Some(true))
            .await;
        harness
            .until("stopped", "rebuilt", |status| status.epoch > Some(end))
            .await;
        sold += harness
            .buy_surely("stopped", &[&format!("while-it-sleeps-{round}")])
            .await;

        leader.signal("-CONT").await;
        // While it wakes up buyers go on.
        let buyer = format!("while-it-wakes-{round}");
        harness
            .eventually("a buyer who insists has an order", async || {
                !harness.insist("stopped", &[&buyer]).await.is_empty()
            })
            .await;
        sold += 1;
        harness
            .eventually("it follows", async || leader.leads().await == Some(false))
            .await;
        assert_eq!(follower.leads().await, Some(true));
        assert!(leader.is_ready().await);
        std::mem::swap(&mut leader, &mut follower);
    }

    // Nobody works against the one that leads: once it is quiet, nothing is written and no epoch is begun.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let version = async || {
        let object = harness.api::<FlashSale>().get("stopped").await.expect("there");
        object.resource_version()
    };
    let terms = async || {
        let lease = harness.api::<Lease>().get("operator").await.expect("there");
        lease.spec.and_then(|spec| spec.lease_transitions)
    };
    let end = async || harness.log.end_offset(sale.part).await.expect("Kafka");
    let quiet = (version().await, terms().await, end().await);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        (version().await, terms().await, end().await),
        quiet,
        "status, lease or epochs are fought over"
    );
    let end = end().await;
    // The first one, and for each round the one that was begun, the one of the next leader, and at most one that is wasted.
    let mut epochs = 0;
    let count = |entry: Entry| epochs += usize::from(matches!(entry.record, Ok(Record::Barrier { .. })));
    harness.log.read(sale.part, 0, end, count).await.expect("Kafka");
    assert!(epochs <= 1 + 3 * 3, "{epochs}");

    // Units: each sold once, and the rest are there.
    assert_eq!(sold, 9);
    assert_eq!(harness.buy_surely("stopped", &["last", "too-late"]).await, 1);
    harness.until_phase("stopped", Phase::SoldOut).await;
    harness.ends_in("stopped", 2).await;
    let settled = harness.until_phase("stopped", Phase::Settled).await;
    assert_eq!(
        settled.ledger.as_ref().map(|l| (l.total, l.sold, l.remaining)),
        Some((10, 10, 0))
    );
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"), "{settled:#?}");
    assert_eq!(harness.orders("stopped").await, 10);
    let events = harness.events("stopped").await;
    for once in ["Accepted", "Preheated", "SoldOut", "Ended", "Settled"] {
        assert_eq!(
            events.iter().filter(|event| *event == once).count(),
            1,
            "{once}: {events:?}"
        );
    }
    leader.ends_well().await;
    follower.ends_well().await;
    worker.stop().await;
    harness.drop().await;
}
