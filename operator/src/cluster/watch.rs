//! The FlashSales of the watched namespaces, and the retries of a watch that fails.
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{Stream, StreamExt as _};
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
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
/// How long a deletion is remembered that is no sale's.
const DELETION_MEMORY: Duration = Duration::from_secs(600);
/// The shortest wait after a failed reconcile or watch; the longest is some seconds more.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);

/// All FlashSales of the watched namespaces.
#[derive(Clone, Default)]
pub struct FlashSales {
    namespaces: Vec<WatchedNamespaces>,
    deleted: Arc<Mutex<HashMap<SaleKey, DeletedObject>>>,
}

/// A FlashSale whose deletion was seen happen.
struct DeletedObject {
    uid: Option<String>,
    at: Instant,
}

/// A FlashSale that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// An event told that it was deleted. Otherwise it may never have been here, or a list has lost it.
    pub deletion_seen: bool,
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

    /// Watches a namespace, or all of them. The stream has the objects to reconcile, and the store follows it.
    pub fn watch(
        &mut self,
        namespace: Option<String>,
        api: Api<Guarded>,
    ) -> (
        impl Stream<Item = watcher::Result<Guarded>> + Send + 'static,
        Store<Guarded>,
    ) {
        let (store, writer) = reflector::store();
        let deleted = self.deleted.clone();
        // Before the store: once that lacks a deleted object, its deletion is known.
        let events = watcher(api.clone(), config()).inspect(move |event| note_deletion(&deleted, event));
        self.namespaces.push(WatchedNamespaces {
            namespace,
            api,
            store: store.clone(),
            known: Arc::default(),
        });
        (events.reflect(writer).applied_objects(), store)
    }

    pub fn saw_deletion(&self, key: &SaleKey) -> bool {
        locked(&self.deleted).contains_key(key)
    }

    /// Whether a FlashSale is missing; `None`: it is there. A new object of the same name ends the deletion of the last one.
    pub fn missing(&self, class: &str, key: &SaleKey) -> Option<Missing> {
        let object = self.find(class, key);
        let mut deleted = locked(&self.deleted);
        let Some(object) = object else {
            let deletion_seen = deleted.contains_key(key);
            return Some(Missing { deletion_seen });
        };
        let is_that_one = |deleted: &DeletedObject| deleted.uid == object.uid();
        if object.meta().deletion_timestamp.is_some() || deleted.get(key).is_some_and(is_that_one) {
            return Some(Missing { deletion_seen: true });
        }
        deleted.remove(key);
        None
    }

    /// Forgets deletions that are no sale's. A sale may be entered into the ledger just after its FlashSale was deleted.
    pub fn forget_deletions(&self, unfinished: &HashSet<SaleKey>) {
        let keep =
            |key: &SaleKey, deleted: &DeletedObject| unfinished.contains(key) || deleted.at.elapsed() < DELETION_MEMORY;
        locked(&self.deleted).retain(|key, deleted| keep(key, deleted));
    }

    fn stores(&self) -> impl Iterator<Item = Arc<Guarded>> {
        self.namespaces.iter().flat_map(|watched| watched.store.state())
    }

    /// The FlashSales of a class that can be parsed.
    pub fn for_each(&self, class: &str, mut each: impl FnMut(&FlashSale)) {
        for guarded in self.stores() {
            if let Ok(sale) = &guarded.0
                && sale.spec.class_name == class
            {
                each(sale);
            }
        }
    }

    /// A FlashSale that can't be parsed may be of any class.
    fn find(&self, class: &str, key: &SaleKey) -> Option<Arc<Guarded>> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        let is_of_class = |sale: &Arc<Guarded>| sale.0.as_ref().map_or(true, |sale| sale.spec.class_name == class);
        let mut found = self
            .namespaces
            .iter()
            .filter_map(|watched| watched.store.get(&reference));
        found.find(is_of_class)
    }

    pub fn keys(&self) -> HashSet<SaleKey> {
        self.stores().map(|sale| sale_key(&*sale)).collect()
    }
}

/// Only an event of a watch counts: a list that lacks an object, at the start or after a watch has expired, causes none.
fn note_deletion(deleted: &Mutex<HashMap<SaleKey, DeletedObject>>, event: &watcher::Result<Event<Guarded>>) {
    if let Ok(Event::Delete(object)) = event {
        let (uid, at) = (object.uid(), Instant::now());
        locked(deleted).insert(sale_key(object), DeletedObject { uid, at });
    }
}

/// Single insertions and removals: a panic elsewhere leaves it whole.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
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
