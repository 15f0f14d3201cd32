//! Notices changes of the sales that sell: each second all their rows in one query, and all their indexes in one pipelined probe.
//! A sale that changed is reconciled at once. So the others, which are most of them most of the time, need a reconcile only
//! now and then.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use seckill_ledger::Sale;
use seckill_planner::SaleKey;
use seckill_planner::ownership::Ownership;
use seckill_protocol::SaleId;
use seckill_protocol::index::SaleState;
use seckill_service::periodic;
use seckill_stock::Probe;

use crate::context::Context;
use crate::error::ReconcileError;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What was seen of a sale.
type Seen = HashMap<SaleId, (Sale, Probe)>;

/// Runs until the leadership term ends.
pub async fn run(context: Arc<Context>) {
    let mut ticks = periodic(CHECK_INTERVAL);
    let mut last = Seen::new();
    loop {
        ticks.tick().await;
        if !context.term.holds() {
            continue;
        }
        // What fails is noted by the reconciles, each for its sale.
        let seen = observe(&context).await.unwrap_or_default();
        let changed = changed(&last, &seen);
        context
            .cache
            .set_watched(seen.values().map(|(sale, _)| key(sale)).collect());
        for key in changed {
            context.changes.send(key);
        }
        last = seen;
    }
}

async fn observe(context: &Context) -> Result<Seen, ReconcileError> {
    let release = &context.release;
    let mut sales = context.connections.ledger()?.unfinished_sales(&release.class).await?;
    sales.retain(|sale| {
        let is_ours = release.cluster.ownership(sale.cluster.as_deref()) == Ownership::Ours;
        is_ours && sale.live_epoch.is_some() && sale.state != SaleState::Closed
    });
    let ids: Vec<SaleId> = sales.iter().map(|sale| sale.id).collect();
    let probes = context.connections.stock()?.probe_all(&ids).await?;
    let seen = sales.into_iter().zip(probes).filter_map(|(sale, probe)| {
        let mut probe = probe?;
        // It always changes.
        probe.server.now = 0;
        Some((sale.id, (sale, probe)))
    });
    Ok(seen.collect())
}

/// The sales that are not as they were seen last, with those that are seen no more.
fn changed(last: &Seen, seen: &Seen) -> Vec<SaleKey> {
    let differing = seen.iter().filter(|(id, now)| last.get(id) != Some(now));
    let gone = last.iter().filter(|(id, _)| !seen.contains_key(id));
    differing.chain(gone).map(|(_, (sale, _))| key(sale)).collect()
}

fn key(sale: &Sale) -> SaleKey {
    SaleKey::new(&sale.namespace, &sale.name)
}
