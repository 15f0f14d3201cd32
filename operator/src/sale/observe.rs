//! Observes a sale: everything that is known of it, read before anything is decided.
use seckill_ledger::Sale;
use seckill_order_log::OrderLog;
use seckill_planner::balance::{BalanceCheck, BalanceHistory, IndexSample};
use seckill_planner::clocks::Clocks;
use seckill_planner::observation::may_have_index;
use seckill_planner::orphan::Absence;
use seckill_planner::ownership::Ownership;
use seckill_planner::plan::index_need;
use seckill_planner::{DesiredSale, Observation, ObservedIndex, SaleKey};
use seckill_protocol::index::{IndexState, Millis, SaleState};
use seckill_protocol::install::takes_an_index;
use seckill_protocol::recovery::Need;
use seckill_protocol::{Epoch, Record};
use seckill_stock::Probe;

use crate::clock_reading::ClockReading;
use crate::context::{Connections, Context};
use crate::error::ReconcileError;
use crate::reconcile_cache::ReconcileCache;
use crate::sale::identity::observe_absence;

/// An error means that a server does not answer without which nothing can be decided.
pub async fn observe(
    context: &Context,
    key: &SaleKey,
    desired: Option<DesiredSale>,
    absence: Absence,
) -> Result<Observation, ReconcileError> {
    let (connections, cache, release) = (&context.connections, &*context.cache, &context.release);
    let desired = desired.map(|desired| DesiredSale {
        format: desired.format.max(release.new_sales_need),
        ..desired
    });
    let class = &release.class;
    // The ledger first: what is sold meanwhile is then in flight, and never in the ledger without being taken.
    let read = connections
        .ledger()?
        .sale_and_clock(class, &key.namespace, &key.name)
        .await?;
    let mysql = read.as_ref().map(|(_, now)| ClockReading::of(*now));
    let sale = read.map(|(sale, _)| sale);
    // A sale of another cluster is not observed any further.
    let is_ours = |sale: &&Sale| release.cluster.ownership(sale.cluster.as_deref()) == Ownership::Ours;
    let own_sale = sale.as_ref().filter(is_ours);
    let adjustments_pending = match own_sale {
        Some(sale) => adjustments_pending(connections, sale).await?,
        None => false,
    };
    // As long as the sale is not due and Redis not asked, its clock at the last check of the servers does.
    let mut clocks = Clocks {
        operator: context.clock.now(),
        redis: cache.clock_of_redis().map(ClockReading::now),
        mysql: mysql.map(ClockReading::now),
    };
    let mut index = ObservedIndex::NotAsked;
    if let Some(sale) = own_sale
        && may_have_index(clocks.latest_without_redis(), desired.as_ref(), sale)
    {
        let probe = probe(connections, sale).await;
        let redis = probe.as_ref().ok().map(|probe| ClockReading::of(probe.server.now));
        index = observe_index(connections, sale, probe).await?;
        clocks = Clocks {
            operator: context.clock.now(),
            redis: redis.map(ClockReading::now),
            mysql: mysql.map(ClockReading::now),
        };
    }
    let index_unknown_for = cache.index_unknown_for(key, index.unavailable().is_some());
    cache.set_clock_correction(&clocks);
    let now = clocks.now();
    let ledger_absence = match (&sale, &desired) {
        (None, Some(_)) => Some(observe_absence(connections, cache, key, now).await?),
        _ => None,
    };
    if sale.is_some() {
        cache.forget_absent(key);
    }
    let mut balance = None;
    if let Some(sale) = own_sale.filter(|sale| sale.state != SaleState::Closed) {
        // An index that still has to apply adjustments is no sample of anything.
        let sampled = index.in_force().filter(|_| !adjustments_pending);
        balance = check_balance(connections, cache, key, now, sale, sampled).await?;
    }
    let partitions = match &sale {
        // Without them a new sale has no partition.
        None => Some(connections.log()?.partitions()),
        Some(_) => connections.log().ok().map(OrderLog::partitions),
    };
    let appended = |appended: &dyn Fn(&Sale) -> bool| sale.as_ref().is_some_and(appended);
    Ok(Observation {
        key: key.clone(),
        class: class.clone(),
        cluster: release.cluster.clone(),
        partitions,
        clocks,
        close_appended: appended(&|sale| cache.close_appended(sale.id)),
        total_appended: appended(&|sale| cache.total_appended(sale.id, sale.offered)),
        desired,
        absence,
        ledger_absence,
        index,
        index_unknown_for,
        workloads: context.observations.workloads.borrow().clone().unwrap_or_default(),
        servers: context.observations.servers.borrow().clone(),
        balance,
        adjustments_pending,
        blocker: cache.blocker(key),
        rebuild_delay: cache.rebuild_delay(key),
        is_watched: cache.is_watched(key),
        sale,
    })
}

