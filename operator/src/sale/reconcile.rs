//! Which FlashSale is reconciled, and when again.
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::ObjectRef;
use seckill_crds::FlashSale;
use seckill_planner::orphan::Absence;
use seckill_planner::pacing::requeue_after;
use seckill_planner::plan::{Step, plan};

use crate::cluster::convert::{desired_sale, sale_key};
use crate::cluster::watch::{self, FlashSales, Guarded, RETRY_DELAY_MIN, WatchBackoff};
use crate::context::Context;
use crate::error::ReconcileError;
use crate::sale::act::act;
use crate::sale::observe::observe;
use crate::sale::status;

/// No bound: a reconcile waits for servers nearly all of its time, and sales whose servers don't answer must not hold up the
/// others. Each sale has one reconcile at a time, each call of a server its own time limit, and MySQL its pool.
const MAX_CONCURRENT_RECONCILES: u16 = 0;
/// Rebuilds need memory, so they have a bound. They share the two servers that limit their speed, so more of them at once
/// would not end sooner.
pub const MAX_CONCURRENT_REBUILDS: usize = 4;
/// How long a sale waits for its turn to be rebuilt before it is observed again.
const REBUILD_TURN_TIMEOUT: Duration = Duration::from_secs(3);
/// A sale is reconciled again after this time if its status could not be written by then.
const STATUS_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is checked that a FlashSale that can't be parsed says so.
const REFUSAL_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Of the failed reconciles of a sale in a row, the first is logged, and then each of this many.
const LOG_EVERY_NTH_FAILURE: u32 = 10;
/// How often the status of a FlashSale that is being deleted is updated.
const TERMINATING_INTERVAL: Duration = Duration::from_secs(1);

/// One controller for each watched namespace, or one for all. They run until the leadership term ends.
pub fn controllers(context: &Arc<Context>) -> (FlashSales, Vec<impl Future<Output = ()> + Send + 'static>) {
    let mut sales = FlashSales::default();
    let mut running = Vec::new();
    for (namespace, api) in watch::apis(&context.cluster.kube, &context.release.namespaces) {
        let namespace_of_watch = namespace.clone();
        let (objects, store) = sales.watch(namespace, api);
        let changes = changes_in(context, namespace_of_watch);
        let controller = Controller::for_stream(objects, store)
            .trigger_backoff(WatchBackoff::default())
            .reconcile_on(changes);
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

/// The sales of a watch that changed elsewhere than in their FlashSales.
fn changes_in(context: &Context, namespace: Option<String>) -> impl Stream<Item = ObjectRef<Guarded>> + Send + 'static {
    context.changes.listen().filter_map(move |key| {
        let is_in = namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let changed = is_in.then(|| ObjectRef::new(&key.name).within(&key.namespace));
        std::future::ready(changed)
    })
}

async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if !context.term.holds() {
        return Ok(Action::await_change());
    }
    let guarded = &*object;
    let object = match &guarded.0 {
        Ok(object) => object,
        Err(invalid) => {
            context.statuses.push_refusal(guarded, invalid);
            return Ok(Action::requeue(REFUSAL_CHECK_INTERVAL));
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
            if let Some(blocker) = context.cache.blocker(&key) {
                status::report_blocker(&context, object, &blocker);
            }
        }
    }
    result
}

/// Observes, plans, carries out one step, and has it reported.
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
    // Only noted here, and written beside: the step does not wait for the API server.
    let is_reported = status::report(context, object, &observed, &plan);
    if is_terminating {
        return Ok(Action::requeue(TERMINATING_INTERVAL));
    }
    if !carry_out(context, object, &plan.step).await? {
        return Ok(Action::requeue(RETRY_DELAY_MIN));
    }
    let is_pending = !is_reported || context.statuses.is_pending(&key);
    let pending = is_pending.then_some(STATUS_CHECK_INTERVAL);
    let requeue = requeue_after(&plan).into_iter().chain(pending).min();
    Ok(requeue.map_or_else(Action::await_change, Action::requeue))
}

/// False: the step has to wait for its turn, and may not be needed any more by then.
async fn carry_out(context: &Context, object: &FlashSale, step: &Step) -> Result<bool, ReconcileError> {
    let turn = match step {
        Step::Rebuild { sale, .. } => {
            // A partition that does not answer must not take turns from others.
            context.connections.log()?.end_offset(sale.partition).await?;
            match context.rebuilds.try_acquire() {
                Ok(turn) => Some(turn),
                Err(_) => {
                    // The turn is used after the next observation.
                    let _ = tokio::time::timeout(REBUILD_TURN_TIMEOUT, context.rebuilds.acquire()).await;
                    return Ok(false);
                }
            }
        }
        _ => None,
    };
    let note = act(&context.connections, &context.cache, step).await?;
    drop(turn);
    if let Some(note) = note {
        context.statuses.push_note(object, note);
    }
    Ok(true)
}

fn after_failure(object: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let key = sale_key(&*object);
    let failures = context.cache.failures(&key);
    if failures == 1 || failures.is_multiple_of(LOG_EVERY_NTH_FAILURE) {
        tracing::warn!(sale = %key, %error, failures, "reconcile failed");
    }
    context.metrics.failed(error.label());
    let jitter: Duration = seckill_service::retry::full_jitter(failures);
    Action::requeue(RETRY_DELAY_MIN + jitter)
}
