//! Carries out the step of a plan. There is nothing left to decide here.
use seckill_planner::SaleKey;
use seckill_planner::plan::{FinalBalance, RebuildCause, Step};
use seckill_protocol::{Record, SaleId};

use crate::cluster::events::Note;
use crate::context::Connections;
use crate::error::ReconcileError;
use crate::reconcile_cache::ReconcileCache;
use crate::sale::identity::{ensure_identity, has_unread_record};
use crate::sale::rebuild::{Rebuilt, rebuild};

/// Returns what is worth an event.
pub async fn act(
    connections: &Connections,
    cache: &ReconcileCache,
    step: &Step,
) -> Result<Option<Note>, ReconcileError> {
    match step {
        Step::Nothing => {}
        Step::Create(new) => {
            // What was read of the log for this row allows no second one.
            cache.forget_absent(&SaleKey::new(&new.namespace, &new.name));
            let sale = connections.ledger()?.create_sale(new).await?;
            let message = format!("added to the ledger as sale {}", sale.id);
            return Ok(Some(Note::normal("Accepted", message)));
        }
        Step::Claim { sale, from, cluster } => {
            if connections
                .ledger()?
                .claim_sale(*sale, from.as_deref(), cluster)
                .await?
            {
                let from = from.as_deref().unwrap_or("no cluster");
                tracing::info!(%sale, from, cluster, "claimed a sale");
                return Ok(Some(Note::normal("Claimed", format!("taken over from {from}"))));
            }
        }
        Step::RecordDeletion { sale, at } => {
            if connections.ledger()?.record_deletion(*sale, *at).await? {
                tracing::info!(%sale, "the FlashSale was deleted; suspending the sale");
            }
        }
        Step::ForgetDeletion { sale } => {
            if connections.ledger()?.forget_deletion(*sale).await? {
                tracing::info!(%sale, "the deletion of the FlashSale no longer counts");
            }
        }
        Step::UpdateOffer { sale, offer, format } => {
            let (ledger, log) = (connections.ledger()?, connections.log()?);
            // What a preheating that failed has appended is fixed, whether or not the ledger has read it.
            if let Some(row) = ledger.sale(sale.id).await?
                && has_unread_record(ledger, log, &row).await?
            {
                return Err(ReconcileError::Unread(sale.id));
            }
            ledger.update_offer(sale.id, sale.version, offer, *format).await?;
        }
        Step::UpdateTerms { sale, terms } => {
            connections.ledger()?.update_terms(sale.id, sale.version, terms).await?;
        }
        Step::RaiseOffer { sale, units } => {
            connections
                .ledger()?
                .raise_offered(sale.id, sale.version, *units)
                .await?;
        }
        Step::Renumber { sale, version } => {
            connections
                .ledger()?
                .renumber_terms(sale.id, sale.version, *version)
                .await?;
        }
        Step::AppendTotal { sale, partition, total } => {
            let (sale, total) = (*sale, *total);
            let offset = connections
                .log()?
                .append(*partition, &Record::Total { sale, total })
                .await?;
            cache.remember_total(sale, total);
            tracing::info!(%sale, total, offset, "raised the total");
            return Ok(Some(Note::normal(
                "Restocked",
                format!("{total} units are offered now"),
            )));
        }
        Step::Rebuild { sale, cause } => {
            let rebuilt = rebuild(&connections.stores()?, sale).await?;
            let in_a_row = cache.note_rebuild(&SaleKey::new(&sale.namespace, &sale.name));
            if in_a_row > 1 {
                tracing::warn!(sale = %sale.id, in_a_row, ?cause, "rebuilt an index again, soon after the last rebuild");
            }
            return Ok(Some(rebuilt_note(&rebuilt, *cause, in_a_row)));
        }
        Step::Publish { sale, epoch } => {
            connections.ledger()?.set_live_epoch(*sale, *epoch).await?;
            connections.stock()?.drop_epochs_before(*sale, *epoch).await?;
        }
        Step::ApplyTerms { sale, epoch, terms } => {
            // If that index is not in force any more, the next observation shows what is needed.
            connections.stock()?.apply(*sale, *epoch, terms).await?;
        }
        Step::Close { sale, partition } => {
            let (ledger, log) = (connections.ledger()?, connections.log()?);
            // A ledger that has lost the row meets CLOSE again, and has to know whose it is.
            if let Some(row) = ledger.sale(*sale).await? {
                ensure_identity(ledger, log, &row).await?;
            }
            let offset = log.append(*partition, &Record::Close { sale: *sale }).await?;
            cache.remember_close(*sale);
            tracing::info!(%sale, offset, "closed the sale");
        }
        Step::Settle { sale, balance } => {
            // A second coordinator keeps to what the first one found.
            if connections.ledger()?.set_settled(*sale, balance.index_left).await? {
                return Ok(Some(settled_note(*sale, balance)));
            }
        }
        Step::FreeName { sale } => {
            if connections.ledger()?.free_name(*sale).await? {
                tracing::info!(%sale, "freed the name of a sale that never offered a unit");
            }
        }
        Step::Free { sale } => {
            connections.stock()?.drop_sale(*sale).await?;
            connections.ledger()?.set_freed(*sale).await?;
            cache.forget_appended(*sale);
        }
    }
    Ok(None)
}

fn rebuilt_note(rebuilt: &Rebuilt, cause: RebuildCause, in_a_row: u32) -> Note {
    let mut figures = format!(
        "epoch {}: {} units, {} left, {} orders, in {:.1} s",
        rebuilt.epoch,
        rebuilt.total,
        rebuilt.left,
        rebuilt.orders,
        rebuilt.took.as_secs_f64()
    );
    if in_a_row > 1 {
        figures.push_str(&format!("; rebuild {in_a_row} in a row"));
    }
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
