//! The environment of one test: a namespace of its own, candidates for the Lease in it, and ways to separate a
//! candidate from the API server.
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Config, Resource};
use seckill_operator::cluster::lease::{Elector, LeadershipTerm};
use seckill_operator::metrics::Metrics;
use seckill_planner::election::ElectionTimes;
use seckill_service::shutdown::Shutdown;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[path = "../namespaces/mod.rs"]
mod namespaces;

use namespaces::OwnedNamespaces;

pub const LEASE_DURATION: Duration = Duration::from_secs(9);
/// The chart names the Lease, the Role and the ServiceAccount of the operator so.
pub const LEASE_NAME: &str = "seckill-operator";
/// Time limit of a wait. It is far longer than any step of these tests takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

pub struct Harness {
    pub kube: Client,
    /// `host:port` of the API server.
    pub api_server: String,
    kubeconfig: Value,
    pub namespace: String,
    leaders: Arc<LeaderCount>,
    _owned: OwnedNamespaces,
}

/// Counts the candidates whose leader task runs.
#[derive(Default)]
struct LeaderCount {
    /// Leadership terms that have begun.
    terms: AtomicUsize,
    current: AtomicUsize,
    /// The greatest number of leaders at the same time.
    max: AtomicUsize,
}

/// Counts one leader while it exists.
struct LeaderGuard(Arc<LeaderCount>);

