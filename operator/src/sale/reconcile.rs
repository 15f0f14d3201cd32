//! Which sale is looked at, and when again.
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::runtime::controller::{self, Action, Controller};
use seckill_crds::FlashSale;

use crate::error::OperatorError;
use crate::facts::Wanted;
use crate::memory::Key;
use crate::plan::{Step, plan};
use crate::run::Operator;
use crate::watch::{self, Guarded, Sales, WatchBackoff};

/// The shortest wait after a failure; the longest is some seconds more.
pub const AFTER_A_FAILURE: Duration = Duration::from_millis(100);

/// One controller for each namespace that is watched, or one for all. They run until the term is told to end.
pub fn controllers(operator: &Arc<Operator>) -> (Sales, Vec<impl Future<Output = ()> + Send + 'static>) {
    let mut sales = Sales::default();
    let mut running = Vec::new();
    for (namespace, api) in watch::apis(operator) {
        let controller = Controller::new(api.clone(), watch::config()).trigger_backoff(WatchBackoff::default());
        sales.add(namespace, api, controller.store());
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
                        metrics.watch_failed(watch::failure(&error));
                    }
                    std::future::ready(())
                })
                .await;
        });
    }
    (sales, running)
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
