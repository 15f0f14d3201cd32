//! A complete API on real servers, with its own database and topic. The other programs are in `other_programs`.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use seckill_api::api::{Api, Servers, Telemetry};
use seckill_api::buyers::Buyers;
use seckill_api::catalogue::Catalogue;
use seckill_api::metrics::Metrics;
use seckill_api::partitions::follow_added;
use seckill_api::rate_limit::{RateLimitConfig, RateLimits};
use seckill_api::server::ConnectionLimits;
use seckill_api::{routes, server};
use seckill_ledger::{Ledger, Sale, SaleTerms};
use seckill_order_log::{LogConfig, OrderLog, Tail, ensure_topic};
use seckill_protocol::OrderNoKeys;
use seckill_protocol::index::SaleState;
use seckill_service::metrics::registry::Registry;
use seckill_service::{Clock, Health, Shutdown};
use seckill_stock::StockClient;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::{Request, Response};
use crate::proxy::Proxy;

pub const PART: u32 = 0;
pub const ORDER_NO_KEYS: &str = "1:00112233445566778899aabbccddeeff";
pub const CLASS: &str = "default";
const HOUR: u64 = 3_600_000;

pub struct Harness {
    pub v1: SocketAddr,
    legacy: SocketAddr,
    pub mysql_url: String,
    pub topic: String,
    pub ledger: Ledger,
    pub stock: StockClient,
    pub log: OrderLog,
    pub catalogue: Arc<Catalogue>,
    pub metrics: Arc<Metrics>,
    pub api: Arc<Api>,
    shutdown: Shutdown,
}

/// How a harness differs from the usual one.
#[derive(Default)]
struct Options {
    /// Reads this topic instead of the one that it writes.
    tail: Option<LogConfig>,
    connections: ConnectionLimits,
    max_purchases: Option<usize>,
    /// Instead of the Redis that all tests share.
    redis_url: Option<String>,
    rate_limits: RateLimitConfig,
    /// Pages of these origins may call the API, instead of those of https://shop.example.
    origins: Option<String>,
    /// Sells to buyers with an identity too.
    buyers: Option<Buyers>,
}

/// Between the API and its servers. The test itself does not use them.
pub struct Proxies {
    pub redis: Proxy,
    pub mysql: Proxy,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // The database of a failed test stays for inspection.
        if !std::thread::panicking() {
            let url = self.mysql_url.clone();
            let dropped = std::thread::spawn(move || drop_database(&url)).join();
            dropped.expect("the database is dropped");
        }
    }
}

pub fn now() -> u64 {
    Clock::system().now()
}

pub fn key() -> String {
    Uuid::new_v4().to_string()
}

/// Open since one hour and for one more hour.
pub fn open() -> SaleTerms {
    SaleTerms {
        state: SaleState::Open,
        opens_at: now() - HOUR,
        closes_at: now() + HOUR,
        limit_per_buyer: 0,
        max_per_order: 0,
        orders_ever_max: 0,
        tier_limits: Default::default(),
    }
}

pub fn not_open_yet() -> SaleTerms {
    SaleTerms {
        opens_at: now() + HOUR / 2,
        ..open()
    }
}

pub fn over() -> SaleTerms {
    SaleTerms {
        closes_at: now() - HOUR / 2,
        ..open()
    }
}

pub fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run `cargo xtask test integration`"))
}

/// Creates an empty database and returns its URL.
pub async fn new_database() -> String {
    let url = environment("SECKILL_TEST_MYSQL_URL");
    let name = format!("test_api_{:016x}", rand::random::<u64>());
    let mut connection = MySqlConnection::connect(&url).await.expect("MySQL answers");
    connection
        .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .await
        .expect("may create databases");
    let mut url = url::Url::parse(&url).expect("a URL");
    url.set_path(&name);
    url.to_string()
}

/// Drops a database, in a new runtime: [`Drop`] can't wait for a future.
fn drop_database(url: &str) {
    let name = url::Url::parse(url)
        .expect("a URL")
        .path()
        .trim_start_matches('/')
        .to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut connection = MySqlConnection::connect(url).await.expect("MySQL answers");
        // The runtime of the test stands still meanwhile. A transaction that it has begun would keep its locks for ever.
        // `information_schema.processlist` fails (3854) while any query in the server has binary parameters.
        let others = "SELECT processlist_id FROM performance_schema.threads WHERE processlist_db = ? \
                      AND processlist_id <> CONNECTION_ID()";
        let others: Vec<u64> = sqlx::query_scalar(others)
            .bind(&name)
            .fetch_all(&mut connection)
            .await
            .expect("may list connections");
        for id in others {
            // It may have ended by itself.
            let _ = connection.execute(AssertSqlSafe(format!("KILL {id}"))).await;
        }
        let drop = AssertSqlSafe(format!("DROP DATABASE {name}"));
        connection.execute(drop).await.expect("may drop databases");
    });
}