impl LeaderGuard {
    fn new(count: &Arc<LeaderCount>) -> Self {
        count.terms.fetch_add(1, Ordering::SeqCst);
        let current = count.current.fetch_add(1, Ordering::SeqCst) + 1;
        count.max.fetch_max(current, Ordering::SeqCst);
        LeaderGuard(count.clone())
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        self.0.current.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The task that a candidate runs while it is leader.
#[derive(Clone, Copy)]
enum LeaderTask {
    EndsWithItsTerm,
    Hangs,
    Panics,
}

impl Harness {
    pub async fn new() -> Self {
        let path = std::env::var("SECKILL_TEST_KUBECONFIG")
            .expect("SECKILL_TEST_KUBECONFIG; run `cargo xtask test integration`");
        let kubeconfig: Value =
            serde_yaml::from_str(&std::fs::read_to_string(path).expect("a file")).expect("a kubeconfig");
        let kube = client(&kubeconfig).await;
        let url = kubeconfig["clusters"][0]["cluster"]["server"].as_str().expect("a URL");
        let api_server = url.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let namespace = format!("seckill-lease-{:08x}", rand::random::<u32>());
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("a namespace");
        Api::all(kube.clone())
            .create(&PostParams::default(), &object)
            .await
            .expect("created");
        Harness {
            kube,
            api_server,
            kubeconfig,
            _owned: OwnedNamespaces::of(&namespace),
            namespace,
            leaders: Arc::default(),
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    pub fn candidate(&self, identity: &str, kube: &Client) -> Candidate {
        self.start_candidate(identity, kube, LeaderTask::EndsWithItsTerm)
    }

    pub fn candidate_that_hangs(&self, identity: &str) -> Candidate {
        self.start_candidate(identity, &self.kube, LeaderTask::Hangs)
    }

    pub fn candidate_that_panics(&self, identity: &str) -> Candidate {
        self.start_candidate(identity, &self.kube, LeaderTask::Panics)
    }

    fn start_candidate(&self, identity: &str, kube: &Client, leader_task: LeaderTask) -> Candidate {
        let metrics = Arc::new(Metrics::default());
        let reporter = Reporter {
            controller: "seckill-operator".into(),
            instance: Some(identity.into()),
        };
        let elector = Elector {
            leases: Api::namespaced(kube.clone(), &self.namespace),
            name: LEASE_NAME.into(),
            identity: identity.into(),
            times: ElectionTimes::of(LEASE_DURATION),
            recorder: Recorder::new(kube.clone(), reporter),
            metrics: metrics.clone(),
        };
        let (shutdown, leaders, own) = (Shutdown::new(), self.leaders.clone(), Arc::new(LeaderCount::default()));
        let (shutdown_seen, own_count) = (shutdown.clone(), own.clone());
        let task = tokio::spawn(async move {
            let lead = |term: LeadershipTerm| {
                let guards = (LeaderGuard::new(&leaders), LeaderGuard::new(&own_count));
                async move {
                    let _guards = guards;
                    match leader_task {
                        LeaderTask::EndsWithItsTerm => term.ending.cancelled().await,
                        LeaderTask::Hangs => std::future::pending().await,
                        LeaderTask::Panics => panic!("the test asked for it"),
                    }
                }
            };
            elector.lead(&shutdown_seen, lead).await
        });
        Candidate {
            identity: identity.into(),
            shutdown,
            leaders: own,
            metrics,
            task,
        }
    }

    /// The greatest number of leaders at the same time.
    pub fn max_leaders(&self) -> usize {
        self.leaders.max.load(Ordering::SeqCst)
    }

    pub async fn lease(&self) -> LeaseSpec {
        let lease = self.api::<Lease>().get(LEASE_NAME).await.expect("it exists");
        lease.spec.unwrap_or_default()
    }

    pub async fn lease_holder(&self) -> Option<String> {
        self.lease().await.holder_identity
    }

    pub async fn edit_lease(&self, patch: Value) {
        self.api::<Lease>()
            .patch(LEASE_NAME, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("patched");
    }

    /// The notes of the events in this namespace, oldest first.
    pub async fn events(&self) -> Vec<String> {
        let mut events = self
            .api::<Event>()
            .list(&ListParams::default())
            .await
            .expect("listed")
            .items;
        events.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        events.into_iter().filter_map(|event| event.note).collect()
    }

    pub async fn eventually(&self, what: &str, is_so: impl AsyncFnMut() -> bool) {
        eventually(what, is_so).await;
    }

    /// Creates the service account of the chart's operator, with the permissions that the chart gives it.
    pub async fn grant(&self) {
        for object in self.render_chart(&["service-accounts", "rbac"]) {
            let is_operators = object["metadata"]["name"] == LEASE_NAME;
            match object["kind"].as_str() {
                Some("ServiceAccount") if is_operators => self.create::<ServiceAccount>(object).await,
                Some("Role") => self.create::<Role>(object).await,
                Some("RoleBinding") => self.create::<RoleBinding>(object).await,
                _ => {}
            }
        }
    }

    /// Deletes the RoleBinding, and returns it so that [`Self::restore`] can create it again.
    pub async fn revoke(&self) -> Value {
        let bindings = self.api::<RoleBinding>();
        let binding = bindings.get(LEASE_NAME).await.expect("it exists");
        bindings
            .delete(LEASE_NAME, &DeleteParams::default())
            .await
            .expect("deleted");
        json!({"metadata": {"name": LEASE_NAME}, "roleRef": binding.role_ref, "subjects": binding.subjects})
    }

    pub async fn restore(&self, binding: Value) {
        self.create::<RoleBinding>(binding).await;
    }

    /// Renders some templates of the chart for a release in this namespace.
    fn render_chart(&self, templates: &[&str]) -> Vec<Value> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/seckill");
        let mut helm = Command::new(std::env::var_os("SECKILL_HELM").unwrap_or("helm".into()));
        helm.args(["template", "seckill", folder, "-n", &self.namespace])
            .args(["-f", &format!("{folder}/ci/minimal-values.yaml")])
            .args([
                "--set",
                &format!("watchNamespaces={{{}}},clusterIdentity=tests", self.namespace),
            ])
            .args(
                templates
                    .iter()
                    .flat_map(|name| ["-s".to_owned(), format!("templates/{name}.yaml")]),
            );
        let rendered = helm.output().expect("helm");
        assert!(
            rendered.status.success(),
            "{}",
            String::from_utf8_lossy(&rendered.stderr)
        );
        let text = String::from_utf8(rendered.stdout).expect("text");
        let objects = serde_yaml::Deserializer::from_str(&text);
        objects
            .map(|object| Value::deserialize(object).expect("an object"))
            .filter(|object| !object.is_null())
            .collect()
    }

    async fn create<K>(&self, object: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        self.api()
            .create(&PostParams::default(), &object)
            .await
            .expect("created");
    }

    /// A client with the permissions of the chart's operator.
    pub async fn client_with_chart_permissions(&self) -> Client {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec::default()),
            ..TokenRequest::default()
        };
        let token = self
            .api::<ServiceAccount>()
            .create_token_request(LEASE_NAME, &PostParams::default(), &request)
            .await
            .expect("a token")
            .status
            .expect("a token")
            .token;
        let mut kubeconfig = self.kubeconfig.clone();
        kubeconfig["users"][0]["user"] = json!({"token": token});
        client(&kubeconfig).await
    }

    pub async fn client_through(&self, proxy: &Proxy) -> Client {
        let mut kubeconfig = self.kubeconfig.clone();
        let server = self.api_server.as_str();
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        kubeconfig["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", proxy.address));
        kubeconfig["clusters"][0]["cluster"]["tls-server-name"] = json!(host);
        client(&kubeconfig).await
    }
}

async fn client(kubeconfig: &Value) -> Client {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a context")).expect("a client")
}

/// Waits until the condition `what` is true.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < WAIT_TIMEOUT, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub struct Candidate {
    identity: String,
    shutdown: Shutdown,
    leaders: Arc<LeaderCount>,
    metrics: Arc<Metrics>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Candidate {
    /// Whether its leader task runs.
    pub fn is_leader(&self) -> bool {
        self.leaders.current.load(Ordering::SeqCst) > 0
    }

    /// How often it became leader.
    pub fn terms(&self) -> usize {
        self.leaders.terms.load(Ordering::SeqCst)
    }

    /// Waits until it is leader, by its leader task and by its metric.
    pub async fn until_leader(&self) {
        let what = format!("{} is leader", self.identity);
        eventually(&what, async || self.is_leader() && self.metrics.is_leader()).await;
    }

    /// Waits until it is not leader, by its leader task and by its metric.
    pub async fn until_follower(&self) {
        let what = format!("{} is a follower", self.identity);
        eventually(&what, async || !self.is_leader() && !self.metrics.is_leader()).await;
    }

    /// The number of failed requests for the Lease.
    pub fn failures(&self) -> u64 {
        self.metrics.lease_failures()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.join().await.expect("no error");
    }

    /// Waits until its elector returns.
    pub async fn join(self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(WAIT_TIMEOUT, self.task).await;
        ended.expect("the elector ends").expect("the elector does not panic")
    }

    /// Ends it without a release of the Lease, as `kill -9` does.
    pub async fn vanish(self) {
        self.task.abort();
        assert!(self.task.await.is_err());
    }
}

/// A TCP proxy between a client and the API server.
pub struct Proxy {
    pub address: String,
    stalled: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (stalled, is_stalled) = watch::channel(false);
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else {
                    continue;
                };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(forward(from_client, to_server, is_stalled.clone()));
                tokio::spawn(forward(from_server, to_client, is_stalled.clone()));
            }
        });
        Proxy { address, stalled }
    }

    /// Holds all data back while the connections stay open.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut stalled: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
