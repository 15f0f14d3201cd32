//! Which FlashSale is reconciled, and when again.
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::runtime::controller::{self, Action, Controller};
use seckill_crds::FlashSale;
use seckill_planner::orphan::Absence;
use seckill_planner::pacing::requeue_after;
use seckill_planner::plan::plan;

use crate::cluster::convert::{desired_sale, sale_key};
use crate::cluster::events;
use crate::cluster::watch::{self, FlashSales, Guarded, RETRY_DELAY_MIN, WatchBackoff};
use crate::context::Context;
use crate::error::ReconcileError;
use crate::sale::act::act;
use crate::sale::observe::observe;
use crate::sale::status;

const MAX_CONCURRENT_RECONCILES: u16 = 16;
/// How often the status of a FlashSale that is being deleted is updated.
const TERMINATING_INTERVAL: Duration = Duration::from_secs(1);

/// One controller for each watched namespace, or one for all. They run until the leadership term is told to end.
pub fn controllers(context: &Arc<Context>) -> (FlashSales, Vec<impl Future<Output = ()> + Send + 'static>) {
    let mut sales = FlashSales::default();
    let mut running = Vec::new();
    for (namespace, api) in watch::apis(&context.cluster.kube, &context.release.namespaces) {
        let (objects, store) = sales.watch(namespace, api);
        let controller = Controller::for_stream(objects, store).trigger_backoff(WatchBackoff::default());
        let (ending, context) = (context.term.ending.clone(), context.clone());
        let metrics = context.metrics.clone();
        running.push(async move {
            controller
                .with_config(controller::Config::default().concurrency(MAX_CONCURRENT_RECONCILES))
                .graceful_shutdown_on(async move { ending.cancelled().await })
                .run(reconcile, after_failure, context)
                .for_each(|result| {
                    // `after_failure` logged a failed reconcile. An error about an object that is gone is none.
                    if let Err(controller::Error::QueueError(error)) = result {
                        tracing::warn!(%error, "failed to watch FlashSales; retrying");
                        metrics.watch_failed(watch::failure_label(&error));
                    }
                    std::future::ready(())
                })
                .await;
        });
    }
    (sales, running)
}

async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if !context.term.holds() {
        return Ok(Action::await_change());
    }
    let object = match &object.0 {
        Ok(object) => object,
        Err(invalid) => {
            status::refuse(&context.cluster, &context.release.class, context.clock.now(), invalid).await?;
            return Ok(Action::await_change());
        }
    };
    if object.spec.class_name != context.release.class {
        return Ok(Action::await_change());
    }
    let (key, begun) = (sale_key(object), Instant::now());
    let result = reconcile_sale(object, &context).await;
    context.metrics.reconciled(begun.elapsed());
    match &result {
        Ok(_) => context.cache.succeeded(&key),
        Err(error) => {
            context.cache.failed(&key, error.blocker());
            if let Some(blocker) = context.cache.blocker(&key)
                && let Err(error) = status::report_blocker(&context, object, &blocker).await
            {
                tracing::warn!(sale = %key, %error, "failed to write the status");
            }
        }
    }
    result
}

/// Observes, plans, reports, and carries out one step.
async fn reconcile_sale(object: &FlashSale, context: &Context) -> Result<Action, ReconcileError> {
    let key = sale_key(object);
    // A FlashSale that is being deleted, but has a foreign finalizer, is still served. It counts as deleted: the loop over
    // sales without a FlashSale carries out the steps, and this one only reports.
    let is_terminating = object.metadata.deletion_timestamp.is_some();
    let desired = (!is_terminating).then(|| desired_sale(object));
    let observed = observe(context, &key, desired, Absence::default()).await?;
    let plan = plan(&observed);
    context.cache.set_standing(&key, plan.standing);
    context.metrics.observed(&observed);
    if !context.term.holds() {
        // The process was paused during the observation; another one leads by now.
        return Ok(Action::await_change());
    }
    // The status names a step before it is carried out. A sale goes on even if its status can't be written.
    let reported = status::report(context, object, &observed, &plan).await;
    if is_terminating {
        reported?;
        return Ok(Action::requeue(TERMINATING_INTERVAL));
    }
    let note = act(&context.stores, &context.cache, &plan.step).await?;
    events::publish(&context.cluster.recorder, object, note).await;
    reported?;
    Ok(requeue_after(&plan).map_or_else(Action::await_change, Action::requeue))
}

fn after_failure(object: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let key = sale_key(&*object);
    tracing::warn!(sale = %key, %error, "reconcile failed");
    context.metrics.failed(error.label());
    let jitter: Duration = seckill_service::retry::full_jitter(context.cache.failures(&key));
    Action::requeue(RETRY_DELAY_MIN + jitter)
}
