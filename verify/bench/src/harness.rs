//! The servers, the sales, and the programs of a scenario.
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use seckill_ledger::{Ledger, NewSale, Offer, Sale, SaleTerms};
use seckill_load::Target;
use seckill_order_log::{LogConfig, OrderLog, ensure_topic};
use seckill_protocol::index::{Request, SaleState};
use seckill_protocol::{Buyer, Epoch, Format, KeyHash, Record};
use seckill_stock::{Install, Installed, StockClient};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::client::{RecordedResponse, get_status};

const CLASS: &str = "bench";
pub const NAMESPACE: &str = "bench";
const PARTITIONS: u32 = 8;
const ORDER_NO_KEYS: &str = "1:00112233445566778899aabbccddeeff";
const HOUR: u64 = 3_600_000;
/// Time limit for a program or server to reach a state. Everything here takes far less.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// A database and a topic of its own, on the servers of the environment.
pub struct Harness {
    pub ledger: Ledger,
    pub log: OrderLog,
    pub stock: StockClient,
    pub config: LogConfig,
    pub mysql_url: String,
    pub redis_url: String,
    name: String,
    logs: PathBuf,
}

/// A sale with its index in force.
pub struct ActiveSale {
    pub sale: Sale,
    pub epoch: Epoch,
}

impl ActiveSale {
    pub fn path(&self) -> String {
        format!("{NAMESPACE}/{}", self.sale.name)
    }
}

/// The terms of an open sale: from an hour ago to in an hour.
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

