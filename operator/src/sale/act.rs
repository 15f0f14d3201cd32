//! Does the one step of a plan. There is nothing left to decide here.
use seckill_ledger::{LedgerError, Sale};
use seckill_protocol::Record;
use seckill_protocol::settlement::Settlement;

use crate::error::OperatorError;
use crate::facts::{Facts, Index, Wanted};
use crate::plan::{Plan, Step, compared};
use crate::run::Operator;
use crate::status::{Note, Notes};

impl Operator {
    /// Says what is worth an event.
    pub async fn act(&self, namespace: &str, name: &str, facts: &Facts, plan: &Plan) -> Result<Notes, OperatorError> {
        let mut notes = Notes::default();
        match (&plan.step, &facts.wanted, &facts.sale) {
            (Step::Create, Some(wanted), _) => {
                let sale = self.create(namespace, name, wanted).await?;
                notes.push(Note::normal(
                    "Accepted",
                    format!("the ledger knows it as sale {}", sale.id),
                ));
            }
            (Step::UpdateOffer, Some(wanted), Some(sale)) => {
                self.ledger.update_offer(sale.id, sale.version, &wanted.offer()).await?;
            }
            (Step::UpdateTerms(terms), _, Some(sale)) => {
                self.ledger.update_terms(sale.id, sale.version, terms).await?;
            }
            (Step::RaiseOffer(units), _, Some(sale)) => {
                self.ledger.raise_offered(sale.id, sale.version, *units).await?;
            }
            (Step::AppendTotal, _, Some(sale)) => {
                let (sale, total) = (sale.id, sale.offered);
                let record = Record::Total { sale, total };
                let part = facts.sale.as_ref().map_or(0, |sale| sale.part);
                let offset = self.log.append(part, &record).await?;
                self.memory.remember_total(sale, total);
                tracing::info!(%sale, total, offset, "the total was raised");
                notes.push(Note::normal(
                    "Restocked",
                    format!("{total} units are offered from now on"),
                ));
            }
            (Step::Rebuild, _, Some(sale)) => {
                let rebuilt = self.rebuild(sale).await?;
                let numbers = format!(
                    "epoch {}: {} units, {} left, {} orders, in {:.1} s",
                    rebuilt.epoch,
                    rebuilt.total,
                    rebuilt.left,
                    rebuilt.orders,
                    rebuilt.took.as_secs_f64()
                );
                let voided = match rebuilt.voided {
                    Some(voided) => format!("{voided} purchases on their way are void and asked again"),
                    None => "purchases that were on their way are void and asked again".to_owned(),
                };
                notes.push(match (sale.live_epoch, &facts.index) {
                    (None, _) => Note::normal("Preheated", numbers),
                    (Some(old), Index::Outdated(_)) => Note::warning(
                        "Rebuilt",
                        format!("a newer epoch than {old} had begun without an index; {numbers}; {voided}"),
                    ),
                    (Some(old), _) => Note::warning(
                        "Rebuilt",
                        format!("Redis had lost the index of epoch {old}; {numbers}; {voided}"),
                    ),
                });
            }
            (Step::Publish(epoch), _, Some(sale)) => {
                self.ledger.set_live_epoch(sale.id, *epoch).await?;
                self.stock.drop_epochs_before(sale.id, *epoch).await?;
            }
            (Step::Renumber(version), _, Some(sale)) => {
                self.ledger.renumber_terms(sale.id, sale.version, *version).await?;
            }
            (Step::ApplyTerms(epoch), _, Some(sale)) => {
                // If it is not in force any more, the next look says what is needed.
                self.stock.apply(sale.id, *epoch, &sale.terms()).await?;
            }
            (Step::Close, _, Some(sale)) => {
                let offset = self.log.append(sale.part, &Record::Close { sale: sale.id }).await?;
                self.memory.remember_close(sale.id);
                tracing::info!(sale = %sale.id, offset, "closed");
            }
            (Step::Settle(left), _, Some(sale)) => {
                // Whoever comes second keeps to what the first one found.
                if self.ledger.set_settled(sale.id, *left).await? {
                    notes.push(settled(sale, *left));
                }
            }
            (Step::Free, _, Some(sale)) => {
                self.stock.drop_sale(sale.id).await?;
                self.ledger.set_freed(sale.id).await?;
                self.memory.forget_appended(sale.id);
            }
            (Step::Nothing, ..) | (_, _, None) | (Step::Create | Step::UpdateOffer, None, _) => {}
        }
        Ok(notes)
    }

    async fn create(&self, namespace: &str, name: &str, wanted: &Wanted) -> Result<Sale, LedgerError> {
        // Any choice does that spreads sales evenly: the ledger keeps it for the sale's life.
        let hash = name
            .bytes()
            .chain(namespace.bytes())
            .fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let part = hash % self.log.partitions();
        self.ledger
            .create_sale(&wanted.new_sale(&self.class, namespace, name, part))
            .await
    }
}

fn settled(sale: &Sale, left: Option<u64>) -> Note {
    let (total, sold) = (sale.total, sale.sold);
    if let Some(Settlement::Uneven { live, found, .. }) = left.map(|left| compared(sale, left)) {
        tracing::error!(sale = %sale.id, total, live, found, "the ledger and Redis disagree at the end of the sale");
    }
    let remaining = total.saturating_sub(sold);
    Note::normal("Settled", format!("{total} units: {sold} sold, {remaining} left"))
}
