//! The harness of a test: its own database and topic, and workers as processes.
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use seckill_ledger::{Ledger, NewSale, Offer, Sale, SaleTerms};
use seckill_order_log::{LogConfig, OrderLog};
use seckill_protocol::index::SaleState;
use seckill_protocol::{Batch, Buyer, Epoch, Format, KeyHash, Offset, Order, Record, SaleId, Seq};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

pub const PARTITIONS: u32 = 2;
/// Far longer than any step takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn server(variable: &str, example: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; example: {example}"))
}

pub struct Harness {
    pub url: String,
    pub redis: String,
    pub kafka: String,
    pub topic: String,
    pub ledger: Ledger,
    pub log: OrderLog,
    database: String,
}

impl Harness {
    pub async fn new() -> Self {
        let mysql = server("SECKILL_TEST_MYSQL_URL", "mysql://user:password@127.0.0.1:3306/db");
        let kafka = server("SECKILL_TEST_KAFKA", "127.0.0.1:9092");
        let redis = server("SECKILL_TEST_REDIS_URL", "redis://127.0.0.1:6379");
        let name = format!("seckill_worker_{:016x}", rand::random::<u64>());
        let (base, _) = mysql.rsplit_once('/').expect("a URL with a database");
        let url = format!("{base}/{name}");
        let mut admin = MySqlConnection::connect(&mysql).await.expect("MySQL");
        admin
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .await
            .expect("created");
        assert!(migrate(&url, &kafka, &name, "1", &[]).success());
        let config = LogConfig {
            brokers: kafka.clone(),
            topic: name.clone(),
            properties: Vec::new(),
        };
        let log = OrderLog::connect(config).await.expect("Kafka");
        let ledger = Ledger::connect(&url, 4).await.expect("MySQL");
        Harness {
            url,
            redis,
            kafka,
            topic: name.clone(),
            ledger,
            log,
            database: name,
        }
    }

    pub async fn execute(&self, sql: &str) {
        let mut connection = MySqlConnection::connect(&self.url).await.expect("MySQL");
        connection.execute(AssertSqlSafe(sql.to_string())).await.expect(sql);
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = MySqlConnection::connect(&self.url).await.expect("MySQL");
        sqlx::query_scalar(AssertSqlSafe(sql.to_string()))
            .fetch_one(&mut connection)
            .await
            .expect(sql)
    }

    pub async fn orders(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM orders").await
    }

