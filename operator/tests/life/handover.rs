//! Two operator processes with one leader, and the effect of a handover on sales.
use std::process::Stdio;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use seckill_crds::{FlashSale, Phase};
use seckill_order_log::Entry;
use seckill_protocol::Record;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::harness::{self, Harness, free_address, get, set_flag, status_and_reason, written_by_operator};
use crate::proxy::{Fault, Proxy};

/// A process of the operator binary. It is killed on drop.
struct Process {
    child: Child,
    admin: String,
}

impl Process {
    fn start(harness: &Harness, pod: &str, lease_seconds: u32) -> Self {
        let admin = free_address();
        let mut args = harness.operator_args("operator", lease_seconds);
        set_flag(&mut args, "--admin-listen", &admin);
        args.extend(["--pod-name".to_owned(), pod.to_owned()]);
        let log = format!("{}/{}-{pod}.log", env!("CARGO_TARGET_TMPDIR"), harness.name);
        let log = std::fs::File::create(log).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_operator"))
            .args(&args[1..])
            .env(
                "KUBECONFIG",
                std::env::var_os("SECKILL_TEST_KUBECONFIG").expect("SECKILL_TEST_KUBECONFIG is set"),
            )
            .stdin(Stdio::null())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the operator starts");
        Process { child, admin }
    }

    async fn get(&self, path: &str) -> Option<String> {
        get(&self.admin, path).await
    }

    async fn is_ready(&self) -> bool {
        let answer = self.get("/readyz").await;
        answer.is_some_and(|text| text.starts_with("HTTP/1.1 200"))
    }

    /// Whether its metric says that it is leader; `None` if it does not answer.
    async fn is_leader(&self) -> Option<bool> {
        let metrics = self.get("/metrics").await?;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("seckill_operator_leader "))?;
        Some(line.ends_with(" 1"))
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("the process runs").to_string();
        let sent = Command::new("kill").args([name, &pid]).status().await.expect("kill");
        assert!(sent.success());
    }

    async fn shut_down(mut self) {
        self.signal("-TERM").await;
        let ended = self.child.wait().await.expect("the process ends");
        assert!(ended.success(), "{ended}");
    }
}

/// Starts two operators, and waits until the first one is leader and the second one is ready.
async fn leader_and_follower(harness: &Harness, lease_seconds: u32) -> (Process, Process) {
    let leader = Process::start(harness, "one", lease_seconds);
    harness
        .eventually("the first operator is leader", async || {
            leader.is_leader().await == Some(true)
        })
        .await;
    let follower = Process::start(harness, "other", lease_seconds);
    harness
        .eventually("the second operator is ready", async || follower.is_ready().await)
        .await;
    // The follower checks the Lease as often as the leader renews it.
    harness.until_lease_is_renewed(2).await;
    harness
        .eventually("one of them is leader", async || {
            (leader.is_leader().await, follower.is_leader().await) == (Some(true), Some(false))
        })
        .await;
    (leader, follower)
}

/// Deletes the index of an open sale, and returns the time until the index is rebuilt.
async fn time_to_rebuild(harness: &Harness, name: &str) -> Duration {
    let started = Instant::now();
    let before = harness.sale(name).await;
    harness.stock.drop_sale(before.id).await.expect("Redis");
    harness
        .until(name, "rebuilt", |status| {
            status.epoch > before.live_epoch.map(|epoch| epoch.0)
        })
        .await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_shuts_down_hands_its_sales_over_immediately() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    const LEASE_SECONDS: u32 = 60;
    let (leader, follower) = leader_and_follower(&harness, LEASE_SECONDS).await;
    harness.apply("handed", -1, 3600, json!({})).await;
    harness.until_phase("handed", Phase::Open).await;
    assert_eq!(harness.buy("handed", &["a", "b", "c"]).await, 3);

    let signalled = Instant::now();
    leader.shut_down().await;
    let ended = signalled.elapsed();
    let rebuilt = time_to_rebuild(&harness, "handed").await;
    println!("SIGTERM: the leader ended after {ended:?}, and a lost index was rebuilt in {rebuilt:?}");
    assert!(
        signalled.elapsed() < Duration::from_secs(LEASE_SECONDS.into()) / 2,
        "{:?}",
        signalled.elapsed()
    );
    assert_eq!(follower.is_leader().await, Some(true));
    harness.end_in("handed", 2).await;
    let settled = harness.until_phase("handed", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 3)));
    assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    follower.shut_down().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_killed_is_replaced_when_its_lease_expires() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    let (mut leader, follower) = leader_and_follower(&harness, 15).await;
    harness.apply("killed", -1, 3600, json!({})).await;
    harness.until_phase("killed", Phase::Open).await;
    assert_eq!(harness.buy("killed", &["a", "b", "c"]).await, 3);

    let killed = Instant::now();
    leader.child.kill().await.expect("killed");
    let rebuilt = time_to_rebuild(&harness, "killed").await;
    println!("SIGKILL: a lost index was rebuilt in {rebuilt:?}");
    assert!(killed.elapsed() < Duration::from_secs(60), "{:?}", killed.elapsed());
    assert_eq!(follower.is_leader().await, Some(true));
    harness.end_in("killed", 2).await;
    let settled = harness.until_phase("killed", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 3)));
    follower.shut_down().await;
    worker.stop().await;
    harness.drop().await;
}

