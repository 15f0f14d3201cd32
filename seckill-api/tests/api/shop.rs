//! A whole API on real servers, with a database and a topic of its own, and what the operator and the order-worker would
//! do for it.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use seckill_api::api::{Api, Servers};
use seckill_api::catalogue::Catalogue;
use seckill_api::metrics::Metrics;
use seckill_api::{routes, server};
use seckill_ledger::{Ledger, LogEntry, NewSale, Offer, Sale, SaleTerms};
use seckill_order_log::{Entry, LogConfig, OrderLog, Tail, ensure_topic};
use seckill_protocol::index::{Holding, SaleState};
use seckill_protocol::{Acceptance, Buyer, Epoch, Offset, OrderId, OrderNoKeys, Record, RecordVerdict};
use seckill_service::Shutdown;
use seckill_service::metrics::registry::Registry;
use seckill_stock::{Install, Installed, StockClient};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PART: u32 = 0;
pub const ORDER_NO_KEYS: &str = "1:00112233445566778899aabbccddeeff";
const CLASS: &str = "default";
const HOUR: u64 = 3_600_000;

pub struct Shop {
    pub v1: String,
    pub legacy: String,
    pub mysql_url: String,
    pub topic: String,
    pub ledger: Ledger,
    pub stock: StockClient,
    pub log: OrderLog,
    pub catalogue: Arc<Catalogue>,
    client: Client<HttpConnector, Full<Bytes>>,
    ended: Shutdown,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.ended.cancel();
        // The database of a test that failed can be looked at.
        if !std::thread::panicking() {
            let url = self.mysql_url.clone();
            let dropped = std::thread::spawn(move || drop_database(&url)).join();
            dropped.expect("its database goes");
        }
    }
}

/// An answer, its body as JSON if it is any.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn order_no(&self) -> &str {
        self.body["order_no"]
            .as_str()
            .unwrap_or_else(|| panic!("no order: {self:?}"))
    }

    #[track_caller]
    pub fn is(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{self:?}");
        self
    }
}

pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}

pub fn key() -> String {
    Uuid::new_v4().to_string()
}

