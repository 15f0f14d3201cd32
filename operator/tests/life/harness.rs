//! The environment of one test: a release with its own class, namespace, Deployments, database and topic. The operator
//! and the worker run in the test process.
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config, CustomResourceExt as _, Resource, ResourceExt};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use seckill_crds::{FlashSale, FlashSaleStatus, Phase};
use seckill_ledger::{Ledger, Sale};
use seckill_operator::args::{Args, Command};
use seckill_operator::emergency_stop;
use seckill_operator::folder::Folder;
use seckill_order_log::{Entry, LogConfig, OrderLog};
use seckill_protocol::index::{Decision, IndexState, Request};
use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{Batch, Buyer, FORMAT, Format, KeyHash, Record, SaleId, Tier};
use seckill_service::args::parse_from;
use seckill_service::clock::{Clock, WrongClock};
use seckill_service::shutdown::Shutdown;
use seckill_stock::StockClient;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[path = "../namespaces/mod.rs"]
mod namespaces;

use namespaces::OwnedNamespaces;

/// The identity of the cluster, by the operators' arguments.
pub const CLUSTER: &str = "tests";

/// Time limit of a wait. It is far longer than any step of these tests takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

pub fn required_env(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run `cargo xtask test integration`"))
}

pub async fn kube_config() -> Config {
    let kubeconfig = Kubeconfig::read_from(required_env("SECKILL_TEST_KUBECONFIG")).expect("a kubeconfig");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a context")
}

/// A client without retries, so that a proxy forwards each request once.
pub async fn upstream() -> Client {
    let mut config = kube_config().await;
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

async fn client() -> Client {
    let client = Client::try_from(kube_config().await).expect("a client");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = FlashSale::crd_name();
    crds.patch(
        name,
        &PatchParams::apply("operator-tests").force(),
        &Patch::Apply(seckill_crds::crd()),
    )
    .await
    .expect("applied");
    let established = kube::runtime::conditions::is_crd_established();
    kube::runtime::wait::await_condition(crds, name, established)
        .await
        .expect("established");
    client
}

pub struct Harness {
    /// The name of the release: also its class, its first namespace, its database, its topic and its consumer group.
    pub name: String,
    /// The namespace of the sales that this harness creates.
    pub namespace: String,
    /// All namespaces of the release.
    pub namespaces: Arc<Mutex<Vec<String>>>,
    pub kube: Client,
    pub ledger: Ledger,
    pub log: OrderLog,
    pub stock: StockClient,
    mysql: String,
    pub database: String,
    kafka: String,
    pub redis: String,
    /// Whether the simulated kubelet reports pods as ready.
    pub pods_become_ready: Arc<AtomicBool>,
    kubelet: JoinHandle<()>,
    /// None in a harness for another namespace.
    _owned: Option<OwnedNamespaces>,
}

/// The statuses of a FlashSale, as a watch shows them.
pub struct RecordedStatuses {
    recorded: Arc<Mutex<Vec<FlashSaleStatus>>>,
    task: JoinHandle<()>,
}

impl RecordedStatuses {
    pub fn stop(self) -> Vec<FlashSaleStatus> {
        self.task.abort();
        std::mem::take(&mut *self.recorded.lock().expect("nobody panics"))
    }
}

/// An operator or a worker that runs in the test process.
pub struct RunningProgram {
    name: &'static str,
    admin: String,
    shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The worker reads on its own thread. Without this, the runtime of a failed test would wait forever for that thread.
impl Drop for RunningProgram {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl RunningProgram {
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(WAIT_TIMEOUT, &mut self.task).await;
        let ended = ended.unwrap_or_else(|_| panic!("the {} did not end in time", self.name));
        ended.expect("no panic").expect("no error");
    }

    /// The answer of the readiness probe.
    pub async fn readiness(&self) -> String {
        get(&self.admin, "/readyz").await.unwrap_or_default()
    }

    /// Whether it exports metrics of a sale, as far as is known. It removes them when it sees that the FlashSale is deleted.
    pub async fn has_metrics_of(&self, name: &str) -> bool {
        let text = get(&self.admin, "/metrics").await;
        text.is_none_or(|text| text.contains(&format!("name=\"{name}\"")))
    }

    /// The value of a metric of a sale; `None`: it is not exported.
    pub async fn metric_of(&self, metric: &str, name: &str) -> Option<f64> {
        let text = get(&self.admin, "/metrics").await.unwrap_or_default();
        let of_sale = format!("name=\"{name}\"}} ");
        let line = text
            .lines()
            .find(|l| l.starts_with(&format!("{metric}{{")) && l.contains(&of_sale))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// The value of a gauge without labels.
    pub async fn gauge(&self, name: &str) -> Option<i64> {
        let text = get(&self.admin, "/metrics").await?;
        let line = format!("{name} ");
        text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok())
    }

    /// The sum of the values of a metric with this reason.
    pub async fn metric_sum(&self, metric: &str, reason: &str) -> u64 {
        self.metric_with_label(metric, &format!("reason=\"{reason}\"")).await
    }

    /// The sum of the series of a metric with this label.
    pub async fn metric_with_label(&self, metric: &str, label: &str) -> u64 {
        let text = get(&self.admin, "/metrics").await.unwrap_or_default();
        let series = text
            .lines()
            .filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} "));
        let values = series.filter(|(labels, _)| labels.split(',').any(|of| of == label));
        values.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    }
}

pub fn free_address() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    port.local_addr().expect("an address").to_string()
}

