//! Carries out the step of a plan. There is nothing left to decide here.
use seckill_planner::SaleKey;
use seckill_planner::plan::{FinalBalance, RebuildCause, Step};
use seckill_protocol::{Record, SaleId};

use crate::cluster::events::Note;
use crate::context::Stores;
use crate::error::ReconcileError;
use crate::reconcile_cache::ReconcileCache;
use crate::sale::rebuild::{Rebuilt, rebuild};

/// Returns what is worth an event.
pub async fn act(stores: &Stores, cache: &ReconcileCache, step: &Step) -> Result<Option<Note>, ReconcileError> {
    let Stores { ledger, log, stock } = stores;
    match step {
        Step::Nothing => {}
        Step::Create(new) => {
            // What was read of the log for this row allows no second one.
            cache.forget_absent(&SaleKey::new(&new.namespace, &new.name));
            let sale = ledger.create_sale(new).await?;
            let message = format!("added to the ledger as sale {}", sale.id);
            return Ok(Some(Note::normal("Accepted", message)));
        }
        Step::UpdateOffer { sale, offer } => {
            ledger.update_offer(sale.id, sale.version, offer).await?;
        }
        Step::UpdateTerms { sale, terms } => {
            ledger.update_terms(sale.id, sale.version, terms).await?;
        }
        Step::RaiseOffer { sale, units } => {
            ledger.raise_offered(sale.id, sale.version, *units).await?;
        }
        Step::Renumber { sale, version } => {
            ledger.renumber_terms(sale.id, sale.version, *version).await?;
        }
        Step::AppendTotal { sale, partition, total } => {
            let (sale, total) = (*sale, *total);
            let offset = log.append(*partition, &Record::Total { sale, total }).await?;
            cache.remember_total(sale, total);
            tracing::info!(%sale, total, offset, "raised the total");
            return Ok(Some(Note::normal(
                "Restocked",
                format!("{total} units are offered now"),
            )));
        }
        Step::Rebuild { sale, cause } => {
            let rebuilt = rebuild(stores, sale).await?;
            return Ok(Some(rebuilt_note(&rebuilt, *cause)));
        }
        Step::Publish { sale, epoch } => {
            ledger.set_live_epoch(*sale, *epoch).await?;
            stock.drop_epochs_before(*sale, *epoch).await?;
        }
        Step::ApplyTerms { sale, epoch, terms } => {
            // If that index is not in force any more, the next observation shows what is needed.
            stock.apply(*sale, *epoch, terms).await?;
        }
        Step::Close { sale, partition } => {
            let offset = log.append(*partition, &Record::Close { sale: *sale }).await?;
            cache.remember_close(*sale);
            tracing::info!(%sale, offset, "closed the sale");
        }
        Step::Settle { sale, balance } => {
            // A second coordinator keeps to what the first one found.
            if ledger.set_settled(*sale, balance.index_left).await? {
                return Ok(Some(settled_note(*sale, balance)));
            }
        }
        Step::Free { sale } => {
            stock.drop_sale(*sale).await?;
            ledger.set_freed(*sale).await?;
            cache.forget_appended(*sale);
        }
    }
    Ok(None)
}

fn rebuilt_note(rebuilt: &Rebuilt, cause: RebuildCause) -> Note {
    let figures = format!(
        "epoch {}: {} units, {} left, {} orders, in {:.1} s",
        rebuilt.epoch,
        rebuilt.total,
        rebuilt.left,
        rebuilt.orders,
        rebuilt.took.as_secs_f64()
    );
    let voided = match rebuilt.voided {
        Some(voided) => format!("{voided} purchases in flight became void and are retried"),
        None => "purchases in flight became void and are retried".to_owned(),
    };
    match cause {
        RebuildCause::Preheat => Note::normal("Preheated", figures),
        RebuildCause::Outdated(old) => Note::warning(
            "Rebuilt",
            format!("a newer epoch than {old} had begun without an index; {figures}; {voided}"),
        ),
        RebuildCause::Lost(old) => Note::warning(
            "Rebuilt",
            format!("Redis had lost the index of epoch {old}; {figures}; {voided}"),
        ),
    }
}

fn settled_note(sale: SaleId, balance: &FinalBalance) -> Note {
    let FinalBalance { total, sold, .. } = balance;
    if let Some((live, found)) = balance.mismatch {
        tracing::error!(%sale, total, live, found, "the ledger and Redis disagree at the end of the sale");
    }
    Note::normal(
        "Settled",
        format!("{total} units: {sold} sold, {} left", balance.remaining()),
    )
}
