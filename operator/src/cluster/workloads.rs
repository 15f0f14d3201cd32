//! The Deployments of a release and the autoscalers of its namespace, as watches show them. While nothing changes, only the
//! watches are renewed.
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::args::DeploymentName;
use crate::cluster::watch::{WatchBackoff, config};

/// How often a resource is tried again that the cluster does not serve, such as KEDA's.
const ABSENT_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// A watch that fails for so long shows nothing any more. Until then the last view stands.
const LAST_VIEW_VALID: Duration = Duration::from_secs(60);

/// What the operator has to know of a release's Deployments.
pub struct WatchedWorkloads {
    api: Watched<Deployment>,
    worker: Watched<Deployment>,
    autoscalers: Watched<HorizontalPodAutoscaler>,
    scaled_objects: Watched<DynamicObject>,
}

/// One of the two Deployments, and what controls its replicas.
pub struct ObservedDeployment {
    pub deployment: Arc<Deployment>,
    pub autoscaler: Option<String>,
}

impl WatchedWorkloads {
    pub fn new(kube: &Client, api: &DeploymentName, worker: &DeploymentName) -> Self {
        let namespace = &api.namespace;
        let scaled_object = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
        WatchedWorkloads {
            api: Watched::deployment(kube, api),
            worker: Watched::deployment(kube, worker),
            autoscalers: Watched::new(
                format!("the HorizontalPodAutoscalers of {namespace}"),
                Api::namespaced(kube.clone(), namespace),
                (),
                config(),
            ),
            scaled_objects: Watched {
                // Without KEDA, or without the right to watch its objects, the HorizontalPodAutoscaler that KEDA creates counts.
                may_be_absent: true,
                ..Watched::new(
                    format!("the ScaledObjects of {namespace}"),
                    Api::namespaced_with(kube.clone(), namespace, &scaled_object),
                    scaled_object,
                    config(),
                )
            },
        }
    }

    /// Watches until it is dropped.
    pub async fn run(&self) {
        tokio::join!(
            self.api.run(),
            self.worker.run(),
            self.autoscalers.run(),
            self.scaled_objects.run(),
        );
    }

    /// Whether each list was read, or has failed.
    pub fn are_known(&self) -> bool {
        let autoscalers = self.autoscalers.is_known() && self.scaled_objects.is_known();
        self.api.is_known() && self.worker.is_known() && autoscalers
    }

    pub fn api(&self) -> Result<ObservedDeployment, String> {
        self.observed(&self.api)
    }

    pub fn worker(&self) -> Result<ObservedDeployment, String> {
        self.observed(&self.worker)
    }

    fn observed(&self, watched: &Watched<Deployment>) -> Result<ObservedDeployment, String> {
        let deployment = watched.objects()?.pop();
        let deployment = deployment.ok_or_else(|| format!("{} does not exist", watched.what))?;
        let name = deployment.name_any();
        let autoscaler = match self.scaled_object_of(&name)? {
            Some(scaled_object) => Some(scaled_object),
            None => self.autoscaler_of(&name)?,
        };
        Ok(ObservedDeployment { deployment, autoscaler })
    }

    /// A ScaledObject works through a HorizontalPodAutoscaler too, once KEDA has created it.
    fn autoscaler_of(&self, deployment: &str) -> Result<Option<String>, String> {
        let controls = |autoscaler: &&Arc<HorizontalPodAutoscaler>| {
            let target = &autoscaler.spec.scale_target_ref;
            target.kind == "Deployment" && target.name == deployment
        };
        let autoscalers = self.autoscalers.objects()?;
        let found = autoscalers.iter().find(controls);
        Ok(found.map(|found| format!("HorizontalPodAutoscaler {}", found.name_any())))
    }

    fn scaled_object_of(&self, deployment: &str) -> Result<Option<String>, String> {
        let controls = |object: &&Arc<DynamicObject>| {
            let target = &object.data["spec"]["scaleTargetRef"];
            // The default kind is Deployment.
            target["kind"].as_str().unwrap_or("Deployment") == "Deployment" && target["name"] == deployment
        };
        let objects = self.scaled_objects.objects()?;
        let found = objects.iter().find(controls);
        Ok(found.map(|found| format!("ScaledObject {}", found.name_any())))
    }
}

