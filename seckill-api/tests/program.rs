//! The program itself: what it needs to be ready, and how it ends.
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "api/shop.rs"]
#[allow(dead_code, reason = "few of its functions are needed here")]
mod shop;

use shop::{ORDER_NO_KEYS, environment, key, new_database, new_topic, open, path};

struct Program {
    child: Child,
    v1: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    fn start(mysql_url: &str, topic: &str) -> Program {
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
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        Program { child, v1, admin }
    }

    async fn says(&self, shop: &shop::Shop, address: SocketAddr, path: &str) -> Option<(u16, String)> {
        let url = format!("http://{address}{path}");
        shop.try_text(&url).await
    }

    async fn until(&self, shop: &shop::Shop, wanted: impl Fn(&(u16, String)) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = self.says(shop, self.admin, "/readyz").await;
            if said.as_ref().is_some_and(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "it says {said:?}");
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
async fn it_sells_when_it_is_ready_and_ends_with_its_last_answer() {
    let shop = shop::Shop::new().await;
    let sale = shop.sell(3, open()).await;
    let mut program = Program::start(&shop.mysql_url, &shop.topic);
    program.until(&shop, |(status, _)| *status == 200).await;
    let key = key();
    let bought = shop.buy_at(&format!("http://{}", program.v1), &sale, &key).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    // Any other process answers the retry with the same order.
    assert_eq!(shop.buy(&sale, &key).await.body, bought.body);
    let (status, metrics) = program.says(&shop, program.admin, "/metrics").await.expect("answers");
    assert_eq!(status, 200);
    for line in [
        r#"seckill_api_answers_total{route="/v1/sales/{namespace}/{name}/orders",status="201",code="ok"} 1"#,
        "seckill_api_purchase_seconds_count 1",
        "seckill_api_read_back_seconds_count 1",
        "seckill_api_batch_orders_count 1",
        r#"seckill_api_tail_lag_records{partition="0"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }

    program.terminate();
    program
        .until(&shop, |(status, why)| *status == 503 && why.contains("shutting down"))
        .await;
    // Until every proxy has heard of it, requests still come.
    let (status, _) = program.says(&shop, program.v1, &path(&sale)).await.expect("answers");
    assert_eq!(status, 200);
    let ended = tokio::task::spawn_blocking(move || program.child.wait().expect("ends")).await;
    assert!(ended.expect("no panic").success());
}

#[tokio::test]
async fn it_says_that_it_waits_for_the_schema() {
    let shop = shop::Shop::new().await;
    let config = new_topic().await;
    let empty = new_database().await;
    let program = Program::start(&empty, &config.topic);
    program
        .until(&shop, |(status, why)| {
            *status == 503 && why.contains("order-worker migrate")
        })
        .await;
    seckill_ledger::migrate(&empty).await.expect("migrates");
    program.until(&shop, |(status, _)| *status == 200).await;
}
