//! Observes a sale: everything that is known of it, read before anything is decided.
use seckill_ledger::Sale;
use seckill_order_log::LogError;
use seckill_planner::balance::{BalanceCheck, BalanceHistory, IndexSample};
use seckill_planner::observation::may_have_index;
use seckill_planner::plan::index_need;
use seckill_planner::{DesiredSale, Observation, ObservedIndex, SaleKey};
use seckill_protocol::index::{IndexState, Millis, SaleState};
use seckill_protocol::recovery::Need;
use seckill_protocol::{Epoch, Record};

use crate::context::{Context, Stores};
use crate::error::ReconcileError;
use crate::reconcile_cache::ReconcileCache;
use crate::sale::identity::observe_absence;

/// An error means that a server does not answer without which nothing can be decided.
pub async fn observe(
    context: &Context,
    key: &SaleKey,
    desired: Option<DesiredSale>,
) -> Result<Observation, ReconcileError> {
    let (stores, cache, class) = (&context.stores, &*context.cache, &context.release.class);
    // The ledger first: what is sold meanwhile is then in flight, and never in the ledger without being taken.
    let sale = stores.ledger.sale_by_name(class, &key.namespace, &key.name).await?;
    let adjustments_pending = match &sale {
        Some(sale) => adjustments_pending(stores, sale).await?,
        None => false,
    };
    let now = context.clock.now();
    let absence = match (&sale, &desired) {
        (None, Some(_)) => Some(observe_absence(stores, cache, key, now).await?),
        _ => None,
    };
    if sale.is_some() {
        cache.forget_absent(key);
    }
    let index = match &sale {
        Some(sale) if may_have_index(now, desired.as_ref(), sale) => observe_index(stores, sale).await?,
        _ => ObservedIndex::NotAsked,
    };
    let mut balance = None;
    if let Some(sale) = sale.as_ref().filter(|sale| sale.state != SaleState::Closed) {
        // An index that still has to apply adjustments is no sample of anything.
        let sampled = index.in_force().filter(|_| !adjustments_pending);
        balance = check_balance(stores, cache, key, now, sale, sampled).await?;
    }
    let appended = |appended: &dyn Fn(&Sale) -> bool| sale.as_ref().is_some_and(appended);
    Ok(Observation {
        key: key.clone(),
        class: class.clone(),
        partitions: stores.log.partitions(),
        now,
        close_appended: appended(&|sale| cache.close_appended(sale.id)),
        total_appended: appended(&|sale| cache.total_appended(sale.id, sale.offered)),
        desired,
        absence,
        index,
        workloads: context.observations.workloads.borrow().clone(),
        servers: context.observations.servers.borrow().clone(),
        balance,
        adjustments_pending,
        blocker: cache.blocker(key),
        sale,
    })
}

/// At the end a raised total may be pending, too; before the end that shows in the totals.
async fn adjustments_pending(stores: &Stores, sale: &Sale) -> Result<bool, ReconcileError> {
    let possible = sale.returned > 0 || sale.state == SaleState::Closed;
    if sale.settled_at_ms.is_some() || !possible {
        return Ok(false);
    }
    Ok(stores.ledger.has_pending_adjustments(sale.id).await?)
}

async fn observe_index(stores: &Stores, sale: &Sale) -> Result<ObservedIndex, ReconcileError> {
    let probe = match stores.stock.probe(sale.id).await {
        Ok(probe) => probe,
        Err(error) => return Ok(ObservedIndex::Unknown(error.to_string())),
    };
    let Some(index) = probe.valid().cloned() else {
        return Ok(ObservedIndex::Missing);
    };
    let outdated = match sale.cut.closed {
        None => index_need(&index, sale) == Need::Rebuild,
        // After CLOSE the ledger does not tell which epoch was the last. That matters only if the figures differ, so this
        // part of the log is read only in that rare case.
        Some(closed) => index.left != sale.left_at_rest() && barrier_between(stores, sale, index.epoch, closed).await?,
    };
    Ok(match outdated {
        true => ObservedIndex::Outdated(index.epoch),
        false => ObservedIndex::InForce(index),
    })
}

async fn barrier_between(stores: &Stores, sale: &Sale, epoch: Epoch, closed: i64) -> Result<bool, LogError> {
    let mut found = false;
    stores
        .log
        .read(sale.partition, epoch.0 + 1, closed, |entry| {
            found |= matches!(entry.record, Ok(Record::Barrier { sale: of, .. }) if of == sale.id);
        })
        .await?;
    Ok(found)
}

/// Checks the index as it is now, or as it was at an earlier reconcile whose orders were in flight then.
async fn check_balance(
    stores: &Stores,
    cache: &ReconcileCache,
    key: &SaleKey,
    now: Millis,
    sale: &Sale,
    index: Option<&IndexState>,
) -> Result<Option<BalanceCheck>, ReconcileError> {
    let history: BalanceHistory = cache.balance(key);
    let sample = history.sample.clone();
    let Some(sample) = sample.or_else(|| index.map(|index| IndexSample::of(now, sale, index))) else {
        return Ok(history.reported);
    };
    let caught_up = match sample.is_overdue(now) {
        true => Some(ledger_caught_up(stores, sale.partition).await?),
        false => None,
    };
    // After that, so that the units contain what was read of the log.
    let check = match stores.ledger.units(sale.id, sample.epoch, sample.seq).await? {
        Some(units) => sample.check(now, &units, sale.cut, caught_up),
        None => BalanceCheck::Superseded,
    };
    let history = history.after(now, sample, check);
    let reported = history.reported;
    cache.set_balance(key, history);
    Ok(reported)
}

/// Whether the ledger has read all that a partition holds now.
async fn ledger_caught_up(stores: &Stores, partition: u32) -> Result<bool, ReconcileError> {
    let end = stores.log.end_offset(partition).await?;
    let positions = stores.ledger.positions().await?;
    Ok(positions
        .iter()
        .any(|(of, position)| *of == partition && *position >= end))
}