/// The objects that one watch shows.
struct Watched<K: Resource + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// For messages.
    what: String,
    api: Api<K>,
    kind: K::DynamicType,
    config: watcher::Config,
    /// That the cluster does not serve the resource, or refuses it, is no failure: there are no objects.
    may_be_absent: bool,
    view: Mutex<View<K>>,
}

/// What a watch has shown.
enum View<K: Resource + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// Nothing yet; with the last failure.
    Unknown(Option<String>),
    Absent,
    Listed(Store<K>, Option<Failures>),
}

/// Failures of a watch in a row.
struct Failures {
    since: Instant,
    last: Instant,
    why: String,
}

impl Watched<Deployment> {
    /// The right to list and watch is bound to the name, so the name has to be selected.
    fn deployment(kube: &Client, name: &DeploymentName) -> Self {
        let DeploymentName { namespace, name } = name;
        Watched::new(
            format!("Deployment {namespace}/{name}"),
            Api::namespaced(kube.clone(), namespace),
            (),
            config().fields(&format!("metadata.name={name}")),
        )
    }
}

impl<K> Watched<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    fn new(what: String, api: Api<K>, kind: K::DynamicType, config: watcher::Config) -> Self {
        Watched {
            what,
            api,
            kind,
            config,
            may_be_absent: false,
            view: Mutex::new(View::Unknown(None)),
        }
    }

    fn view(&self) -> MutexGuard<'_, View<K>> {
        // Each change is one assignment: a panic elsewhere leaves it whole.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_known(&self) -> bool {
        !matches!(*self.view(), View::Unknown(None))
    }

    fn objects(&self) -> Result<Vec<Arc<K>>, String> {
        let failed = |why: &str| Err(format!("failed to watch {}: {why}", self.what));
        match &*self.view() {
            View::Unknown(None) => Err(format!("{} was not read yet", self.what)),
            View::Unknown(Some(why)) => failed(why),
            View::Absent => Ok(Vec::new()),
            View::Listed(_, Some(failures)) if failures.last - failures.since > LAST_VIEW_VALID => {
                failed(&failures.why)
            }
            View::Listed(store, _) => Ok(store.state()),
        }
    }

    async fn run(&self) {
        loop {
            self.watch().await;
            // What was listed before does not exist any more.
            *self.view() = View::Absent;
            tokio::time::sleep(ABSENT_RETRY_INTERVAL).await;
        }
    }

    /// Returns if the resource is absent.
    async fn watch(&self) {
        let writer = Writer::new(self.kind.clone());
        let store = writer.as_reader();
        let mut events = pin!(watcher(self.api.clone(), self.config.clone()).reflect(writer));
        let mut backoff = WatchBackoff::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::InitDone) => *self.view() = View::Listed(store.clone(), None),
                Ok(_) => {}
                Err(error) if self.may_be_absent && is_absent(&error) => return,
                Err(error) => {
                    self.note_failure(&error);
                    tokio::time::sleep(backoff.next().unwrap_or_default()).await;
                }
            }
        }
    }

    fn note_failure(&self, error: &watcher::Error) {
        let (now, why) = (Instant::now(), error.to_string());
        let mut view = self.view();
        let since = match &*view {
            // A watch that succeeds again shows nothing until something changes.
            View::Listed(_, Some(failures)) if now - failures.last < LAST_VIEW_VALID => failures.since,
            View::Unknown(Some(_)) => now,
            _ => {
                tracing::warn!(error = why, "failed to watch {}; retrying", self.what);
                now
            }
        };
        match &mut *view {
            View::Listed(_, failures) => *failures = Some(Failures { since, last: now, why }),
            unknown => *unknown = View::Unknown(Some(why)),
        }
    }
}

/// Refused or not served.
fn is_absent(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let code = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.code,
        WatchError(status) => status.code,
        _ => return false,
    };
    [403, 404].contains(&code)
}
