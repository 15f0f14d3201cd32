//! The program itself: its readiness and its shutdown.
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
    fn start_with(mysql_url: &str, topic: &str, variables: &[(&str, &str)]) -> Program {
        let [v1, admin] = free_addresses();
        let child = Command::new(env!("CARGO_BIN_EXE_seckill-api"))
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

    fn terminate(&self) {
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
        assert!(metrics.text.contains(line), "{line} in\n{}", metrics.text);
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
