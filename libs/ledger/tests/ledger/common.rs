//! A database of its own for each test, on the server of SECKILL_TEST_MYSQL_URL.
use seckill_ledger::{Ledger, LogEntry, NewSale, Offer, Sale, SaleTerms};
use seckill_protocol::index::SaleState;
use seckill_protocol::{Batch, Buyer, Epoch, Format, KeyHash, Offset, Order, Record, SaleId, Seq};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

pub struct Database {
    pub ledger: Ledger,
    pub url: String,
    name: String,
}

impl Database {
    pub async fn new() -> Self {
        let server = std::env::var("SECKILL_TEST_MYSQL_URL")
            .expect("SECKILL_TEST_MYSQL_URL: mysql://user:password@host:port/db");
        let name = format!("seckill_ledger_{:016x}", rand::random::<u64>());
        let (base, _) = server.rsplit_once('/').expect("a URL with a database");
        let url = format!("{base}/{name}");
        let mut admin = MySqlConnection::connect(&server).await.expect("MySQL");
        admin
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .await
            .expect("created");
        seckill_ledger::migrate(&url).await.expect("migrated");
        let ledger = Ledger::connect(&url, 8).await.expect("connected");
        Database { ledger, url, name }
    }

    /// Runs a statement that the ledger never runs.
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

    /// Not called when a test fails, so that its database can be inspected.
    pub async fn drop(self) {
        self.execute(&format!("DROP DATABASE {}", self.name)).await;
    }

    /// A sale on a partition, open, of `total` units, and the entries with which its log begins.
    pub async fn sale(&self, partition: u32, total: u64) -> (Sale, Log) {
        let sale = self.ledger.create_sale(&new_sale(partition)).await.expect("created");
        assert_eq!(self.ledger.ensure_position(partition).await.expect("position"), 0);
        let mut log = Log::empty(partition, sale.id);
        log.push(Record::Total { sale: sale.id, total });
        log.barrier();
        (sale, log)
    }
}

pub fn new_sale(partition: u32) -> NewSale {
    NewSale {
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
            closes_at: 2_000_000_000_000,
            limit_per_buyer: 2,
            max_per_order: 3,
            orders_ever_max: 200,
            tier_limits: Default::default(),
        },
        offer: Offer {
            item: serde_json::json!({"sku": "p1", "name": "Ω phone"}),
            item_id: Some(7),
            issuer: None,
            tiers: None,
            price: "9.90".into(),
            currency: "EUR".into(),
            offered: 100,
        },
    }
}

/// A log in memory. Offsets are indices.
pub struct Log {
    pub partition: u32,
    pub sale: SaleId,
    pub entries: Vec<LogEntry>,
    pub epoch: Epoch,
}

impl Log {
    pub fn empty(partition: u32, sale: SaleId) -> Self {
        Log {
            partition,
            sale,
            entries: Vec::new(),
            epoch: Epoch(0),
        }
    }

    pub fn end(&self) -> Offset {
        self.entries.len() as Offset
    }

    pub fn push(&mut self, record: Record) {
        let payload = record.encode();
        self.push_bytes(payload);
    }

    pub fn push_bytes(&mut self, payload: Vec<u8>) {
        let record = Record::decode(&payload);
        let offset = self.end();
        self.entries.push(LogEntry {
            offset,
            timestamp_ms: 1_795_396_511_045,
            record,
            payload,
        });
    }

    pub fn barrier(&mut self) {
        self.epoch = Epoch(self.end());
        self.push(Record::Barrier {
            sale: self.sale,
            nonce: "n".into(),
        });
    }

    pub fn batch(&mut self, first: Seq, orders: usize) {
        let orders = (0..orders as Seq).map(|i| order(first + i)).collect();
        self.push(Record::Batch(Batch {
            sale: self.sale,
            epoch: self.epoch,
            first,
            orders,
        }));
    }

    pub fn cancel(&mut self, seq: Seq) {
        self.push(Record::Cancel {
            sale: self.sale,
            epoch: self.epoch,
            seq,
            reason: "buyer".into(),
        });
    }

    pub fn paid(&mut self, seq: Seq) {
        self.push(Record::Paid {
            sale: self.sale,
            epoch: self.epoch,
            seq,
            reference: "r".into(),
        });
    }
}

pub fn order(seq: Seq) -> Order {
    let key = format!("key-{seq}");
    Order {
        buyer: Buyer::anonymous(&key),
        quantity: 1,
        tier: (seq % 5) as u8,
        key: KeyHash::of(&key),
    }
}