    /// Waits until this number of orders is stored, and checks that there are not more.
    pub async fn wait_for_orders(&self, orders: i64) {
        let begun = Instant::now();
        while self.orders().await < orders {
            assert!(
                begun.elapsed() < WAIT_TIMEOUT,
                "{} of {orders} orders",
                self.orders().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.orders().await, orders);
    }

    /// Appends a record to the log. Returns its offset.
    pub async fn append(&self, partition: u32, record: &Record) -> Offset {
        self.log.append(partition, record).await.expect("appended")
    }

    /// A sale with its identity, its total and its first epoch in the log.
    pub async fn sale(&self, partition: u32, total: u64) -> (Sale, Epoch) {
        let new = NewSale {
            cluster: None,
            class: "default".into(),
            namespace: "shop".into(),
            name: format!("sale-{:016x}", rand::random::<u64>()),
            uid: "8f0c2f5e-0000-4000-8000-000000000000".into(),
            partition,
            format: Format::FIRST,
            terms: SaleTerms {
                state: SaleState::Open,
                opens_at: 1,
                closes_at: 4_000_000_000_000,
                limit_per_buyer: 0,
                max_per_order: 0,
                orders_ever_max: 0,
                tier_limits: Default::default(),
            },
            offer: Offer {
                item: serde_json::json!({"sku": "p1"}),
                item_id: None,
                issuer: None,
                tiers: None,
                price: "9.90".into(),
                currency: "EUR".into(),
                offered: total,
            },
        };
        let sale = self.ledger.create_sale(&new).await.expect("created");
        self.append(partition, &Record::Identity(Box::new(sale.identity())))
            .await;
        self.append(partition, &Record::Total { sale: sale.id, total }).await;
        let barrier = Record::Barrier {
            sale: sale.id,
            nonce: "n".into(),
        };
        let epoch = Epoch(self.append(partition, &barrier).await);
        (sale, epoch)
    }

    /// The same with other brokers.
    pub async fn with_kafka(&self, kafka: &str) -> Harness {
        let config = LogConfig {
            brokers: kafka.into(),
            ..self.log.config().clone()
        };
        Harness {
            url: self.url.clone(),
            redis: self.redis.clone(),
            kafka: kafka.into(),
            topic: self.topic.clone(),
            ledger: self.ledger.clone(),
            log: OrderLog::connect(config).await.expect("Kafka"),
            database: self.database.clone(),
        }
    }

    /// Another program writes a transaction without a record. Returns the offset of its marker.
    pub async fn foreign_transaction(&self, partition: u32) -> Offset {
        let (kafka, topic) = (self.kafka.clone(), self.topic.clone());
        let before = self.log.end_offset(partition).await.expect("Kafka");
        let writing = move || {
            let timeout = Duration::from_secs(20);
            let producer: BaseProducer = ClientConfig::new()
                .set("bootstrap.servers", &kafka)
                .set("transactional.id", &topic)
                .create()
                .expect("valid");
            producer.init_transactions(timeout).expect("is allowed");
            producer.begin_transaction().expect("begins");
            let record = BaseRecord::<(), [u8]>::to(&topic)
                .partition(partition as i32)
                .payload(b"{}");
            producer.send(record).map_err(|(error, _)| error).expect("queues");
            producer.commit_transaction(timeout).expect("commits");
        };
        tokio::task::spawn_blocking(writing).await.expect("does not panic");
        // The marker arrives after the commit.
        while self.log.end_offset(partition).await.expect("Kafka") < before + 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        before + 1
    }

    /// A person adds partitions to the topic.
    pub async fn add_partitions(&self, partitions: u32) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .create()
            .expect("Kafka");
        let more = NewPartitions::new(&self.topic, partitions as usize);
        let added = admin.create_partitions([&more], &AdminOptions::new()).await;
        added.expect("answers")[0].as_ref().expect("added");
        while self.log.refresh_partitions().await.expect("Kafka") < partitions {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Not called when a test fails, so that its database can be inspected.
    pub async fn drop(self) {
        self.execute(&format!("DROP DATABASE {}", self.database)).await;
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .create()
            .expect("Kafka");
        admin
            .delete_topics(&[&self.topic], &AdminOptions::new())
            .await
            .expect("deleted");
    }

    pub fn worker(&self) -> Worker {
        self.worker_with_mysql(&self.url)
    }

    pub fn worker_with_mysql(&self, url: &str) -> Worker {
        self.worker_with(url, &[])
    }

    /// A worker of another version: it speaks this format.
    pub fn worker_speaking(&self, format: u16, pod: &str) -> Worker {
        self.worker_with(&self.url, &["--spoken-format", &format.to_string(), "--pod-name", pod])
    }

    fn worker_with(&self, url: &str, more: &[&str]) -> Worker {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("bound");
        let process = program()
            .args([
                "--mysql-url",
                url,
                "--redis-url",
                &self.redis,
                "--kafka-brokers",
                &self.kafka,
            ])
            .args([
                "--kafka-topic",
                &self.topic,
                "--group",
                &self.topic,
                "--admin-listen",
                &free.to_string(),
            ])
            .args(["--log-format", "text"])
            .args(more)
            .spawn()
            .expect("started");
        Worker { process, admin: free }
    }
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-worker"));
    command.stdin(Stdio::null());
    command
}

pub fn migrate(url: &str, kafka: &str, topic: &str, min_insync: &str, more: &[&str]) -> std::process::ExitStatus {
    let partitions = PARTITIONS.to_string();
    program()
        .args([
            "migrate",
            "--migrate-mysql-url",
            url,
            "--kafka-brokers",
            kafka,
            "--kafka-topic",
            topic,
        ])
        .args(["--create-topic", "--topic-partitions", &partitions])
        .args(["--topic-replication", "1", "--topic-min-insync", min_insync])
        .args(more)
        .status()
        .expect("ran")
}

/// A worker process. It is killed when dropped.
pub struct Worker {
    process: Child,
    admin: SocketAddr,
}

impl Worker {
    pub fn kill(mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .expect("ran")
                .success()
        );
        self.process.wait().expect("ended").code()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("asked").is_none()
    }

    /// The body of /readyz, or of /metrics.
    pub async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.admin).await else {
            return "not listening".into();
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        if stream.write_all(request.as_bytes()).await.is_err() || stream.read_to_string(&mut answer).await.is_err() {
            return "no answer".into();
        }
        answer
            .split_once("\r\n\r\n")
            .map_or(answer.clone(), |(_, body)| body.into())
    }

    /// Waits until /metrics has this line. A metric follows what it counts.
    pub async fn wait_for_metric(&self, line: &str) {
        let begun = Instant::now();
        loop {
            let body = self.get("/metrics").await;
            if body.lines().any(|shown| shown == line) {
                return;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "no {line} in {body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the body of /readyz contains the text.
    pub async fn wait_until(&self, text: &str) {
        let begun = Instant::now();
        loop {
            let body = self.get("/readyz").await;
            if body.contains(text) {
                return;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "expected {text:?}, found {body:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn wait_until_ready(&self) {
        self.wait_until("ready\n").await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // This fails if the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn batch(sale: SaleId, epoch: Epoch, first: Seq, orders: u64) -> Record {
    let order = |seq| {
        let key = format!("key-{seq}");
        Order {
            buyer: Buyer::anonymous(&key),
            quantity: 1,
            tier: 0,
            key: KeyHash::of(&key),
        }
    };
    Record::Batch(Batch {
        sale,
        epoch,
        first,
        orders: (first..first + orders).map(order).collect(),
    })
}
