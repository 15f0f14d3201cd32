//! The FlashSales of the namespaces that are watched: what is known of them, and how trouble with the API server is ridden
//! out.
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use http::{Request, Response, StatusCode};
use kube::api::ListParams;
use kube::client::Body;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::Store;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use seckill_crds::FlashSale;

use crate::controller::AFTER_A_FAILURE;
use crate::memory::Key;
use crate::run::Operator;

/// A FlashSale of another version's making harms only itself.
pub type Guarded = DeserializeGuard<FlashSale>;

/// A call that has no answer by then failed. Without that a client waits for ever, or for minutes: kube asks again by
/// itself when the API server is busy, after longer and longer pauses, and tells nobody.
const CALL: Duration = Duration::from_secs(20);
/// A watch is begun anew that often, and one that died without a word is noticed soon after.
const WATCH_SECONDS: u32 = 30;
const EXPIRED: &[u8] = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the version to watch from has expired","reason":"Expired","code":410}}
"#;
/// A watch that held that long is not one more failure in a row.
const HELD: Duration = Duration::from_secs(60);

/// All FlashSales of the namespaces that are watched.
#[derive(Clone, Default)]
pub struct Sales {
    parts: Vec<Part>,
    deleted: Arc<Mutex<HashSet<Key>>>,
}

/// Those of a namespace, or of all.
#[derive(Clone)]
struct Part {
    namespace: Option<String>,
    api: Api<Guarded>,
    store: Store<Guarded>,
    known: Arc<AtomicBool>,
}

impl Sales {
    pub fn add(&mut self, namespace: Option<String>, api: Api<Guarded>, store: Store<Guarded>) {
        self.parts.push(Part {
            namespace,
            api,
            store,
            known: Arc::default(),
        });
    }

    /// Learns of each part when all of it is known: all that a list names. (`Store::wait_until_ready` wakes only the last
    /// of several tasks that wait for it, and the controller is one of them.)
    pub async fn learn(self) {
        join_all(self.parts.into_iter().map(Part::learn)).await;
    }

    /// Whether all FlashSales of a namespace are known. What is missing in one that is not may be there.
    pub fn know(&self, namespace: &str) -> bool {
        let of = |part: &&Part| part.namespace.as_deref().is_none_or(|of| of == namespace);
        self.parts.iter().find(of).is_some_and(Part::is_known)
    }

    pub fn know_all(&self) -> bool {
        self.parts.iter().all(Part::is_known)
    }

    /// Remembers what the API server says was deleted, where the right to ask may go with the namespace. It ends only where
    /// there is no such namespace.
    pub async fn note_deletions(self, operator: Arc<Operator>) {
        let watched = operator.namespaces.0.iter().map(|namespace| {
            let api: Api<PartialObjectMeta<FlashSale>> = Api::namespaced(operator.kube.clone(), namespace);
            let deleted = self.deleted.clone();
            // Failures are counted where the same namespace is watched for the controller.
            let events = watcher(api, config()).backoff(WatchBackoff::default());
            events.for_each(move |event| {
                let mut deleted = locked(&deleted);
                match event {
                    Ok(Event::Delete(object)) => _ = deleted.insert(Key::of(&object)),
                    Ok(Event::Apply(object) | Event::InitApply(object)) => _ = deleted.remove(&Key::of(&object)),
                    Ok(Event::Init | Event::InitDone) | Err(_) => {}
                }
                std::future::ready(())
            })
        });
        let watched: Vec<_> = watched.collect();
        join_all(watched).await;
    }

    pub fn saw_deletion(&self, namespace: &str, name: &str) -> bool {
        locked(&self.deleted).contains(&Key::new(namespace, name))
    }

    fn stores(&self) -> impl Iterator<Item = Arc<Guarded>> {
        self.parts.iter().flat_map(|part| part.store.state())
    }

    pub fn all(&self, class: &str) -> Vec<FlashSale> {
        let whole = self.stores().filter_map(|guarded| guarded.0.as_ref().ok().cloned());
        whole.filter(|sale| sale.spec.class_name == class).collect()
    }

    /// One that can't be understood may be of any class.
    pub fn has(&self, class: &str, namespace: &str, name: &str) -> bool {
        let is_of_class = |sale: &Guarded| sale.0.as_ref().map_or(true, |sale| sale.spec.class_name == class);
        self.stores()
            .any(|sale| sale.namespace().as_deref() == Some(namespace) && sale.name_any() == name && is_of_class(&sale))
    }

    pub fn keys(&self) -> HashSet<Key> {
        self.stores().map(|sale| Key::of(&*sale)).collect()
    }
}

/// Single insertions and removals: a panic elsewhere leaves it whole.
fn locked(keys: &Mutex<HashSet<Key>>) -> MutexGuard<'_, HashSet<Key>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Part {
    fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    async fn learn(self) {
        loop {
            match self.holds_all().await {
                Ok(true) => return self.known.store(true, Ordering::Relaxed),
                Ok(false) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(error) => {
                    let namespace = self.namespace.as_deref().unwrap_or("all namespaces");
                    tracing::warn!(namespace, %error, "FlashSales can't be listed: none is ended there, and no pods are taken away");
                    tokio::time::sleep(Duration::from_secs(2)).await;
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

/// The namespaces that are watched; `None`: all of them at once.
pub fn apis(operator: &Operator) -> Vec<(Option<String>, Api<Guarded>)> {
    let (namespaces, kube) = (&operator.namespaces.0, &operator.kube);
    if namespaces.is_empty() {
        return vec![(None, Api::all(kube.clone()))];
    }
    let of = |namespace: &String| (Some(namespace.clone()), Api::namespaced(kube.clone(), namespace));
    namespaces.iter().map(of).collect()
}

pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// For metrics: few values.
pub fn failure(error: &watcher::Error) -> &'static str {
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

/// As after a failed look. It does not begin from the shortest wait when a list succeeds between two watches that fail.
#[derive(Default)]
pub struct WatchBackoff {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > HELD) {
            self.failures = 0;
        }
        (self.last, self.failures) = (Some(Instant::now()), self.failures.saturating_add(1));
        Some(AFTER_A_FAILURE + seckill_service::retry::full_jitter(self.failures))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {}
}

/// The same API server, and every call of it ends.
pub fn bounded(kube: &Client) -> Client {
    let (namespace, kube) = (kube.default_namespace().to_owned(), kube.clone());
    let service = tower::service_fn(move |request| {
        let kube = kube.clone();
        async move { call(&kube, request).await.map_err(Box::new) }
    });
    Client::new(service, namespace)
}

async fn call(kube: &Client, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let answer = async {
        let answer = kube.send(request).await?;
        if is_watch && answer.status() != StatusCode::GONE {
            return Ok(answer);
        }
        if is_watch {
            // kube's watcher takes it in only as an event of the stream: as an answer it would ask for the same version
            // for ever.
            return Ok(Response::new(Body::from(EXPIRED.to_vec())));
        }
        let (head, body) = answer.into_parts();
        Ok(Response::from_parts(head, Body::from(body.collect_bytes().await?)))
    };
    match tokio::time::timeout(CALL, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service(format!("no answer within {CALL:?}").into())),
    }
}