/// At the end a raised total may be pending, too; before the end that shows in the totals.
async fn adjustments_pending(connections: &Connections, sale: &Sale) -> Result<bool, ReconcileError> {
    let possible = sale.returned > 0 || sale.state == SaleState::Closed;
    if sale.settled_at_ms.is_some() || !possible {
        return Ok(false);
    }
    Ok(connections.ledger()?.has_pending_adjustments(sale.id).await?)
}

async fn probe(connections: &Connections, sale: &Sale) -> Result<Probe, ReconcileError> {
    Ok(connections.stock()?.probe(sale.id).await?)
}

async fn observe_index(
    connections: &Connections,
    sale: &Sale,
    probe: Result<Probe, ReconcileError>,
) -> Result<ObservedIndex, ReconcileError> {
    let probe = match probe {
        Ok(probe) => probe,
        Err(error) => return Ok(ObservedIndex::Unknown(error.to_string())),
    };
    if let Err(refused) = takes_an_index(&probe.server) {
        return Ok(ObservedIndex::NoServer(refused));
    }
    if sale.settled_at_ms.is_some() {
        // Its units were compared. Only whether its keys can be deleted matters.
        return Ok(ObservedIndex::Missing);
    }
    let Some(index) = probe.valid().cloned() else {
        return Ok(ObservedIndex::Missing);
    };
    let outdated = match sale.cut.closed {
        None => index_need(&index, sale) == Need::Rebuild,
        // After CLOSE the ledger does not tell which epoch was the last. That matters only if the figures differ, so this
        // part of the log is read only in that rare case.
        Some(closed) => {
            index.left != sale.left_at_rest() && barrier_between(connections, sale, index.epoch, closed).await?
        }
    };
    Ok(match outdated {
        true => ObservedIndex::Outdated(index.epoch),
        false => ObservedIndex::InForce(index),
    })
}

async fn barrier_between(
    connections: &Connections,
    sale: &Sale,
    epoch: Epoch,
    closed: i64,
) -> Result<bool, ReconcileError> {
    let mut found = false;
    connections
        .log()?
        .read(sale.partition, epoch.0 + 1, closed, |entry| {
            found |= matches!(entry.record, Ok(Record::Barrier { sale: of, .. }) if of == sale.id);
        })
        .await?;
    Ok(found)
}

/// Checks the index as it is now, or as it was at an earlier reconcile whose orders were in flight then.
async fn check_balance(
    connections: &Connections,
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
        true => Some(ledger_caught_up(connections, sale.partition).await?),
        false => None,
    };
    // After that, so that the units contain what was read of the log.
    let check = match connections.ledger()?.units(sale.id, sample.epoch, sample.seq).await? {
        Some(units) => sample.check(now, &units, sale.cut, caught_up),
        None => BalanceCheck::Superseded,
    };
    let history = history.after(now, sample, check);
    let reported = history.reported;
    cache.set_balance(key, history);
    Ok(reported)
}

/// Whether the ledger has read all that a partition holds now.
async fn ledger_caught_up(connections: &Connections, partition: u32) -> Result<bool, ReconcileError> {
    let end = connections.log()?.end_offset(partition).await?;
    let positions = connections.ledger()?.positions().await?;
    Ok(positions
        .iter()
        .any(|(of, position)| *of == partition && *position >= end))
}
