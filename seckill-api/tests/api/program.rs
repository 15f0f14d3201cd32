//! The program itself: its readiness, its shutdown, and what only several processes show.
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use seckill_ledger::SaleTerms;

use crate::client::{Request, Response};
use crate::harness::*;

pub struct Program {
    child: Child,
    pub v1: SocketAddr,
    pub admin: SocketAddr,
}

impl Program {
    pub fn start(mysql_url: &str, topic: &str) -> Program {
        Self::start_with(mysql_url, topic, &[])
    }

    /// `variables` replace those of the usual program.
    pub fn start_with(mysql_url: &str, topic: &str, variables: &[(&str, &str)]) -> Program {
        let program = Command::new(env!("CARGO_BIN_EXE_seckill-api"));
        Self::start_command(program, mysql_url, topic, variables)
    }

    /// With limits of open files, as `prlimit` takes them: `soft:hard`, where nothing is no change.
    pub fn start_with_open_files(mysql_url: &str, topic: &str, limits: &str) -> Program {
        let mut program = Command::new("prlimit");
        program.args([&format!("--nofile={limits}"), "--", env!("CARGO_BIN_EXE_seckill-api")]);
        Self::start_command(program, mysql_url, topic, &[])
    }

    fn start_command(mut program: Command, mysql_url: &str, topic: &str, variables: &[(&str, &str)]) -> Program {
        let [v1, admin] = free_addresses();
        let child = program
            .env_clear()
            .env("SECKILL_REDIS_URL", environment("SECKILL_TEST_REDIS_URL"))
            .env("SECKILL_KAFKA_BROKERS", environment("SECKILL_TEST_KAFKA"))
            .env("SECKILL_KAFKA_TOPIC", topic)
            .env("SECKILL_MYSQL_URL", mysql_url)
            .env("SECKILL_ORDER_NO_KEYS", ORDER_NO_KEYS)
            .env("SECKILL_LISTEN", v1.to_string())
            .env("SECKILL_ADMIN_LISTEN", admin.to_string())
            .env("SECKILL_LOG_FORMAT", "text")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        Program { child, v1, admin }
    }

    /// Waits until the readiness probe gives such a response.
    pub async fn wait_for_readiness(&self, expected: impl Fn(&Response) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let response = Request::get("/readyz").send(self.admin).await;
            if response.as_ref().is_some_and(&expected) {
                return;
            }
            assert!(Instant::now() < deadline, "last response: {response:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("bound"))
}

#[tokio::test]
async fn the_program_sells_when_ready_and_drains_at_shutdown() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    let mut program = Program::start(&harness.mysql_url, &harness.topic);
    program.wait_for_readiness(|response| response.status == 200).await;
    let key = key();
    let bought = purchase(&sale, &key, 1).send(program.v1).await.expect("a response");
    assert_eq!(bought.status, 201, "{bought:?}");
    // Another process returns the same order to the retry.
    assert_eq!(harness.buy(&sale, &key).await.body, bought.body);
    let metrics = Request::get("/metrics").send(program.admin).await.expect("a response");
    assert_eq!(metrics.status, 200);
    for line in [
        r#"seckill_api_answers_total{route="/v1/sales/{namespace}/{name}/orders",status="201",code="ok"} 1"#,
        "seckill_api_purchase_seconds_count 1",
        "seckill_api_read_back_seconds_count 1",
        "seckill_api_batch_orders_count 1",
        r#"seckill_api_tail_lag_records{partition="0"} 0"#,
    ] {
        assert!(
            metrics.text.lines().any(|shown| shown.starts_with(line)),
            "{line} in\n{}",
            metrics.text
        );
    }

    program.terminate();
    program
        .wait_for_readiness(|response| response.status == 503 && response.text.contains("shutting down"))
        .await;
    // Requests still arrive until every proxy knows that the process is not ready.
    let shown = Request::get(&path(&sale)).send(program.v1).await.expect("a response");
    assert_eq!(shown.status, 200);
    let ended = tokio::task::spawn_blocking(move || program.child.wait().expect("ends")).await;
    assert!(ended.expect("no panic").success());
}

#[tokio::test]
async fn the_value_of_a_misspelt_property_is_not_shown() {
    let properties = [("SECKILL_KAFKA_PROPERTIES", "sasl.pasword=hunter2")];
    let (database, config) = (new_database().await, new_topic().await);
    seckill_ledger::migrate(&database).await.expect("migrates");
    let program = Program::start_with(&database, &config.topic, &properties);
    program
        .wait_for_readiness(|response| {
            assert!(!response.text.contains("hunter2"), "{response:?}");
            response.text.contains("no property sasl.pasword")
        })
        .await;
}

#[tokio::test]
async fn requests_are_accepted_during_the_configured_drain() {
    const DRAIN_SECONDS: u64 = 5;
    let config = new_topic().await;
    let database = new_database().await;
    seckill_ledger::migrate(&database).await.expect("migrates");
    let seconds = DRAIN_SECONDS.to_string();
    let mut program = Program::start_with(&database, &config.topic, &[("SECKILL_DRAIN_SECONDS", &seconds)]);
    program.wait_for_readiness(|response| response.status == 200).await;
    let terminated = Instant::now();
    program.terminate();
    program.wait_for_readiness(|response| response.status == 503).await;
    let healthy = Request::get("/healthz").send(program.v1).await.expect("a response");
    assert_eq!(healthy.status, 200);
    let ended = tokio::task::spawn_blocking(move || program.child.wait().expect("ends")).await;
    assert!(ended.expect("no panic").success());
    assert!(terminated.elapsed() >= Duration::from_secs(DRAIN_SECONDS));
}

#[tokio::test]
async fn readiness_reports_a_missing_schema() {
    let config = new_topic().await;
    let empty = new_database().await;
    let program = Program::start(&empty, &config.topic);
    program
        .wait_for_readiness(|response| response.status == 503 && response.text.contains("order-worker migrate"))
        .await;
    seckill_ledger::migrate(&empty).await.expect("migrates");
    program.wait_for_readiness(|response| response.status == 200).await;
}

/// A process whose tail can be stopped: from the next record on, it reads none.
struct BlockedTail {
    folder: std::path::PathBuf,
}

impl BlockedTail {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("seckill-api-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).expect("a new folder");
        BlockedTail { folder }
    }

