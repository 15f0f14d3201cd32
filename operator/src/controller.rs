//! Which sale is looked at, and when again.
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use kube::api::ListParams;
use kube::client::Body;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::Store;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use seckill_crds::FlashSale;

use crate::error::OperatorError;
use crate::facts::Wanted;
use crate::memory::Key;
use crate::plan::{Step, plan};
use crate::run::Operator;

/// A FlashSale of another version's making harms only itself.
type Guarded = DeserializeGuard<FlashSale>;

/// The shortest wait after a failure; the longest is some seconds more.
const AFTER_A_FAILURE: Duration = Duration::from_millis(100);
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
#[derive(Clone)]
pub struct Sales(Vec<(Api<Guarded>, Store<Guarded>)>);

impl Sales {
    /// Waits until all are known: all that a list names. (`Store::wait_until_ready` wakes only the last of several tasks
    /// that wait for it, and the controller is one of them.)
    pub async fn ready(&self) {
        for (api, store) in &self.0 {
            while !holds_all(api, store).await {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    fn stores(&self) -> impl Iterator<Item = Arc<Guarded>> {
        self.0.iter().flat_map(|(_, store)| store.state())
    }

    pub fn all(&self, class: &str) -> Vec<FlashSale> {
        let stores = self.stores();
        let whole = stores.filter_map(|guarded| guarded.0.as_ref().ok().cloned());
        whole.filter(|sale| sale.spec.class_name == class).collect()
    }

    pub fn has(&self, namespace: &str, name: &str) -> bool {
        let mut stores = self.stores();
        stores.any(|sale| sale.namespace().as_deref() == Some(namespace) && sale.name_any() == name)
    }

    pub fn keys(&self) -> HashSet<Key> {
        let sales = self.stores();
        sales
            .map(|sale| Key::new(&sale.namespace().unwrap_or_default(), &sale.name_any()))
            .collect()
    }
}

async fn holds_all(api: &Api<Guarded>, store: &Store<Guarded>) -> bool {
    match api.list_metadata(&ListParams::default()).await {
        Ok(listed) => {
            let held = store.state();
            let holds = |uid| held.iter().any(|object| object.meta().uid == uid);
            listed.items.into_iter().all(|object| holds(object.metadata.uid))
        }
        Err(error) => {
            tracing::warn!(%error, "FlashSales can't be listed");
            false
        }
    }
}

/// One controller for each namespace that is watched, or one for all. They run until the term is told to end.
pub fn controllers(operator: &Arc<Operator>) -> (Sales, Vec<impl Future<Output = ()> + Send + 'static>) {
    let (namespaces, kube) = (&operator.namespaces.0, bounded(&operator.kube));
    let apis: Vec<Api<Guarded>> = if namespaces.is_empty() {
        vec![Api::all(kube)]
    } else {
        namespaces
            .iter()
            .map(|namespace| Api::namespaced(kube.clone(), namespace))
            .collect()
    };
    let mut stores = Vec::new();
    let mut running = Vec::new();
    for api in apis {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let controller = Controller::new(api.clone(), config).trigger_backoff(WatchBackoff::default());
        stores.push((api, controller.store()));
        let (ending, operator) = (operator.term.ending.clone(), operator.clone());
        let metrics = operator.metrics.clone();
        running.push(async move {
            controller
                .with_config(kube::runtime::controller::Config::default().concurrency(16))
                .graceful_shutdown_on(async move { ending.cancelled().await })
                .run(reconcile, after_failure, operator)
                .for_each(|looked| {
                    // A look that failed was told by `after_failure`; one at an object that is gone is none.
                    if let Err(controller::Error::QueueError(error)) = looked {
                        tracing::warn!(%error, "FlashSales can't be watched; it is tried again");
                        metrics.watch_failed(watch_failure(&error));
                    }
                    std::future::ready(())
                })
                .await;
        });
    }
    (Sales(stores), running)
}

/// For metrics: few values.
fn watch_failure(error: &watcher::Error) -> &'static str {
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
struct WatchBackoff {
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

async fn reconcile(object: Arc<Guarded>, operator: Arc<Operator>) -> Result<Action, OperatorError> {
    if !operator.term.holds() {
        return Ok(Action::await_change());
    }
    let object = match &object.0 {
        Ok(object) => object,
        Err(invalid) => {
            operator.refuse(invalid).await?;
            return Ok(Action::await_change());
        }
    };
    if object.spec.class_name != operator.class {
        return Ok(Action::await_change());
    }
    let begun = Instant::now();
    let key = Key::of(object);
    let looked = look(object, &operator).await;
    operator.metrics.reconciled(begun.elapsed());
    match &looked {
        Ok(_) => operator.memory.succeeded(&key),
        Err(error) => {
            operator.memory.failed(&key, error.trouble());
            if let Some(trouble) = operator.memory.trouble(&key)
                && let Err(error) = operator.tell_trouble(object, &trouble).await
            {
                tracing::warn!(sale = %key, %error, "the status can't be written");
            }
        }
    }
    looked
}

/// Reads, decides, tells, and does one step.
async fn look(object: &FlashSale, operator: &Operator) -> Result<Action, OperatorError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    // Deleted with a foreign finalizer: it is still served, and yet it is to go.
    let wanted = object.metadata.deletion_timestamp.is_none().then(|| Wanted::of(object));
    let facts = operator.facts(&namespace, &name, wanted).await?;
    let plan = plan(&facts);
    operator.memory.stands(&Key::of(object), plan.standing);
    operator.metrics.sample(object, &facts);
    if !operator.term.holds() {
        // The process was stopped while it read; another one leads by now.
        return Ok(Action::await_change());
    }
    // Readers are told what is being done before it is done; but a sale goes on also while they can't be told.
    let told = operator.tell(object, &facts, &plan).await;
    let notes = operator.act(&namespace, &name, &facts, &plan).await?;
    operator.publish(object, notes).await;
    told?;
    Ok(match (plan.step, plan.look_again) {
        (Step::Nothing, Some(duration)) => Action::requeue(duration),
        (Step::Nothing, None) => Action::await_change(),
        (Step::Close, _) => Action::requeue(Duration::from_millis(100)),
        // The facts have changed.
        (_, _) => Action::requeue(Duration::from_millis(10)),
    })
}

fn after_failure(object: Arc<Guarded>, error: &OperatorError, operator: Arc<Operator>) -> Action {
    let key = Key::new(&object.namespace().unwrap_or_default(), &object.name_any());
    tracing::warn!(sale = %key, %error, "a look at a sale failed");
    operator.metrics.failed(error.label());
    Action::requeue(AFTER_A_FAILURE + seckill_service::retry::full_jitter(operator.memory.failures(&key)))
}