pub async fn new_topic() -> LogConfig {
    let config = LogConfig {
        brokers: environment("SECKILL_TEST_KAFKA"),
        topic: format!("test-api-{:016x}", rand::random::<u64>()),
        properties: Vec::new(),
    };
    ensure_topic(&config, 1, 1, 1).await.expect("creates a topic");
    config
}

impl Harness {
    pub async fn start() -> Harness {
        Self::start_with(Options::default()).await
    }

    pub async fn with_redis(redis_url: &str) -> Harness {
        Self::start_with(Options {
            redis_url: Some(redis_url.to_owned()),
            ..Options::default()
        })
        .await
    }

    /// Never reads the records that it writes, as if Kafka accepted records and did not deliver them.
    pub async fn without_read_back() -> Harness {
        let tail = Some(new_topic().await);
        Self::start_with(Options {
            tail,
            ..Options::default()
        })
        .await
    }

    /// At most so many purchases are in progress, and none is ever read back.
    pub async fn with_max_purchases(max: usize) -> Harness {
        Self::start_with(Options {
            tail: Some(new_topic().await),
            max_purchases: Some(max),
            ..Options::default()
        })
        .await
    }

    pub async fn with_connection_limits(connections: ConnectionLimits) -> Harness {
        Self::start_with(Options {
            connections,
            ..Options::default()
        })
        .await
    }

    /// The API reaches Redis and MySQL through proxies.
    pub async fn with_proxies() -> (Harness, Proxies) {
        let mysql_url = new_database().await;
        let proxies = Proxies {
            redis: Proxy::start(&environment("SECKILL_TEST_REDIS_URL")).await,
            mysql: Proxy::start(&mysql_url).await,
        };
        let harness = Self::connect(Options::default(), mysql_url, Some(&proxies)).await;
        (harness, proxies)
    }

    pub async fn with_buyers(buyers: Buyers, rate_limits: RateLimitConfig) -> Harness {
        Self::start_with(Options {
            buyers: Some(buyers),
            rate_limits,
            ..Options::default()
        })
        .await
    }

    pub async fn with_rate_limits(rate_limits: RateLimitConfig) -> Harness {
        Self::start_with(Options {
            rate_limits,
            ..Options::default()
        })
        .await
    }

    pub async fn with_origins(origins: &str) -> Harness {
        Self::start_with(Options {
            origins: Some(origins.to_owned()),
            ..Options::default()
        })
        .await
    }

    async fn start_with(options: Options) -> Harness {
        Self::connect(options, new_database().await, None).await
    }

    async fn connect(options: Options, mysql_url: String, proxies: Option<&Proxies>) -> Harness {
        seckill_ledger::migrate(&mysql_url).await.expect("migrates");
        let config = new_topic().await;
        let redis_url = options
            .redis_url
            .unwrap_or_else(|| environment("SECKILL_TEST_REDIS_URL"));
        let ledger = Ledger::connect(&mysql_url, 8).await.expect("MySQL answers");
        let log = OrderLog::connect(config.clone()).await.expect("Kafka answers");
        let start = ledger.reader_start(log.partitions()).await.expect("MySQL answers");
        let tail_config = options.tail.unwrap_or_else(|| config.clone());
        let tail = Tail::spawn(tail_config, start, CancellationToken::new()).expect("starts");
        let stock = StockClient::connect(&redis_url).await.expect("Redis answers");
        tail.caught_up().await;
        let api_tail = tail.clone();
        let (api_ledger, api_stock) = match proxies {
            None => (ledger.clone(), stock.clone()),
            Some(Proxies { redis, mysql }) => (
                Ledger::connect(&mysql.url, 8).await.expect("MySQL answers"),
                StockClient::connect(&redis.url).await.expect("Redis answers"),
            ),
        };

        let shutdown = Shutdown::new();
        let catalogue = Arc::new(Catalogue::new(
            api_ledger.clone(),
            CLASS.into(),
            Health::new().gate("format"),
        ));
        let order_no_keys: OrderNoKeys = ORDER_NO_KEYS.parse().expect("keys");
        let servers = Servers {
            stock: api_stock,
            log: log.clone(),
            tail,
            ledger: api_ledger,
        };
        let metrics = Metrics::register(&mut Registry::default());
        let max_purchases = options.max_purchases.unwrap_or(1000);
        let api = Api::new(
            servers,
            catalogue.clone(),
            order_no_keys,
            options.buyers.unwrap_or_else(Buyers::anonymous_only),
            max_purchases,
            Telemetry {
                metrics: metrics.clone(),
                traced: Arc::default(),
            },
            RateLimits::new(options.rate_limits),
        );
        let added = follow_added(log.clone(), api_tail, ledger.clone(), shutdown.clone());
        tokio::spawn(added);
        let (followed, until) = (catalogue.clone(), shutdown.clone());
        tokio::spawn(async move { followed.follow(until).await });
        let origins = options.origins.as_deref().unwrap_or("https://shop.example");
        let cors = origins.parse().expect("origins");
        let serve = |routes| serve(routes, options.connections, metrics.clone(), &shutdown);
        Harness {
            v1: serve(routes::v1(api.clone(), Some(cors))).await,
            legacy: serve(routes::legacy::router(api.clone())).await,
            mysql_url,
            topic: config.topic,
            ledger,
            stock,
            log,
            catalogue,
            metrics,
            api,
            shutdown,
        }
    }