/// Listens on a port that was in use before. Nothing reserves it meanwhile, and a process that another test starts has a copy
/// of the old socket until it runs its program.
pub async fn listen_again(address: &str) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

pub async fn get(admin: &str, path: &str) -> Option<String> {
    let answer = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    // A process that is paused by SIGSTOP does not answer.
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
    answer.ok()?.ok()
}

impl Harness {
    pub async fn new() -> Self {
        Self::with_redis(required_env("SECKILL_TEST_REDIS_URL")).await
    }

    /// No pod becomes ready until the test sets `pods_become_ready`.
    pub async fn without_pods() -> Self {
        Self::with(required_env("SECKILL_TEST_REDIS_URL"), false).await
    }

    pub async fn with_redis(redis: String) -> Self {
        Self::with(redis, true).await
    }

    async fn with(redis: String, pods_become_ready: bool) -> Self {
        let name = format!("seckill-operator-{:08x}", rand::random::<u32>());
        let kube = client().await;
        let mysql = required_env("SECKILL_TEST_MYSQL_URL");
        let kafka = required_env("SECKILL_TEST_KAFKA");
        let (base, _) = mysql.rsplit_once('/').expect("a URL with a database");
        let database = format!("{base}/{name}");
        let mut admin = MySqlConnection::connect(&mysql).await.expect("MySQL");
        admin
            .execute(AssertSqlSafe(format!("CREATE DATABASE `{name}`")))
            .await
            .expect("created");
        seckill_ledger::migrate(&database).await.expect("migrated");
        let config = LogConfig {
            brokers: kafka.clone(),
            topic: name.clone(),
            properties: Vec::new(),
        };
        seckill_order_log::ensure_topic(&config, 2, 1, 1)
            .await
            .expect("a topic");
        let (pods_become_ready, namespace) = (Arc::new(AtomicBool::new(pods_become_ready)), name.clone());
        let owned = OwnedNamespaces::of(&name);
        let harness = Harness {
            kubelet: tokio::spawn(kubelet(kube.clone(), namespace, pods_become_ready.clone())),
            pods_become_ready,
            ledger: Ledger::connect(&database, 2).await.expect("MySQL"),
            log: OrderLog::connect(config).await.expect("Kafka"),
            stock: StockClient::connect(&redis).await.expect("Redis"),
            namespace: name.clone(),
            namespaces: owned.0.clone(),
            _owned: Some(owned),
            name,
            kube,
            mysql,
            database,
            kafka,
            redis,
        };
        harness.create_namespace(&harness.name).await;
        for name in ["api", "worker"] {
            let labels = json!({"app": name});
            let container = json!({"name": "c", "image": "none.invalid/none"});
            let deployment: Deployment = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {
                        "containers": [container],
                        // Also if the cluster has a node, only the simulated kubelet acts for the pods.
                        "schedulerName": "none",
                    }},
                },
            }))
            .expect("a Deployment");
            harness
                .api::<Deployment>()
                .create(&PostParams::default(), &deployment)
                .await
                .expect("created");
        }
        harness
    }

    async fn create_namespace(&self, name: &str) {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
        Api::all(self.kube.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .expect("created");
    }

    /// A harness of the same release for a new namespace. The first harness deletes the namespace at the end.
    pub async fn another_namespace(&self) -> Harness {
        let namespace = {
            let mut all = self.namespaces.lock().expect("nobody panics");
            let namespace = format!("{}-{}", self.name, all.len());
            all.push(namespace.clone());
            namespace
        };
        self.create_namespace(&namespace).await;
        Harness {
            name: self.name.clone(),
            namespace,
            namespaces: self.namespaces.clone(),
            kube: self.kube.clone(),
            ledger: self.ledger.clone(),
            log: self.log.clone(),
            stock: self.stock.clone(),
            mysql: self.mysql.clone(),
            database: self.database.clone(),
            kafka: self.kafka.clone(),
            redis: self.redis.clone(),
            pods_become_ready: self.pods_become_ready.clone(),
            // The pods are in the first namespace, and the first harness has a kubelet for them.
            kubelet: tokio::spawn(async {}),
            _owned: None,
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    /// A failed test does not call it, so its data can be inspected.
    pub async fn drop(self) {
        self.kubelet.abort();
        let mut admin = MySqlConnection::connect(&self.mysql).await.expect("MySQL");
        admin
            .execute(AssertSqlSafe(format!("DROP DATABASE `{}`", self.name)))
            .await
            .expect("dropped");
        let kafka: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .create()
            .expect("Kafka");
        kafka
            .delete_topics(&[&self.name], &AdminOptions::new())
            .await
            .expect("deleted");
    }

    fn server_flags(&self) -> Vec<String> {
        [
            ("--mysql-url", &self.database),
            ("--redis-url", &self.redis),
            ("--kafka-brokers", &self.kafka),
            ("--kafka-topic", &self.name),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.clone()])
        .collect()
    }

    /// The arguments of the subcommand `check`.
    pub fn check_args(&self) -> Vec<String> {
        let mut args: Vec<String> = ["operator", "check"].map(str::to_owned).into();
        args.extend(self.server_flags());
        let rest = [
            "--topic-replication",
            "1",
            "--topic-min-insync",
            "1",
            "--timeout-seconds",
            "5",
        ];
        args.extend(rest.map(str::to_owned));
        args
    }

    pub fn operator(&self) -> RunningProgram {
        self.operator_with_lease("operator", 15)
    }

    /// Operators with the same Lease name elect a leader. Operators with different Leases are leaders at the same time.
    pub fn operator_with_lease(&self, lease: &str, seconds: u32) -> RunningProgram {
        self.operator_with_client(&self.kube, self.operator_args(lease, seconds))
    }

    /// Starts an operator whose own clock is another one.
    pub fn operator_with_clock(&self, clock: &WrongClock) -> RunningProgram {
        self.operator_with(&self.kube, self.operator_args("operator", 15), clock.clock())
    }

    /// Starts an operator with another client or other arguments.
    pub fn operator_with_client(&self, kube: &Client, args: Vec<String>) -> RunningProgram {
        self.operator_with(kube, args, Clock::system())
    }

    fn operator_with(&self, kube: &Client, mut args: Vec<String>, clock: Clock) -> RunningProgram {
        let admin = free_address();
        set_flag(&mut args, "--admin-listen", &admin);
        let Command::Run(args) = parse_from::<Args>(args).expect("valid arguments").command else {
            unreachable!("the subcommand is run")
        };
        let shutdown = Shutdown::new();
        let task = tokio::spawn(seckill_operator::run::run_until_shutdown(
            *args,
            kube.clone(),
            clock,
            shutdown.clone(),
        ));
        RunningProgram {
            name: "operator",
            admin,
            shutdown,
            task,
        }
    }

    /// Starts an operator that runs the FlashSales of a folder.
    pub fn operator_of_folder(&self, folder: &Path) -> RunningProgram {
        let mut args = self.operator_args("operator", 15);
        for flag in [
            "--api-deployment",
            "--worker-deployment",
            "--watch-namespaces",
            "--cluster-identity",
        ] {
            remove_flag(&mut args, flag);
        }
        let admin = free_address();
        set_flag(&mut args, "--admin-listen", &admin);
        args.extend(["--sales".to_owned(), folder.display().to_string()]);
        let Command::Run(args) = parse_from::<Args>(args).expect("valid arguments").command else {
            unreachable!("the subcommand is run")
        };
        let shutdown = Shutdown::new();
        let folder = Folder::open(folder).expect("a folder");
        let task = tokio::spawn(seckill_operator::run::run_folder(*args, folder, shutdown.clone()));
        RunningProgram {
            name: "operator",
            admin,
            shutdown,
            task,
        }
    }

    pub fn operator_args(&self, lease: &str, seconds: u32) -> Vec<String> {
        let mut args: Vec<String> = ["operator", "run", "--admin-listen", "127.0.0.1:0"]
            .map(str::to_owned)
            .into();
        args.extend(self.server_flags());
        for (flag, value) in [
            ("--class", self.name.clone()),
            (
                "--watch-namespaces",
                self.namespaces.lock().expect("nobody panics").join(","),
            ),
            ("--cluster-identity", CLUSTER.to_owned()),
            // A deleted sale is settled soon.
            ("--deletion-grace-seconds", "1".to_owned()),
            ("--api-deployment", format!("{}/api", self.name)),
            ("--worker-deployment", format!("{}/worker", self.name)),
            ("--api-min-replicas", "1".into()),
            ("--api-max-replicas", "3".into()),
            ("--worker-min-replicas", "1".into()),
            ("--topic-replication", "1".into()),
            ("--topic-min-insync", "1".into()),
            ("--lease-namespace", self.name.clone()),
            ("--lease-name", lease.to_owned()),
            ("--lease-seconds", seconds.to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        args
    }

    pub fn worker(&self) -> RunningProgram {
        self.worker_speaking(FORMAT, "worker")
    }

    /// A worker of another version: it speaks this format.
    pub fn worker_speaking(&self, format: Format, pod: &str) -> RunningProgram {
        let mut args: Vec<String> = ["order-worker", "run", "--group", &self.name].map(str::to_owned).into();
        args.extend(["--admin-listen", "127.0.0.1:0"].map(str::to_owned));
        args.extend(self.server_flags());
        args.extend(["--spoken-format", &format.to_string(), "--pod-name", pod].map(str::to_owned));
        let args = parse_from::<seckill_order_worker::args::Args>(args).expect("valid arguments");
        let seckill_order_worker::args::Command::Run(args) = args.command else {
            unreachable!("the subcommand is run")
        };
        let shutdown = Shutdown::new();
        let task = tokio::spawn(seckill_order_worker::run::run_until_shutdown(args, shutdown.clone()));
        RunningProgram {
            name: "worker",
            admin: String::new(),
            shutdown,
            task,
        }
    }

    /// Creates a FlashSale of ten units that starts in `starts_in` seconds and ends `lasts` seconds later. `spec` adds
    /// or replaces fields.
    pub async fn apply(&self, name: &str, starts_in: i64, lasts: i64, spec: Value) -> FlashSale {
        self.api()
            .create(&PostParams::default(), &self.manifest(name, starts_in, lasts, spec))
            .await
            .expect("created")
    }

    pub fn manifest(&self, name: &str, starts_in: i64, lasts: i64, spec: Value) -> FlashSale {
        let at = |seconds: i64| Timestamp::from_second(Timestamp::now().as_second() + seconds).expect("a time");
        let mut manifest = json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSale",
            "metadata": {"name": name},
            "spec": {
                "className": self.name,
                "item": {"sku": "s", "name": "An item", "price": "9.90", "currency": "EUR"},
                "stock": 10,
                "startsAt": at(starts_in).to_string(),
                "endsAt": at(starts_in + lasts).to_string(),
                "leadTimeSeconds": 60,
                "coolDownSeconds": 0,
            },
        });
        if let (Some(fields), Value::Object(spec)) = (manifest["spec"].as_object_mut(), spec) {
            fields.extend(spec);
        }
        serde_json::from_value(manifest).expect("a FlashSale")
    }

    pub async fn edit(&self, name: &str, patch: Value) {
        self.api::<FlashSale>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("patched");
    }

    pub async fn end_in(&self, name: &str, seconds: i64) {
        let at = Timestamp::from_second(Timestamp::now().as_second() + seconds).expect("a time");
        self.edit(name, json!({"spec": {"endsAt": at.to_string()}})).await;
    }

    pub async fn delete(&self, name: &str) {
        self.api::<FlashSale>()
            .delete(name, &DeleteParams::default())
            .await
            .expect("deleted");
    }

    /// Deletes the namespace of this harness, one of [`Self::another_namespace`].
    pub async fn delete_namespace(&self) {
        let namespaces: Api<Namespace> = Api::all(self.kube.clone());
        let deleted = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        deleted.expect("deleted");
        let mut all = self.namespaces.lock().expect("nobody panics");
        all.retain(|namespace| *namespace != self.namespace);
    }

    pub async fn status(&self, name: &str) -> FlashSaleStatus {
        let object = self.api::<FlashSale>().get(name).await.expect("it exists");
        object.status.unwrap_or_default()
    }

    /// Waits until the status of a sale fulfils the condition `what`.
    pub async fn until(&self, name: &str, what: &str, is_so: impl Fn(&FlashSaleStatus) -> bool) -> FlashSaleStatus {
        let started = Instant::now();
        loop {
            let status = self.status(name).await;
            if is_so(&status) {
                return status;
            }
            assert!(
                started.elapsed() < WAIT_TIMEOUT,
                "timed out waiting until {name} is {what}: {status:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs `suspend --all` or `resume --all`, as a person does on any machine that reaches MySQL and Redis.
    pub async fn emergency_stop(&self, subcommand: &str) -> String {
        let servers = ["--mysql-url", &self.database, "--redis-url", &self.redis];
        let words = [
            ["operator", subcommand, "--all", "--class", &self.name].as_slice(),
            &servers,
        ]
        .concat();
        match parse_from::<Args>(words).expect("valid arguments").command {
            Command::Suspend(args) => emergency_stop::set(&args, true).await,
            Command::Resume(args) => emergency_stop::set(&args, false).await,
            _ => unreachable!("the subcommand is one of them"),
        }
        .expect("done")
    }

    /// Records each status of a FlashSale from now on.
    pub fn record_statuses(&self, name: &str) -> RecordedStatuses {
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let shown = watcher(self.api::<FlashSale>(), config).applied_objects();
        let writer = recorded.clone();
        let task = tokio::spawn(shown.for_each(move |object| {
            let status = object.ok().and_then(|object| object.status);
            writer.lock().expect("nobody panics").extend(status);
            std::future::ready(())
        }));
        RecordedStatuses { recorded, task }
    }

    pub async fn until_phase(&self, name: &str, phase: Phase) -> FlashSaleStatus {
        self.until(name, &format!("{phase:?}"), |status| status.phase == Some(phase))
            .await
    }

    pub async fn until_reason(&self, name: &str, type_: &str, reason: &str) -> FlashSaleStatus {
        self.until(name, &format!("{type_}/{reason}"), |status| {
            self::status_and_reason(status, type_).1 == reason
        })
        .await
    }

    pub async fn eventually(&self, what: &str, is_so: impl AsyncFnMut() -> bool) {
        eventually(what, Duration::from_millis(100), is_so).await;
    }

    /// Like [`Self::eventually`], without a delay between two checks.
    pub async fn eventually_without_delay(&self, what: &str, is_so: impl AsyncFnMut() -> bool) {
        eventually(what, Duration::ZERO, is_so).await;
    }

    /// Runs a statement that no program runs.
    pub async fn execute(&self, sql: &str) {
        let mut connection = MySqlConnection::connect(&self.database).await.expect("MySQL");
        connection.execute(AssertSqlSafe(sql.to_owned())).await.expect(sql);
    }

    /// A failover of MySQL to a replica that has nothing of any sale.
    pub async fn lose_all_rows(&self) {
        self.execute(
            "START TRANSACTION; DELETE FROM orders; DELETE FROM effects; DELETE FROM sales; DELETE FROM log_position; COMMIT",
        )
        .await;
    }

    pub async fn sale(&self, name: &str) -> Sale {
        let sale = self.ledger.sale_by_name(&self.name, &self.namespace, name).await;
        sale.expect("MySQL").expect("the ledger has the sale")
    }

    /// Calls the purchase script once, with one unit for each buyer. It does not append the batch to the log.
    pub async fn reserve(&self, name: &str, buyers: &[&str]) -> (Vec<Decision>, Option<Batch>) {
        self.try_reserve(name, buyers, GENERAL)
            .await
            .expect("an index in force under the epoch of the ledger")
    }

    /// Like [`Self::reserve`]; `None` if no index is in force under the epoch of the ledger, or if Redis does not answer.
    async fn try_reserve(&self, name: &str, buyers: &[&str], tier: Tier) -> Option<(Vec<Decision>, Option<Batch>)> {
        let sale = self.sale(name).await;
        let request = |buyer: &&str| Request {
            buyer: Buyer::anonymous(buyer),
            quantity: 1,
            tier,
            key: KeyHash::of(buyer),
        };
        let requests: Vec<Request> = buyers.iter().map(request).collect();
        let decided = self.stock.purchase(sale.id, sale.live_epoch?, &requests).await;
        decided.ok()?.ok()
    }

    /// Like [`Self::buy`]; returns the decisions, and none if no index is in force or Redis does not answer. A buyer always
    /// uses the same key.
    pub async fn try_buy(&self, name: &str, buyers: &[&str]) -> Vec<Decision> {
        self.try_buy_as(GENERAL, name, buyers).await
    }

    /// The same for buyers of a tier.
    pub async fn try_buy_as(&self, tier: Tier, name: &str, buyers: &[&str]) -> Vec<Decision> {
        let Some((decisions, batch)) = self.try_reserve(name, buyers, tier).await else {
            return Vec::new();
        };
        if let Some(batch) = batch {
            let partition = self.sale(name).await.partition;
            self.log.append(partition, &Record::Batch(batch)).await.expect("Kafka");
        }
        decisions
    }

    /// Reserves one unit for each buyer and appends the batch to the log, as seckill-api does. Returns
    /// the number of new orders.
    pub async fn buy(&self, name: &str, buyers: &[&str]) -> usize {
        let (decisions, batch) = self.reserve(name, buyers).await;
        if let Some(batch) = batch {
            let partition = self.sale(name).await.partition;
            self.log.append(partition, &Record::Batch(batch)).await.expect("Kafka");
        }
        decisions
            .iter()
            .filter(|a| matches!(a, Decision::Reserved { .. }))
            .count()
    }

    pub async fn orders(&self, name: &str) -> usize {
        let sale = self.sale(name).await;
        let snapshot = self.ledger.sale_snapshot(sale.id).await.expect("MySQL");
        snapshot.all_orders().await.expect("MySQL").len()
    }

    /// Makes the index wrong: adds units that the log does not have.
    pub async fn add_units_to_index(&self, name: &str, units: i64) {
        let sale = self.sale(name).await;
        let client = redis::Client::open(self.redis.as_str()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
        let _: i64 = redis::cmd("HINCRBY")
            .arg(format!("{{{}}}:m", sale.id))
            .arg("left")
            .arg(units)
            .query_async(&mut connection)
            .await
            .expect("written");
    }

    /// Unix time in milliseconds by the clock of Redis.
    pub async fn redis_now(&self) -> u64 {
        self.stock.probe(SaleId(0)).await.expect("Redis").server.now
    }

    /// The number of records of a sale in its partition from an offset on.
    pub async fn records_after(&self, partition: u32, from: i64, sale: SaleId) -> usize {
        let end = self.log.end_offset(partition).await.expect("Kafka");
        let mut count = 0;
        let of_sale = |entry: Entry| count += usize::from(entry.record.is_ok_and(|record| record.sale() == sale));
        self.log.read(partition, from, end, of_sale).await.expect("Kafka");
        count
    }

    pub async fn has_index(&self, name: &str) -> bool {
        let sale = self.sale(name).await;
        self.stock.probe(sale.id).await.expect("Redis").index.is_some()
    }

    pub async fn index(&self, name: &str) -> IndexState {
        let sale = self.sale(name).await;
        let probe = self.stock.probe(sale.id).await.expect("Redis");
        probe.index.expect("an index")
    }

    pub async fn replicas(&self, deployment: &str) -> i32 {
        let deployment = self.api::<Deployment>().get(deployment).await.expect("it exists");
        deployment.spec.and_then(|spec| spec.replicas).unwrap_or_default()
    }

    /// Returns when the leader has renewed its Lease so many times.
    pub async fn until_lease_is_renewed(&self, times: usize) {
        let leases: Api<Lease> = Api::namespaced(self.kube.clone(), &self.name);
        let mut versions = HashSet::new();
        self.eventually("the Lease is renewed", async || {
            let lease = leases.get("operator").await.expect("it exists");
            versions.insert(lease.metadata.resource_version);
            versions.len() > times
        })
        .await;
    }

    /// Waits for an event of a sale. Events are written after the status.
    pub async fn until_event(&self, name: &str, reason: &str) {
        self.eventually(&format!("{name} has an event {reason}"), async || {
            self.events(name).await.iter().any(|event| event == reason)
        })
        .await;
    }

    /// Waits until a sale has these events, besides those that say how busy the machine is.
    pub async fn until_events(&self, name: &str, expected: &[&str]) {
        let started = Instant::now();
        loop {
            let mut events = self.events(name).await;
            // How long pods and servers take depends on the machine.
            events.retain(|event| !["ReadyLate", "Stalled"].contains(&event.as_str()));
            if events == expected {
                return;
            }
            let left = started.elapsed() < WAIT_TIMEOUT;
            assert!(left, "timed out waiting for the events of {name}: {events:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The reasons of the events of a sale, oldest first.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let mut events: Vec<Event> = self
            .api::<Event>()
            .list(&ListParams::default())
            .await
            .expect("listed")
            .items;
        events.retain(|event| event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name));
        events.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        events.into_iter().filter_map(|event| event.reason).collect()
    }
}

/// Replaces the value of a flag.
pub fn set_flag(args: &mut [String], flag: &str, value: &str) {
    let flag = args.iter().position(|word| word == flag).expect("it exists");
    args[flag + 1] = value.to_owned();
}

/// Removes a flag and its value.
pub fn remove_flag(args: &mut Vec<String>, flag: &str) {
    let flag = args.iter().position(|word| word == flag).expect("it exists");
    args.drain(flag..flag + 2);
}

/// What the operator has written of an object, and when. Others may write too, such as a kubelet or a test.
pub fn written_by_operator(object: &impl ResourceExt) -> Value {
    let mut fields = object.managed_fields().to_vec();
    fields.retain(|entry| {
        entry
            .manager
            .as_deref()
            .is_some_and(|manager| manager.starts_with("seckill-operator"))
    });
    let values = serde_json::to_value(fields);
    values.expect("serializes")
}

/// Waits until the condition `what` is true.
async fn eventually(what: &str, interval: Duration, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < WAIT_TIMEOUT, "timed out waiting until {what}");
        tokio::time::sleep(interval).await;
    }
}

/// The status and the reason of a condition; empty texts if the condition is missing.
pub fn status_and_reason<'a>(status: &'a FlashSaleStatus, type_: &str) -> (&'a str, &'a str) {
    let condition = status.conditions.iter().find(|c| c.type_ == type_);
    condition.map_or(("", ""), |c| (&c.status, &c.reason))
}

/// Simulates a kubelet: reports all pods of the namespace as ready. The API server of the tests usually has
/// no nodes.
async fn kubelet(kube: Client, namespace: String, pods_become_ready: Arc<AtomicBool>) {
    let pods: Api<Pod> = Api::namespaced(kube, &namespace);
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if !pods_become_ready.load(Ordering::Relaxed) {
            continue;
        }
        let Ok(list) = pods.list(&ListParams::default()).await else {
            continue;
        };
        for pod in list.items {
            let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
            let is_ready = pod
                .status
                .is_some_and(|status| status.phase.as_deref() == Some("Running"));
            if !is_ready && let Some(name) = pod.metadata.name {
                // The pod may be deleted by now.
                let _ = pods
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(ready))
                    .await;
            }
        }
    }
}

pub async fn until_redis_answers(url: &str) {
    eventually("Redis answers", Duration::from_millis(50), async || {
        StockClient::connect(url).await.is_ok()
    })
    .await;
}