pub fn not_started() -> SaleTerms {
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

/// A request for one unit of a buyer of its own.
pub fn new_request() -> Request {
    let key = Uuid::new_v4().to_string();
    Request {
        buyer: Buyer::anonymous(&key),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(&key),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

pub fn environment(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set; run `cargo xtask bench`"))
}

/// The servers of the environment, with their versions.
pub async fn servers() -> Result<String> {
    let mut mysql = MySqlConnection::connect(&environment("SECKILL_TEST_MYSQL_URL")?).await?;
    let version: String = sqlx::query_scalar("SELECT @@version").fetch_one(&mut mysql).await?;
    let kind = if version.contains("MariaDB") {
        "MariaDB"
    } else {
        "MySQL"
    };
    let mysql = format!("{kind} {version}");
    let client = redis::Client::open(environment("SECKILL_TEST_REDIS_URL")?)?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut redis).await?;
    let value_of = |field: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let (redis, valkey) = (value_of("redis_version:"), value_of("valkey_version:"));
    let redis = if valkey.is_empty() {
        format!("Redis {redis}")
    } else {
        format!("Valkey {valkey}")
    };
    let kafka = std::env::var("SECKILL_KAFKA_VERSION").map(|version| format!(", Kafka {version}"));
    Ok(format!("{mysql}, {redis}{}", kafka.unwrap_or_default()))
}

impl Harness {
    pub async fn new() -> Result<Self> {
        let name = format!("seckill_bench_{:08x}", rand::random::<u32>());
        let (mysql, redis_url) = (
            environment("SECKILL_TEST_MYSQL_URL")?,
            environment("SECKILL_TEST_REDIS_URL")?,
        );
        let (server, _) = mysql.rsplit_once('/').context("a URL with a database")?;
        let mysql_url = format!("{server}/{name}");
        let mut admin = MySqlConnection::connect(&mysql).await?;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        seckill_ledger::migrate(&mysql_url).await?;
        let config = LogConfig {
            brokers: environment("SECKILL_TEST_KAFKA")?,
            topic: name.clone(),
            properties: Vec::new(),
        };
        ensure_topic(&config, PARTITIONS, 1, 1).await?;
        let logs = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&logs)?;
        Ok(Harness {
            ledger: Ledger::connect(&mysql_url, 8).await?,
            log: OrderLog::connect(config.clone()).await?,
            stock: StockClient::connect(&redis_url).await?,
            config,
            mysql_url,
            redis_url,
            name,
            logs,
        })
    }

    /// Drops the database and the indexes. The topic stays: Kafka is slower for some time after a topic is deleted.
    pub async fn clean_up(&self) -> Result<()> {
        for sale in self.ledger.unfinished_sales(CLASS).await? {
            self.stock.drop_sale(sale.id).await?;
        }
        let mut admin = MySqlConnection::connect(&self.mysql_url).await?;
        admin
            .execute(AssertSqlSafe(format!("DROP DATABASE {}", self.name)))
            .await?;
        Ok(std::fs::remove_dir_all(&self.logs)?)
    }

    pub async fn mysql(&self) -> Result<MySqlConnection> {
        Ok(MySqlConnection::connect(&self.mysql_url).await?)
    }

    /// Creates a sale in the ledger, without an index.
    pub async fn announce(&self, units: u64, terms: SaleTerms) -> Result<Sale> {
        self.announce_on(rand::random::<u32>() % PARTITIONS, units, terms).await
    }

    async fn announce_on(&self, partition: u32, units: u64, terms: SaleTerms) -> Result<Sale> {
        self.announce_to(None, partition, units, terms).await
    }

    async fn announce_to(&self, issuer: Option<&str>, partition: u32, units: u64, terms: SaleTerms) -> Result<Sale> {
        let new = NewSale {
            cluster: None,
            class: CLASS.into(),
            namespace: NAMESPACE.into(),
            name: format!("sale-{:08x}", rand::random::<u32>()),
            uid: Uuid::new_v4().to_string(),
            partition,
            format: if issuer.is_some() { Format(2) } else { Format::FIRST },
            terms,
            offer: Offer {
                item: json!({"sku": "p1", "name": "Phone", "price": "499.00", "currency": "EUR"}),
                item_id: None,
                issuer: issuer.map(str::to_owned),
                tiers: None,
                price: "499.00".into(),
                currency: "EUR".into(),
                offered: units,
            },
        };
        Ok(self.ledger.create_sale(&new).await?)
    }

    /// Creates a sale and installs its index, as the operator does for a new sale.
    pub async fn offer(&self, units: u64, terms: SaleTerms) -> Result<ActiveSale> {
        self.offer_on(rand::random::<u32>() % PARTITIONS, units, terms).await
    }

    pub async fn offer_on(&self, partition: u32, units: u64, terms: SaleTerms) -> Result<ActiveSale> {
        let sale = self.announce_on(partition, units, terms).await?;
        self.put_in_force(sale, units).await
    }

    /// The same for buyers with a token of this issuer.
    pub async fn offer_to(&self, issuer: &str, units: u64, terms: SaleTerms) -> Result<ActiveSale> {
        let partition = rand::random::<u32>() % PARTITIONS;
        let sale = self.announce_to(Some(issuer), partition, units, terms).await?;
        self.put_in_force(sale, units).await
    }

    async fn put_in_force(&self, sale: Sale, units: u64) -> Result<ActiveSale> {
        let barrier = Record::Barrier {
            sale: sale.id,
            nonce: Uuid::new_v4().to_string(),
        };
        let epoch = Epoch(self.log.append(sale.partition, &barrier).await?);
        let total = Record::Total {
            sale: sale.id,
            total: units,
        };
        self.log.append(sale.partition, &total).await?;
        let index = Install {
            epoch,
            total: units,
            left: units,
            holders: 0,
            orders: 0,
            taken: Vec::new(),
            terms: sale.terms(),
        };
        let installed = self.stock.install(sale.id, &index).await?;
        ensure!(installed == Installed::Done, "the index is refused: {installed:?}");
        self.ledger.set_live_epoch(sale.id, epoch).await?;
        Ok(ActiveSale { sale, epoch })
    }

    /// Waits until the ledger has read the whole log. Checks that each number given out is stored once, and that no more
    /// units are sold than were offered.
    pub async fn check(&self, sale: &ActiveSale, promised: u64) -> Result<(), String> {
        self.wait_until_stored(sale.sale.partition)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let sql = "SELECT COUNT(*), COALESCE(CAST(SUM(quantity) AS SIGNED), 0) FROM orders WHERE sale = ?";
        let counted = async {
            let mut mysql = self.mysql().await?;
            let query = sqlx::query_as::<_, (i64, i64)>(sql).bind(sale.sale.id.0);
            anyhow::Ok(query.fetch_one(&mut mysql).await?)
        };
        let (orders, units) = counted.await.map_err(|error| format!("{error:#}"))?;
        let offered = i64::try_from(sale.sale.offered).unwrap_or(i64::MAX);
        match i64::try_from(promised) {
            Ok(promised) if promised == orders && units <= offered => Ok(()),
            _ => Err(format!(
                "{promised} orders were promised, {orders} are stored; {units} of {offered} units"
            )),
        }
    }

    /// Waits until everything that a partition holds now is stored. Returns when that was.
    pub async fn wait_until_stored(&self, partition: u32) -> Result<Instant> {
        let started = Instant::now();
        let end = self.log.end_offset(partition).await?;
        loop {
            let positions = self.ledger.positions().await?;
            if positions.iter().any(|(of, at)| *of == partition && *at >= end) {
                return Ok(Instant::now());
            }
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "order-worker does not store partition {partition}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the outbox is empty: everything in it was stored.
    pub async fn wait_until_trimmed(&self, sale: &ActiveSale) -> Result<()> {
        let started = Instant::now();
        while !self.stock.outbox(sale.sale.id, sale.epoch, 0, 1).await?.is_empty() {
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "order-worker does not trim the outbox"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Bytes that Redis has in use.
    pub async fn redis_memory(&self) -> Result<f64> {
        let client = redis::Client::open(self.redis_url.as_str())?;
        let mut redis = client.get_multiplexed_async_connection().await?;
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.context("used_memory")?.trim().parse()?)
    }

    pub async fn api(&self) -> Result<Program> {
        self.api_with(&[]).await
    }

    /// With more variables.
    pub async fn api_with(&self, more: &[(&str, String)]) -> Result<Program> {
        let (address, admin) = (free_address()?, free_address()?);
        let own = [
            ("SECKILL_LISTEN", address.to_string()),
            ("SECKILL_ADMIN_LISTEN", admin.to_string()),
        ];
        let variables = [&own, more].concat();
        let program = self.program("seckill-api", &variables, Some(address))?;
        program.wait_until_ready(admin).await?;
        Ok(program)
    }

    /// A file of this run.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.logs.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    pub async fn worker(&self) -> Result<Program> {
        let admin = free_address()?;
        let variables = [
            ("SECKILL_WORKER_GROUP", self.name.clone()),
            ("SECKILL_ADMIN_LISTEN", admin.to_string()),
        ];
        let program = self.program("order-worker", &variables, None)?;
        program.wait_until_ready(admin).await?;
        Ok(program)
    }

    /// Starts one of the three programs, from the folder of this one.
    pub fn program(&self, name: &str, variables: &[(&str, String)], address: Option<SocketAddr>) -> Result<Program> {
        let path = std::env::current_exe()?.with_file_name(name);
        let mut command = Command::new(&path);
        if name != "seckill-api" {
            command.arg("run");
        }
        command
            .env("SECKILL_CLASS", CLASS)
            .env("SECKILL_MYSQL_URL", &self.mysql_url)
            .env("SECKILL_REDIS_URL", &self.redis_url)
            .env("SECKILL_KAFKA_BROKERS", &self.config.brokers)
            .env("SECKILL_KAFKA_TOPIC", &self.config.topic)
            .env("SECKILL_ORDER_NO_KEYS", ORDER_NO_KEYS)
            .env("SECKILL_ADMIN_LISTEN", free_address()?.to_string())
            .envs(variables.iter().map(|(name, value)| (name, value)));
        Program::start(
            command,
            &self.logs.join(format!("{name}-{:08x}", rand::random::<u32>())),
            address,
        )
    }

    /// Starts the HTTP server that answers every purchase with a recorded response.
    pub async fn limit(&self, response: &RecordedResponse) -> Result<Program> {
        let (address, file) = (free_address()?, self.logs.join("answer.json"));
        std::fs::write(&file, serde_json::to_vec(response)?)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["limit", "--listen", &address.to_string(), "--answer"])
            .arg(&file);
        let program = Program::start(command, &self.logs.join("limit"), Some(address))?;
        program.wait_until_listening(address).await?;
        Ok(program)
    }
}

pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A running program. It is killed when this value is dropped.
pub struct Program {
    child: Child,
    pub address: Option<SocketAddr>,
    log: PathBuf,
}

impl Program {
    fn start(mut command: Command, log: &Path, address: Option<SocketAddr>) -> Result<Self> {
        let log = log.with_extension("log");
        let file = std::fs::File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("failed to run {command:?}"))?;
        Ok(Program { child, address, log })
    }

    async fn wait_until_listening(&self, address: SocketAddr) -> Result<()> {
        let started = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if started.elapsed() > WAIT_TIMEOUT {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the program does not listen at {address}; its log:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    async fn wait_until_ready(&self, admin: SocketAddr) -> Result<()> {
        self.wait_until_listening(admin).await?;
        let started = Instant::now();
        while get_status(admin, "/readyz").await? != 200 {
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "the program did not become ready; see {}",
                self.log.display()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub async fn target(&self) -> Result<Target> {
        let address = self.address.context("the program does not serve buyers")?;
        Ok(Target::resolve(&format!("http://{address}"), &[]).await?)
    }

    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the program has ended")
    }
}
