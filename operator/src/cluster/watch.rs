//! The FlashSales of the watched namespaces, and the retries of a watch that fails.
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use kube::api::ListParams;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::Store;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use seckill_crds::FlashSale;
use seckill_planner::SaleKey;

use crate::args::Namespaces;
use crate::cluster::convert::sale_key;

/// A FlashSale that can't be parsed affects no other one.
pub type Guarded = DeserializeGuard<FlashSale>;

/// A watch is renewed after this time, so one that died silently is noticed soon.
const WATCH_SECONDS: u32 = 30;
/// A failure after a watch that held for this long starts a new series of failures.
const WATCH_STABLE: Duration = Duration::from_secs(60);
/// How long to wait before a list is compared with the store again, and after one failed.
const SYNC_CHECK_INTERVAL: Duration = Duration::from_millis(200);
const SYNC_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest wait after a failed reconcile or watch; the longest is some seconds more.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);

/// All FlashSales of the watched namespaces.
#[derive(Clone, Default)]
pub struct FlashSales {
    namespaces: Vec<WatchedNamespaces>,
    deleted: Arc<Mutex<HashSet<SaleKey>>>,
}

/// The FlashSales of one namespace, or of all.
#[derive(Clone)]
struct WatchedNamespaces {
    namespace: Option<String>,
    api: Api<Guarded>,
    store: Store<Guarded>,
    known: Arc<AtomicBool>,
}

impl FlashSales {
    pub fn add(&mut self, namespace: Option<String>, api: Api<Guarded>, store: Store<Guarded>) {
        self.namespaces.push(WatchedNamespaces {
            namespace,
            api,
            store,
            known: Arc::default(),
        });
    }

    /// Waits until each store holds all that a list names. (`Store::wait_until_ready` wakes only the last of several tasks
    /// that wait for it, and the controller is one of them.)
    pub async fn wait_until_known(self) {
        join_all(self.namespaces.into_iter().map(WatchedNamespaces::wait_until_known)).await;
    }

    /// Whether all FlashSales of a namespace are known. Otherwise a missing one may exist.
    pub fn are_known(&self, namespace: &str) -> bool {
        let of = |watched: &&WatchedNamespaces| watched.namespace.as_deref().is_none_or(|of| of == namespace);
        self.namespaces.iter().find(of).is_some_and(WatchedNamespaces::is_known)
    }

    pub fn all_known(&self) -> bool {
        self.namespaces.iter().all(WatchedNamespaces::is_known)
    }

    /// Remembers the deletions that the API server reports, where the right to ask for an object may go with its namespace.
    /// Ends only if no namespace is named.
    pub async fn note_deletions(self, kube: Client, namespaces: Namespaces) {
        let watched = namespaces.0.iter().map(|namespace| {
            let api: Api<PartialObjectMeta<FlashSale>> = Api::namespaced(kube.clone(), namespace);
            let deleted = self.deleted.clone();
            // Failures are counted where the same namespace is watched for the controller.
            let events = watcher(api, config()).backoff(WatchBackoff::default());
            events.for_each(move |event| {
                let mut deleted = locked(&deleted);
                match event {
                    Ok(Event::Delete(object)) => _ = deleted.insert(sale_key(&object)),
                    Ok(Event::Apply(object) | Event::InitApply(object)) => _ = deleted.remove(&sale_key(&object)),
                    Ok(Event::Init | Event::InitDone) | Err(_) => {}
                }
                std::future::ready(())
            })
        });
        let watched: Vec<_> = watched.collect();
        join_all(watched).await;
    }

    pub fn saw_deletion(&self, key: &SaleKey) -> bool {
        locked(&self.deleted).contains(key)
    }

    fn stores(&self) -> impl Iterator<Item = Arc<Guarded>> {
        self.namespaces.iter().flat_map(|watched| watched.store.state())
    }

    pub fn all(&self, class: &str) -> Vec<FlashSale> {
        let whole = self.stores().filter_map(|guarded| guarded.0.as_ref().ok().cloned());
        whole.filter(|sale| sale.spec.class_name == class).collect()
    }

    /// A FlashSale that can't be parsed may be of any class.
    pub fn has(&self, class: &str, namespace: &str, name: &str) -> bool {
        let is_of_class = |sale: &Guarded| sale.0.as_ref().map_or(true, |sale| sale.spec.class_name == class);
        self.stores()
            .any(|sale| sale.namespace().as_deref() == Some(namespace) && sale.name_any() == name && is_of_class(&sale))
    }

    pub fn keys(&self) -> HashSet<SaleKey> {
        self.stores().map(|sale| sale_key(&*sale)).collect()
    }
}

/// Single insertions and removals: a panic elsewhere leaves it whole.
fn locked(keys: &Mutex<HashSet<SaleKey>>) -> MutexGuard<'_, HashSet<SaleKey>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WatchedNamespaces {
    fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    async fn wait_until_known(self) {
        loop {
            match self.holds_all().await {
                Ok(true) => return self.known.store(true, Ordering::Relaxed),
                Ok(false) => tokio::time::sleep(SYNC_CHECK_INTERVAL).await,
                Err(error) => {
                    let namespace = self.namespace.as_deref().unwrap_or("all namespaces");
                    tracing::warn!(namespace, %error, "failed to list FlashSales; until it succeeds no sale is ended there, and no pods are removed");
                    tokio::time::sleep(SYNC_RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn holds_all(&self) -> Result<bool, kube::Error> {
        let listed = self.api.list_metadata(&ListParams::default()).await?;
        let held = self.store.state();
        let holds = |uid| held.iter().any(|object| object.meta().uid == uid);
        Ok(listed.items.into_iter().all(|object| holds(object.metadata.uid)))
    }
}

/// The watched namespaces; `None`: all of them at once.
pub fn apis(kube: &Client, namespaces: &Namespaces) -> Vec<(Option<String>, Api<Guarded>)> {
    let namespaces = &namespaces.0;
    if namespaces.is_empty() {
        return vec![(None, Api::all(kube.clone()))];
    }
    let of = |namespace: &String| (Some(namespace.clone()), Api::namespaced(kube.clone(), namespace));
    namespaces.iter().map(of).collect()
}

pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// A bounded label for metrics.
pub fn failure_label(error: &watcher::Error) -> &'static str {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    let code = match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => status.code,
        WatchFailed(kube::Error::Api(status)) | WatchError(status) => status.code,
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) => return "unreachable",
        NoResourceVersion => return "other",
    };
    match code {
        401 | 403 => "refused",
        404 => "not_served",
        410 => "expired",
        429 => "throttled",
        500.. => "server",
        _ => "other",
    }
}

/// The same back-off as after a failed reconcile. It does not restart when a list succeeds between two failed watches.
#[derive(Default)]
pub struct WatchBackoff {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > WATCH_STABLE) {
            self.failures = 0;
        }
        (self.last, self.failures) = (Some(Instant::now()), self.failures.saturating_add(1));
        Some(RETRY_DELAY_MIN + seckill_service::retry::full_jitter(self.failures))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {}
}