/// A new leader does not know the pods, or not all sales, at its first reconciles. What the last one wrote stands until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_reports_nothing_before_all_is_known() {
    for slow in ["/deployments", "/flashsales"] {
        let harness = Harness::new().await;
        let mut proxy = Proxy::start(harness::upstream().await).await;
        let (operator, worker) = (harness.operator(), harness.worker());
        let demand = json!({"leadTimeSeconds": 3700, "demand": {"apiReplicas": 2}});
        harness.apply("ready", 3600, 60, demand).await;
        harness.until_phase("ready", Phase::Ready).await;
        operator.stop().await;
        harness.edit("ready", json!({"spec": {"stock": 11}})).await;
        let shown = harness.record_statuses("ready");

        proxy.set(Fault::SlowResource(slow, Duration::from_secs(2))).await;
        let operator = harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 15));
        harness
            .until("ready", "restocked", |status| {
                status.ledger.as_ref().map(|ledger| ledger.total) == Some(11)
            })
            .await;
        for status in shown.stop() {
            assert_eq!(
                (status.phase, status_and_reason(&status, "WorkloadsScaled")),
                (Some(Phase::Ready), ("True", "Scaled")),
                "{slow}"
            );
        }
        operator.stop().await;
        worker.stop().await;
        harness.drop().await;
    }
}

/// The leader is paused each time just after it has begun a rebuild. So it resumes with its own barrier in the log and
/// tries to continue the rebuild.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_paused_beyond_its_lease_resumes_as_a_harmless_follower() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    let (mut leader, mut follower) = leader_and_follower(&harness, 15).await;
    harness
        .apply("stopped", -1, 3600, json!({"demand": {"apiReplicas": 2}}))
        .await;
    harness.until_phase("stopped", Phase::Open).await;
    let sale = harness.sale("stopped").await;
    let mut sold = harness.buy("stopped", &["a", "b", "c"]).await;
    harness
        .eventually("the orders are in the ledger", async || {
            harness.orders("stopped").await == 3
        })
        .await;

    for round in 0..3 {
        let end = harness.log.end_offset(sale.partition).await.expect("Kafka");
        harness.stock.drop_sale(sale.id).await.expect("Redis");
        harness
            .eventually_without_delay("a rebuild has begun", async || {
                harness.log.end_offset(sale.partition).await.expect("Kafka") > end
            })
            .await;
        leader.signal("-STOP").await;
        harness
            .eventually("the other operator is leader", async || {
                follower.is_leader().await == Some(true)
            })
            .await;
        harness
            .until("stopped", "rebuilt", |status| status.epoch > Some(end))
            .await;
        sold += harness.buy("stopped", &[&format!("while-paused-{round}")]).await;

        leader.signal("-CONT").await;
        // Buyers continue while the old leader resumes.
        let buyer = format!("while-resuming-{round}");
        harness
            .eventually("a buyer who retries has an order", async || {
                !harness.try_buy("stopped", &[&buyer]).await.is_empty()
            })
            .await;
        sold += 1;
        harness
            .eventually("the old leader is a follower", async || {
                leader.is_leader().await == Some(false)
            })
            .await;
        assert_eq!(follower.is_leader().await, Some(true));
        assert!(leader.is_ready().await);
        std::mem::swap(&mut leader, &mut follower);
    }

    // The follower does not act against the leader: nothing is written, and no epoch begins.
    let written = async || {
        let object = harness.api::<FlashSale>().get("stopped").await.expect("it exists");
        written_by_operator(&object)
    };
    let terms = async || {
        let lease = harness.api::<Lease>().get("operator").await.expect("it exists");
        lease.spec.and_then(|spec| spec.lease_transitions)
    };
    let end = async || harness.log.end_offset(sale.partition).await.expect("Kafka");
    harness
        .eventually(
            "no status, Lease or epoch changes while the Lease is renewed",
            async || {
                let before = (written().await, terms().await, end().await);
                harness.until_lease_is_renewed(3).await;
                (written().await, terms().await, end().await) == before
            },
        )
        .await;
    let end = end().await;
    // The first epoch, and at most three for each round: of the paused leader, of the next leader, and one unused.
    let mut epochs = 0;
    let count = |entry: Entry| epochs += usize::from(matches!(entry.record, Ok(Record::Barrier { .. })));
    harness.log.read(sale.partition, 0, end, count).await.expect("Kafka");
    assert!(epochs <= 1 + 3 * 3, "{epochs}");

    // Each unit is sold once, and one unit is left.
    assert_eq!(sold, 9);
    assert_eq!(harness.buy("stopped", &["last", "refused"]).await, 1);
    harness.until_phase("stopped", Phase::SoldOut).await;
    harness.end_in("stopped", 2).await;
    let settled = harness.until_phase("stopped", Phase::Settled).await;
    assert_eq!(
        settled.ledger.as_ref().map(|l| (l.total, l.sold, l.remaining)),
        Some((10, 10, 0))
    );
    assert_eq!(
        status_and_reason(&settled, "LedgerBalanced"),
        ("True", "Balanced"),
        "{settled:#?}"
    );
    assert_eq!(harness.orders("stopped").await, 10);
    // Events are written after the status.
    harness
        .eventually("each step has one event", async || {
            let events = harness.events("stopped").await;
            let once = |step: &str| events.iter().filter(|event| *event == step).count() == 1;
            ["Accepted", "Preheated", "SoldOut", "Ended", "Settled"]
                .into_iter()
                .all(once)
        })
        .await;
    leader.shut_down().await;
    follower.shut_down().await;
    worker.stop().await;
    harness.drop().await;
}
