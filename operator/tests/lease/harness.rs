//! A namespace of a test's own, candidates for the Lease in it, and ways to keep one from it.
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
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

pub const LEASE: Duration = Duration::from_secs(3);
/// As the chart calls it.
pub const LEASE_NAME: &str = "seckill-operator";
/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Harness {
    pub kube: Client,
    /// `host:port` of the API server.
    pub server: String,
    kubeconfig: Value,
    namespace: String,
    work: Arc<Work>,
}

/// How many lead, the most that did at the same time, and how often one began to.
#[derive(Default)]
struct Work {
    begun: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct AtWork(Arc<Work>);

impl AtWork {
    fn begin(work: &Arc<Work>) -> Self {
        work.begun.fetch_add(1, Ordering::SeqCst);
        let now = work.now.fetch_add(1, Ordering::SeqCst) + 1;
        work.most.fetch_max(now, Ordering::SeqCst);
        AtWork(work.clone())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a leader does in a test.
#[derive(Clone, Copy)]
enum Does {
    EndsWhenTold,
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
        let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str().expect("a URL");
        let server = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let namespace = format!("seckill-lease-{:08x}", rand::random::<u32>());
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("a namespace");
        Api::all(kube.clone())
            .create(&PostParams::default(), &object)
            .await
            .expect("created");
        Harness {
            kube,
            server,
            kubeconfig,
            namespace,
            work: Arc::default(),
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    /// Not called when a test fails: what it left can be looked at then.
    pub async fn drop(self) {
        let namespaces: Api<Namespace> = Api::all(self.kube.clone());
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .expect("deleted");
    }

    pub fn candidate(&self, identity: &str, kube: &Client) -> Candidate {
        self.any_candidate(identity, kube, Does::EndsWhenTold)
    }

    pub fn candidate_that_hangs(&self, identity: &str) -> Candidate {
        self.any_candidate(identity, &self.kube, Does::Hangs)
    }

    pub fn candidate_that_panics(&self, identity: &str) -> Candidate {
        self.any_candidate(identity, &self.kube, Does::Panics)
    }

    fn any_candidate(&self, identity: &str, kube: &Client, does: Does) -> Candidate {
        let metrics = Arc::new(Metrics::default());
        let reporter = Reporter {
            controller: "seckill-operator".into(),
            instance: Some(identity.into()),
        };
        let elector = Elector {
            leases: Api::namespaced(kube.clone(), &self.namespace),
            name: LEASE_NAME.into(),
            identity: identity.into(),
            times: ElectionTimes::of(LEASE),
            recorder: Recorder::new(kube.clone(), reporter),
            metrics: metrics.clone(),
        };
        let (shutdown, work, at_work) = (Shutdown::new(), self.work.clone(), Arc::new(Work::default()));
        let (told, own) = (shutdown.clone(), at_work.clone());
        let task = tokio::spawn(async move {
            let lead = |term: LeadershipTerm| {
                let working = (AtWork::begin(&work), AtWork::begin(&own));
                async move {
                    let _working = working;
                    match does {
                        Does::EndsWhenTold => term.ending.cancelled().await,
                        Does::Hangs => std::future::pending().await,
                        Does::Panics => panic!("as it should"),
                    }
                }
            };
            elector.lead(&told, lead).await
        });
        Candidate {
            identity: identity.into(),
            shutdown,
            at_work,
            metrics,
            task,
        }
    }

    /// The most that led at the same time.
    pub fn most_at_work(&self) -> usize {
        self.work.most.load(Ordering::SeqCst)
    }

    pub async fn lease(&self) -> LeaseSpec {
        let lease = self.api::<Lease>().get(LEASE_NAME).await.expect("it is there");
        lease.spec.unwrap_or_default()
    }

    pub async fn lease_holder(&self) -> Option<String> {
        self.lease().await.holder_identity
    }

    pub async fn edit(&self, patch: Value) {
        super::patch(&self.api(), patch).await;
    }

    /// What is told of the Lease, in its order.
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

    /// Waits until something is so.
    pub async fn eventually(&self, what: &str, is: impl AsyncFnMut() -> bool) {
        eventually(what, is).await;
    }

    /// The service account of the chart's operator, with the rights that the chart gives it.
    pub async fn grant(&self) {
        for object in self.chart(&["service-accounts", "rbac"]) {
            let is_operators = object["metadata"]["name"] == LEASE_NAME;
            match object["kind"].as_str() {
                Some("ServiceAccount") if is_operators => self.create::<ServiceAccount>(object).await,
                Some("Role") => self.create::<Role>(object).await,
                Some("RoleBinding") => self.create::<RoleBinding>(object).await,
                _ => {}
            }
        }
    }

    /// Takes the rights away; they can be created again.
    pub async fn revoke(&self) -> Value {
        let bindings = self.api::<RoleBinding>();
        let binding = bindings.get(LEASE_NAME).await.expect("it is there");
        bindings
            .delete(LEASE_NAME, &DeleteParams::default())
            .await
            .expect("deleted");
        json!({"metadata": {"name": LEASE_NAME}, "roleRef": binding.role_ref, "subjects": binding.subjects})
    }

    pub async fn restore(&self, binding: Value) {
        self.create::<RoleBinding>(binding).await;
    }

    /// What the chart makes of some of its templates, for a release in this namespace.
    fn chart(&self, templates: &[&str]) -> Vec<Value> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/seckill");
        let mut helm = Command::new(std::env::var_os("SECKILL_HELM").unwrap_or("helm".into()));
        helm.args(["template", "seckill", folder, "-n", &self.namespace])
            .args(["-f", &format!("{folder}/ci/minimal-values.yaml")])
            .args(["--set", &format!("watchNamespaces={{{}}}", self.namespace)])
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

    /// One with the rights of the chart's operator.
    pub async fn client_with_its_rights(&self) -> Client {
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

    pub async fn client_by(&self, proxy: &Proxy) -> Client {
        let mut kubeconfig = self.kubeconfig.clone();
        let host = self
            .server
            .rsplit_once(':')
            .map_or(self.server.as_str(), |(host, _)| host);
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

async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub struct Candidate {
    identity: String,
    shutdown: Shutdown,
    at_work: Arc<Work>,
    metrics: Arc<Metrics>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Candidate {
    /// By what it does, and it says the same.
    pub fn is_leading(&self) -> bool {
        self.at_work.now.load(Ordering::SeqCst) > 0
    }

    /// How often it began to lead.
    pub fn terms(&self) -> usize {
        self.at_work.begun.load(Ordering::SeqCst)
    }

    pub async fn leads(&self) {
        let what = format!("{} leads", self.identity);
        eventually(&what, async || self.is_leading() && self.metrics.is_leader()).await;
    }

    pub async fn follows(&self) {
        let what = format!("{} follows", self.identity);
        eventually(&what, async || !self.is_leading() && !self.metrics.is_leader()).await;
    }

    /// Calls for the lease that failed.
    pub fn failures(&self) -> u64 {
        self.metrics.lease_failures()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.ends().await.expect("no error");
    }

    pub async fn ends(self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("it ends").expect("no panic of the elector")
    }

    /// As after `kill -9`.
    pub async fn vanish(self) {
        self.task.abort();
        assert!(self.task.await.is_err());
    }
}

/// Between a client and the API server.
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

    /// Nothing comes through, and nobody is told.
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