    fn block(&self) {
        std::fs::write(self.folder.join("tail.before-read"), "wait").expect("writes");
    }

    async fn unblock(&self) {
        let reached = self.folder.join("tail.before-read.reached");
        eventually("the tail is stopped", async || std::fs::remove_file(&reached).is_ok()).await;
    }

    fn folder(&self) -> &str {
        Path::to_str(&self.folder).expect("UTF-8")
    }
}

impl Drop for BlockedTail {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn a_refusal_by_a_process_behind_the_log_does_not_count() {
    let harness = Harness::start().await;
    let sold_out = harness.sell(1, open()).await;
    let over = harness.announce(1, over()).await;
    assert_eq!(harness.buy(&sold_out, &key()).await.status, 201);
    let tail = BlockedTail::new();
    let variables = [("SECKILL_FAILPOINTS", tail.folder())];
    let program = Program::start_with(&harness.mysql_url, &harness.topic, &variables);
    program.wait_for_readiness(|response| response.status == 200).await;
    let buy = async |sale| purchase(sale, &key(), 1).send(program.v1).await.expect("an answer");
    buy(&sold_out).await.is(409, "sold_out");
    buy(&over).await.is(410, "ended");

    // Another process begins a new epoch of both sales. The old index still refuses, and this process does not know yet
    // that it is outdated.
    tail.block();
    harness.barrier(&sold_out).await;
    harness.barrier(&over).await;
    // The process may have confirmed within the last 100 ms that it has read everything.
    eventually("the refusals do not count", async || {
        buy(&sold_out).await.status == 503 && buy(&over).await.status == 503
    })
    .await;
    buy(&sold_out).await.is(503, "not_ready");
    buy(&over).await.is(503, "not_ready");

    tail.unblock().await;
    harness.store().await;
    harness.rebuild(&sold_out).await;
    eventually("the new index refuses", async || {
        buy(&sold_out).await.code() == "sold_out"
    })
    .await;
}

#[tokio::test]
async fn rotating_keys_never_loses_or_changes_a_number() {
    const NEW_KEY: &str = "2:ffeeddccbbaa99887766554433221100";
    let harness = Harness::start().await;
    let two_hours_ago = jiff::Timestamp::from_millisecond(now() as i64 - 2 * 3_600_000).expect("a time");
    let rotated = format!("{ORDER_NO_KEYS},{NEW_KEY}@{two_hours_ago}");
    let old = Program::start(&harness.mysql_url, &harness.topic);
    let variables = [("SECKILL_ORDER_NO_KEYS", rotated.as_str())];
    let new = Program::start_with(&harness.mysql_url, &harness.topic, &variables);
    for program in [&old, &new] {
        program.wait_for_readiness(|response| response.status == 200).await;
    }
    let get = async |program: &Program, number: &str| {
        let request = Request::get(&format!("/v1/orders/{number}"));
        request.send(program.v1).await.expect("an answer")
    };

    // A sale that started before the time of the new key: the same number everywhere, whichever process answers.
    let terms = SaleTerms {
        opens_at: now() - 3 * 3_600_000,
        ..open()
    };
    let running = harness.sell(3, terms).await;
    let key = key();
    let buy = async |program: &Program| purchase(&running, &key, 1).send(program.v1).await.expect("an answer");
    let (first, again) = (buy(&new).await, buy(&old).await);
    assert_eq!((first.status, again.status), (201, 201), "{first:?}");
    assert_eq!(first.body, again.body);
    assert_eq!(get(&old, first.order_no()).await.status, 200);

    // A sale that started after it: a process without the key can't read its numbers, and does not say that there is no
    // such order.
    let later = harness.sell(3, open()).await;
    let bought = purchase(&later, &key, 1).send(new.v1).await.expect("an answer");
    assert!(bought.order_no().starts_with('2'), "{bought:?}");
    assert_eq!(get(&new, bought.order_no()).await.status, 200);
    let unreadable = get(&old, bought.order_no()).await;
    assert!(unreadable.is(503, "not_ready").headers.contains_key("retry-after"));
    let cancel = Request::new(format!("DELETE /v1/orders/{}", bought.order_no()), &[], "");
    cancel.send(old.v1).await.expect("an answer").is(503, "not_ready");
    get(&old, "-ABCDEFGHJKMNPQRSTVWXYZ0123").await.is(404, "order_unknown");
}
