//! Ends the sales whose FlashSale was deleted. The ledger knows them, so no finalizer blocks a namespace.
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::Api;
use kube::api::{ApiResource, DynamicObject};
use seckill_crds::FlashSale;
use seckill_ledger::Sale;
use seckill_planner::orphan::{LiveAnswer, MissingSince, is_gone};
use seckill_planner::plan::{Step, plan};
use seckill_planner::sale::SaleKey;
use seckill_protocol::SaleId;
use seckill_protocol::index::SaleState;
use seckill_service::periodic;

use crate::cluster::watch::FlashSales;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::sale::act::act;
use crate::sale::observe::observe;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const MAX_CONCURRENT_ENDINGS: usize = 16;

pub async fn run(context: Arc<Context>, sales: FlashSales) {
    let mut missing = MissingSince::default();
    let mut ticks = periodic(CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = context.term.ending.cancelled() => return,
            _ = ticks.tick() => {}
        }
        forget_deleted(&context, &sales);
        if let Err(error) = end_orphans(&context, &sales, &mut missing).await {
            tracing::warn!(%error, "failed to read the unfinished sales of the ledger");
            context.metrics.failed("ledger");
        }
    }
}

/// What is kept of FlashSales ends with them.
fn forget_deleted(context: &Context, sales: &FlashSales) {
    let present = sales.keys();
    context.cache.keep(&present);
    context.metrics.keep(&present);
}

async fn end_orphans(context: &Context, sales: &FlashSales, missing: &mut MissingSince) -> Result<(), ReconcileError> {
    let release = &context.release;
    let unfinished = context.connections.ledger()?.unfinished_sales(&release.class).await?;
    let any_ending = unfinished.iter().any(|sale| sale.state == SaleState::Closed);
    context.cache.note_any_ending(any_ending);
    let orphaned = |sale: &Sale| {
        let known = release.namespaces.contain(&sale.namespace) && sales.are_known(&sale.namespace);
        known && !sales.has(&sale.class, &sale.namespace, &sale.name)
    };
    let orphans: Vec<Sale> = unfinished.into_iter().filter(orphaned).collect();
    let ids: Vec<SaleId> = orphans.iter().map(|sale| sale.id).collect();
    let due = missing.update(&ids, Instant::now());
    let due: Vec<SaleKey> = orphans
        .into_iter()
        .filter(|sale| due.contains(&sale.id))
        .map(|sale| SaleKey::new(sale.namespace, sale.name))
        .collect();
    futures::stream::iter(due)
        .for_each_concurrent(MAX_CONCURRENT_ENDINGS, async |key| {
            if let Err(error) = end_if_gone(context, sales, &key).await {
                tracing::warn!(sale = %key, %error, "failed to end a sale without a FlashSale");
                context.metrics.failed(error.label());
            }
        })
        .await;
    Ok(())
}

/// Carries out steps until there is something to wait for.
async fn end_if_gone(context: &Context, sales: &FlashSales, key: &SaleKey) -> Result<(), ReconcileError> {
    let answer = ask_api_server(context, sales, key).await?;
    if !is_gone(&answer, &context.release.class) {
        return Ok(());
    }
    loop {
        let observed = observe(context, key, None).await?;
        if !context.term.holds() {
            return Ok(());
        }
        let step = plan(&observed).step;
        if step == Step::Nothing {
            return Ok(());
        }
        act(&context.connections, &context.cache, &step).await?;
    }
}

/// Only a live answer counts: never a cache, and never the answer that a resource is not served.
async fn ask_api_server(context: &Context, sales: &FlashSales, key: &SaleKey) -> Result<LiveAnswer, kube::Error> {
    let SaleKey { namespace, name } = key;
    let resource = ApiResource::erase::<FlashSale>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.cluster.kube.clone(), namespace, &resource);
    match api.get(name).await {
        Ok(object) => Ok(LiveAnswer::Found {
            class: object.data["spec"]["className"].as_str().map(str::to_owned),
        }),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let names_object = status.details.as_ref().is_some_and(|details| details.name == *name);
            Ok(match names_object {
                true => LiveAnswer::NotFound,
                false => LiveAnswer::Inconclusive,
            })
        }
        Err(kube::Error::Api(status)) if status.code == 403 && sales.saw_deletion(key) => {
            Ok(LiveAnswer::ForbiddenAfterDeletion)
        }
        Err(error) => Err(error),
    }
}
