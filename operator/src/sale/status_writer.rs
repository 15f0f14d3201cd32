//! Writes statuses and events beside the reconciles: selling first, reporting after. An API server that is slow or away
//! delays no rebuild, no publication and no end of a sale.
use std::sync::Arc;

use futures::StreamExt as _;
use seckill_planner::SaleKey;

use crate::cluster::events;
use crate::context::Context;
use crate::sale::status;
use crate::status_queue::{DueStatuses, NewStatus, Waiting};

const MAX_CONCURRENT_STATUS_WRITES: usize = 16;

/// Runs until the leadership term ends.
pub async fn write_statuses(context: Arc<Context>, due: DueStatuses) {
    due.0
        .for_each_concurrent(MAX_CONCURRENT_STATUS_WRITES, |key| {
            let context = &context;
            async move {
                while let Some(news) = context.statuses.take(&key) {
                    write(context, &key, news).await;
                }
            }
        })
        .await;
}

async fn write(context: &Context, key: &SaleKey, news: Waiting) {
    let Waiting {
        object,
        status,
        mut notes,
    } = news;
    let (kube, uid) = (&context.cluster.kube, object.uid.as_deref().unwrap_or_default());
    let written = match status {
        Some(NewStatus::Known(status)) => status::write(kube, key, uid, &status).await,
        Some(NewStatus::Refused(refusal)) => status::refuse(context, key, uid, &refusal).await,
        None => Ok(()),
    };
    if let Err(error) = written {
        if status::is_gone(kube, key, uid, &error).await {
            tracing::info!(sale = %key, uid, "the FlashSale was deleted before its status was written");
        } else {
            tracing::warn!(sale = %key, %error, "failed to write the status");
            context.metrics.failed("kubernetes");
        }
        context.cache.not_written(key);
        notes.retain(|note| !note.of_status);
    }
    let notes = notes.into_iter().map(|note| note.note);
    events::publish(&context.cluster.recorder, &object, notes).await;
}
