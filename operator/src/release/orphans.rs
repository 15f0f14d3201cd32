//! Ends the sales whose FlashSale was deleted: the ledger knows them, so no finalizer holds a namespace up.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::Api;
use kube::api::{ApiResource, DynamicObject};
use seckill_crds::FlashSale;
use seckill_ledger::{LedgerError, Sale};
use seckill_protocol::SaleId;
use seckill_protocol::index::SaleState;

use crate::error::OperatorError;
use crate::plan::{Step, plan};
use crate::run::Operator;
use crate::watch::Sales;

const EVERY: Duration = Duration::from_secs(1);
/// A FlashSale that is replaced is gone for a moment, and its sale goes on.
const GONE_FOR_GOOD: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;

pub async fn run(operator: Arc<Operator>, sales: Sales) {
    let ending = &operator.term.ending;
    let mut missing = HashMap::new();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            _ = every.tick() => {}
        }
        operator.forget_what_is_gone(&sales);
        if let Err(error) = end_orphans(&operator, &sales, &mut missing).await {
            tracing::warn!(%error, "the ledger's unfinished sales can't be read");
            operator.metrics.failed("ledger");
        }
    }
}

async fn end_orphans(
    operator: &Operator,
    sales: &Sales,
    missing: &mut HashMap<SaleId, Instant>,
) -> Result<(), LedgerError> {
    let unfinished = operator.ledger.unfinished_sales(&operator.class).await?;
    let any_ending = unfinished.iter().any(|sale| sale.state == SaleState::Closed);
    operator.memory.note_any_ending(any_ending);
    let without: Vec<Sale> = unfinished
        .into_iter()
        .filter(|sale| operator.namespaces.contain(&sale.namespace) && sales.know(&sale.namespace))
        .filter(|sale| !sales.has(&sale.class, &sale.namespace, &sale.name))
        .collect();
    missing.retain(|id, _| without.iter().any(|sale| sale.id == *id));
    let gone = without
        .iter()
        .filter(|sale| missing.entry(sale.id).or_insert_with(Instant::now).elapsed() >= GONE_FOR_GOOD);
    futures::stream::iter(gone.collect::<Vec<_>>())
        .for_each_concurrent(AT_ONCE, async |sale| {
            if let Err(error) = end_if_gone(operator, sales, &sale.namespace, &sale.name).await {
                tracing::warn!(namespace = sale.namespace, name = sale.name, %error, "a sale without a FlashSale can't be ended");
                operator.metrics.failed(error.label());
            }
        })
        .await;
    Ok(())
}

/// Gets on until there is something to wait for.
async fn end_if_gone(operator: &Operator, sales: &Sales, namespace: &str, name: &str) -> Result<(), OperatorError> {
    if !is_gone(operator, sales, namespace, name).await? {
        return Ok(());
    }
    loop {
        let facts = operator.facts(namespace, name, None).await?;
        if !operator.term.holds() {
            return Ok(());
        }
        let plan = plan(&facts);
        operator.act(namespace, name, &facts, &plan).await?;
        if plan.step == Step::Nothing {
            return Ok(());
        }
    }
}

/// Only a live answer counts that this one object is not there, or that it is of another class and so another sale: never
/// a cache, a refusal, or a resource that is not served. Where a refusal comes because the right went with the namespace,
/// the watch may have seen the deletion before.
async fn is_gone(operator: &Operator, sales: &Sales, namespace: &str, name: &str) -> Result<bool, kube::Error> {
    let resource = ApiResource::erase::<FlashSale>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(operator.kube.clone(), namespace, &resource);
    match api.get(name).await {
        Ok(object) => {
            let class = object.data["spec"]["className"].as_str();
            Ok(class.is_some_and(|class| class != operator.class))
        }
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Ok(status.details.as_ref().is_some_and(|details| details.name == name))
        }
        Err(kube::Error::Api(status)) if status.code == 403 && sales.saw_deletion(namespace, name) => Ok(true),
        Err(error) => Err(error),
    }
}