    /// Runs a statement in MySQL.
    pub async fn execute(&self, sql: &str) {
        let mut connection = MySqlConnection::connect(&self.mysql_url).await.expect("MySQL answers");
        let statement = AssertSqlSafe(sql.to_owned());
        connection.execute(statement).await.expect("a valid statement");
    }

    /// A failover of MySQL to a replica that has nothing of any sale.
    pub async fn lose_all_rows(&self) {
        let mut connection = MySqlConnection::connect(&self.mysql_url).await.expect("MySQL answers");
        let lose = "START TRANSACTION; DELETE FROM orders; DELETE FROM effects; DELETE FROM sales; \
                    DELETE FROM log_position; COMMIT";
        connection.execute(lose).await.expect("MySQL answers");
        self.refresh().await;
    }

    /// A person adds a partition to the topic.
    pub async fn add_partition(&self) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", environment("SECKILL_TEST_KAFKA"))
            .create()
            .expect("a client");
        let more = NewPartitions::new(&self.topic, self.log.partitions() as usize + 1);
        let added = admin.create_partitions([&more], &AdminOptions::new()).await;
        added.expect("Kafka answers")[0].as_ref().expect("added");
    }

    pub async fn refresh(&self) {
        assert!(
            self.catalogue.refresh(Duration::from_secs(10)).await,
            "the catalogue is refreshed"
        );
    }

    pub async fn send(&self, request: Request) -> Response {
        request.send(self.v1).await.expect("a response")
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Request::get(path)).await
    }

    pub async fn buy(&self, sale: &Sale, key: &str) -> Response {
        self.buy_several(sale, key, 1).await
    }

    pub async fn buy_several(&self, sale: &Sale, key: &str, quantity: u32) -> Response {
        self.send(purchase(sale, key, quantity)).await
    }

    pub async fn earlier(&self, sale: &Sale, key: &str) -> Response {
        let line = format!("GET {}/request", path(sale));
        self.send(Request::new(line, &[&key_header(key)], "")).await
    }

    /// Cancels, while a loop stores the records as order-worker does.
    pub async fn cancel(&self, number: &str) -> Response {
        let request = Request::new(format!("DELETE /v1/orders/{number}"), &[], "");
        self.while_storing(self.send(request)).await
    }

    /// Waits for a future, while a loop stores the records as order-worker does.
    pub async fn while_storing<T>(&self, future: impl Future<Output = T>) -> T {
        let store = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.store().await;
            }
        };
        tokio::select! {
            output = future => output,
            () = store => unreachable!("the loop has no end"),
        }
    }

    /// A request to the routes of the old demo.
    pub async fn legacy(&self, line: &str, body: &str) -> Response {
        let request = Request::new(line, &[], body);
        request.send(self.legacy).await.expect("a response")
    }
}

pub fn path(sale: &Sale) -> String {
    format!("/v1/sales/{}/{}", sale.namespace, sale.name)
}

pub fn key_header(key: &str) -> String {
    format!("Idempotency-Key: {key}")
}

pub fn purchase(sale: &Sale, key: &str, quantity: u32) -> Request {
    let headers = ["Content-Type: application/json", &key_header(key)];
    let body = json!({ "quantity": quantity }).to_string();
    Request::new(format!("POST {}/orders", path(sale)), &headers, body)
}

async fn serve(
    routes: axum::Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    shutdown: &Shutdown,
) -> SocketAddr {
    let listener = server::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(server::serve(listener, routes, limits, metrics, shutdown.clone()));
    address
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