/// Open since an hour, for an hour.
pub fn open() -> SaleTerms {
    SaleTerms {
        state: SaleState::Open,
        opens_at: now() - HOUR,
        closes_at: now() + HOUR,
        limit_per_buyer: 0,
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

/// An empty database; its URL.
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

/// For [`Drop`], which can't wait for a future: on a thread of its own.
fn drop_database(url: &str) {
    let name = url::Url::parse(url)
        .expect("a URL")
        .path()
        .trim_start_matches('/')
        .to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut connection = MySqlConnection::connect(url).await.expect("MySQL answers");
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

impl Shop {
    pub async fn new() -> Shop {
        let topic = new_topic().await;
        Self::reading(topic.clone(), topic).await
    }

    /// One that never reads what it writes, as when Kafka takes records and does not hand them out.
    pub async fn deaf() -> Shop {
        Self::reading(new_topic().await, new_topic().await).await
    }

    async fn reading(config: LogConfig, tail_of: LogConfig) -> Shop {
        let mysql_url = new_database().await;
        seckill_ledger::migrate(&mysql_url).await.expect("migrates");
        let ledger = Ledger::connect(&mysql_url, 8).await.expect("MySQL answers");
        let log = OrderLog::connect(config.clone()).await.expect("Kafka answers");
        let start = ledger.reader_start(log.partitions()).await.expect("MySQL answers");
        let tail = Tail::spawn(tail_of, start, CancellationToken::new()).expect("starts");
        let stock = StockClient::connect(&environment("SECKILL_TEST_REDIS_URL"))
            .await
            .expect("Redis answers");
        tail.caught_up().await;

        let ended = Shutdown::new();
        let catalogue = Arc::new(Catalogue::new(ledger.clone(), CLASS.into(), log.partitions()));
        let numbers: OrderNoKeys = ORDER_NO_KEYS.parse().expect("keys");
        let servers = Servers {
            stock: stock.clone(),
            log: log.clone(),
            tail,
            ledger: ledger.clone(),
        };
        let api = Api::new(
            servers,
            catalogue.clone(),
            numbers,
            Metrics::register(&mut Registry::default()),
        );
        let following = catalogue.clone();
        let until = ended.clone();
        tokio::spawn(async move { following.follow(until).await });
        Shop {
            v1: serve(routes::v1(api.clone()), &ended).await,
            legacy: serve(routes::legacy::router(api), &ended).await,
            mysql_url,
            topic: config.topic,
            ledger,
            stock,
            log,
            catalogue,
            client: Client::builder(TokioExecutor::new()).build_http(),
            ended,
        }
    }

    /// A sale in the ledger, and known to the API. Nothing sells it yet.
    pub async fn announce(&self, units: u64, terms: SaleTerms) -> Sale {
        self.announce_item(units, terms, None).await
    }

    pub async fn announce_item(&self, units: u64, terms: SaleTerms, item_id: Option<i64>) -> Sale {
        self.announce_on(PART, units, terms, item_id).await
    }

    pub async fn announce_on(&self, part: u32, units: u64, terms: SaleTerms, item_id: Option<i64>) -> Sale {
        let sale = self.write_sale(part, units, terms, item_id).await;
        self.refresh().await;
        sale
    }

    /// A sale in the ledger, of which the API was not told.
    pub async fn write_sale(&self, part: u32, units: u64, terms: SaleTerms, item_id: Option<i64>) -> Sale {
        let new = NewSale {
            class: CLASS.into(),
            namespace: "shop".into(),
            name: format!("sale-{:08x}", rand::random::<u32>()),
            uid: Uuid::new_v4().to_string(),
            part,
            terms,
            offer: Offer {
                item: json!({ "sku": "p1", "name": "Phone", "description": "A phone.", "price": "499.00" }),
                item_id,
                price: "499.00".into(),
                currency: "EUR".into(),
                offered: units,
            },
        };
        self.ledger.create_sale(&new).await.expect("MySQL answers")
    }

    /// A sale whose index is in force.
    pub async fn sell(&self, units: u64, terms: SaleTerms) -> Sale {
        let sale = self.announce(units, terms).await;
        self.preheat(&sale).await;
        sale
    }

    /// What the operator does, but for the folding: nothing was sold before.
    pub async fn preheat(&self, sale: &Sale) -> Epoch {
        let epoch = self.preheat_unnoticed(sale).await;
        self.refresh().await;
        epoch
    }

    pub async fn preheat_unnoticed(&self, sale: &Sale) -> Epoch {
        let epoch = self.barrier(sale).await;
        let total = Record::Total {
            sale: sale.id,
            total: sale.offered,
        };
        self.append(&total).await;
        self.put_in_force(sale, epoch).await;
        epoch
    }

    pub async fn barrier(&self, sale: &Sale) -> Epoch {
        let barrier = Record::Barrier {
            sale: sale.id,
            nonce: key(),
        };
        Epoch(self.append(&barrier).await)
    }

    /// An index without holdings, known to the API.
    pub async fn install(&self, sale: &Sale, epoch: Epoch) {
        self.put_in_force(sale, epoch).await;
        self.refresh().await;
    }

    async fn put_in_force(&self, sale: &Sale, epoch: Epoch) {
        let index = Install {
            epoch,
            total: sale.offered,
            left: sale.offered,
            holders: 0,
            terms: sale.terms(),
        };
        let installed = self.stock.install(sale.id, &index).await;
        assert_eq!(installed.expect("Redis answers"), Installed::Done);
        self.ledger.set_live_epoch(sale.id, epoch).await.expect("MySQL answers");
    }

    /// What the operator does when the index is lost or void: a barrier, and an index of all that stands before it.
    pub async fn rebuild(&self, sale: &Sale) {
        let epoch = self.barrier(sale).await;
        let start = self.ledger.fold_start(sale.id).await.expect("MySQL answers");
        let mut acceptance = Acceptance::starting_from([(sale.id, start.cut)]);
        let mut total = start.total;
        let mut orders: HashMap<OrderId, (Buyer, Holding)> = HashMap::new();
        let mut hold = |id: OrderId, buyer: Buyer, quantity, key| {
            let holding = Holding {
                epoch: id.epoch,
                seq: id.seq,
                quantity,
                key,
                cancelled: false,
            };
            orders.entry(id).or_insert((buyer, holding));
        };
        for (id, order) in start.orders {
            hold(id, order.buyer, order.quantity, order.key);
        }
        let each = |entry: Entry| {
            let record = entry.record.expect("a record");
            if record.sale() != sale.id || acceptance.judge(entry.offset, &record) == RecordVerdict::Void {
                return;
            }
            match record {
                Record::Batch(batch) => batch
                    .iter()
                    .for_each(|(id, order)| hold(id, order.buyer.clone(), order.quantity, order.key)),
                Record::Total { total: offered, .. } => total = total.max(offered),
                _ => {}
            }
        };
        self.log
            .read(PART, start.position, epoch.0, each)
            .await
            .expect("Kafka answers");
        let sold: u64 = orders.values().map(|(_, holding)| u64::from(holding.quantity)).sum();
        let mut holders: HashMap<Buyer, Vec<Holding>> = HashMap::new();
        for (buyer, holding) in orders.into_values() {
            holders.entry(buyer).or_default().push(holding);
        }
        let holders: Vec<_> = holders.into_iter().collect();
        self.stock
            .write_holdings(sale.id, epoch, &holders)
            .await
            .expect("Redis answers");
        let index = Install {
            epoch,
            total,
            left: total.checked_sub(sold).expect("no oversell"),
            holders: holders.len() as u64,
            terms: sale.terms(),
        };
        let installed = self.stock.install(sale.id, &index).await;
        assert_eq!(installed.expect("Redis answers"), Installed::Done);
        self.ledger.set_live_epoch(sale.id, epoch).await.expect("MySQL answers");
    }

    /// What the operator does when a FlashSale changes.
    pub async fn change(&self, sale: &Sale, terms: SaleTerms) {
        let now = self.row(sale).await;
        let changed = self.ledger.update_terms(sale.id, now.version, &terms).await;
        assert!(changed.expect("MySQL answers"));
        let now = self.row(sale).await;
        let epoch = now.live_epoch.expect("it sells");
        let applied = self.stock.apply(sale.id, epoch, &now.terms()).await;
        applied.expect("Redis answers");
        self.refresh().await;
    }

    /// What the operator and the order-worker do at the end of a sale.
    pub async fn settle(&self, sale: &Sale) {
        self.append(&Record::Close { sale: sale.id }).await;
        self.store().await;
        assert!(self.ledger.set_settled(sale.id, None).await.expect("MySQL answers"));
        self.stock.drop_sale(sale.id).await.expect("Redis answers");
    }

    pub async fn row(&self, sale: &Sale) -> Sale {
        let row = self.ledger.sale(sale.id).await.expect("MySQL answers");
        row.expect("is there")
    }

    pub async fn append(&self, record: &Record) -> Offset {
        self.log.append(PART, record).await.expect("Kafka answers")
    }

    /// Stores all that is in the log, as the order-worker does.
    pub async fn store(&self) {
        let from = self.ledger.ensure_position(PART).await.expect("MySQL answers");
        let to = self.log.end_offset(PART).await.expect("Kafka answers");
        if to == from {
            return;
        }
        let mut entries = Vec::new();
        let each = |entry: Entry| {
            entries.push(LogEntry {
                offset: entry.offset,
                timestamp_ms: entry.timestamp_ms,
                record: entry.record,
                payload: entry.payload,
            });
        };
        self.log.read(PART, from, to, each).await.expect("Kafka answers");
        self.ledger.store(PART, from, to, &entries).await.expect("stores");
    }

    pub async fn refresh(&self) {
        assert!(
            self.catalogue.refresh(Duration::from_secs(10)).await,
            "the catalogue is read"
        );
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.client.request(request).await.expect("answers");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("is whole").to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, &format!("{}{path}", self.v1), &[], ""))
            .await
    }

    /// Cancels, while the worker stores.
    pub async fn cancel(&self, number: &str) -> Answer {
        let url = format!("{}/v1/orders/{number}", self.v1);
        let stored = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.store().await;
            }
        };
        tokio::select! {
            answer = self.send(request(Method::DELETE, &url, &[], "")) => answer,
            () = stored => unreachable!("it stores for ever"),
        }
    }

    pub async fn buy(&self, sale: &Sale, key: &str) -> Answer {
        self.buy_several(sale, key, 1).await
    }

    pub async fn buy_several(&self, sale: &Sale, key: &str, quantity: u32) -> Answer {
        self.send(purchase(&self.v1, sale, key, quantity)).await
    }

    /// From another process.
    pub async fn buy_at(&self, v1: &str, sale: &Sale, key: &str) -> Answer {
        self.send(purchase(v1, sale, key, 1)).await
    }

    /// The status and the body as text, if anyone answers.
    pub async fn try_text(&self, url: &str) -> Option<(u16, String)> {
        let response = self.client.request(request(Method::GET, url, &[], "")).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    pub async fn earlier(&self, sale: &Sale, key: &str) -> Answer {
        let url = format!("{}{}/request", self.v1, path(sale));
        self.send(request(Method::GET, &url, &[("idempotency-key", key)], ""))
            .await
    }

    pub async fn old(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(method, &format!("{}{path}", self.legacy), &[], body))
            .await
    }
}

pub fn path(sale: &Sale) -> String {
    format!("/v1/sales/{}/{}", sale.namespace, sale.name)
}

fn purchase(v1: &str, sale: &Sale, key: &str, quantity: u32) -> Request<Full<Bytes>> {
    let url = format!("{v1}{}/orders", path(sale));
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    request(
        Method::POST,
        &url,
        &headers,
        json!({ "quantity": quantity }).to_string(),
    )
}

pub fn request(method: Method, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).expect("a request")
}

async fn serve(routes: axum::Router, ended: &Shutdown) -> String {
    let listener = server::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(server::serve(listener, routes, ended.clone()));
    format!("http://{address}")
}
