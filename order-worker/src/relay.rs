//! Publishes what was sold and did not reach the log, because the process that sold it died in between; and trims the
//! outbox of what is stored.
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use seckill_ledger::{Ledger, LedgerError, Sale};
use seckill_order_log::{LogError, OrderLog};
use seckill_protocol::{Batch, Epoch, Offset, Record, SaleId, Seq};
use seckill_service::Shutdown;
use seckill_stock::{OutboxEntry, StockClient, StockError};
use tokio::sync::watch;

use crate::consume::Positions;
use crate::metrics::Metrics;
use crate::passes::Passes;

const EVERY: Duration = Duration::from_millis(200);
/// Whoever sold it has published it by then, or never will.
const ORPHANED: Duration = Duration::from_millis(500);
/// A record that was published is given this time to be stored.
const PATIENCE: Duration = Duration::from_secs(2);
/// Entries that are read at once.
const PAGE: usize = 500;

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Log(#[from] LogError),
}

pub struct Relay {
    pub ledger: Ledger,
    pub log: OrderLog,
    pub redis_url: String,
    pub positions: watch::Receiver<Positions>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

impl Relay {
    /// Until the shutdown. Whatever fails is tried again in the next pass; storing does not wait for it.
    pub async fn run(self) {
        let mut stock = None;
        let mut orphans = Orphans::default();
        let mut passes = Passes::of("the relay");
        loop {
            passes.note(self.pass(&mut stock, &mut orphans).await);
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Looks at each sale once. One that fails does not keep the others from being looked at.
    async fn pass(&self, stock: &mut Option<StockClient>, orphans: &mut Orphans) -> Result<(), RelayError> {
        // Before the stored orders are looked at: what stands before it in the log is among them then.
        let positions = self.positions.borrow().clone();
        if positions.is_empty() {
            return Ok(());
        }
        let stock = match stock {
            Some(stock) => &*stock,
            None => &*stock.insert(StockClient::connect(&self.redis_url).await?),
        };
        let mut result = Ok(());
        orphans.begin_pass();
        for sale in self.ledger.selling_sales().await? {
            if let (Some(position), Some(epoch)) = (positions.get(&sale.part), sale.live_epoch)
                && let Err(error) = self.sale(stock, &sale, epoch, *position, orphans).await
            {
                result = Err(error);
            }
        }
        orphans.end_pass();
        result
    }

    async fn sale(
        &self,
        stock: &StockClient,
        sale: &Sale,
        epoch: Epoch,
        position: Offset,
        orphans: &mut Orphans,
    ) -> Result<(), RelayError> {
        let mut after = 0;
        loop {
            let entries = stock.outbox(sale.id, epoch, after, PAGE).await?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
                return Ok(());
            };
            let (first, last) = (first.batch.first, last.batch.last());
            let stored = self.ledger.folded_seqs(sale.id, epoch, first, last).await?;
            let done = entries
                .iter()
                .take_while(|entry| is_stored(&entry.batch, &stored))
                .count();
            if let Some(through) = entries[..done].last() {
                let trimmed = stock.trim_outbox(sale.id, epoch, through.batch.last()).await?;
                self.metrics.trimmed.inc_by(trimmed);
            }
            // After CLOSE what is missing is void, whoever publishes it.
            if sale.cut.closed.is_none() {
                let rest = entries[done..].iter().filter(|entry| !is_stored(&entry.batch, &stored));
                self.publish(sale.part, rest, position, orphans).await?;
            }
            if done < PAGE {
                return Ok(());
            }
            after = last;
        }
    }

    async fn publish(
        &self,
        part: u32,
        missing: impl Iterator<Item = &OutboxEntry>,
        position: Offset,
        orphans: &mut Orphans,
    ) -> Result<(), RelayError> {
        let mut end = None;
        for entry in missing.filter(|entry| entry.age >= ORPHANED) {
            match orphans.next_step(&entry.batch, position, Instant::now()) {
                Step::Wait => {}
                Step::NoteEnd => {
                    let end = match end {
                        Some(end) => end,
                        None => *end.insert(self.log.end_offset(part).await?),
                    };
                    orphans.note_end(&entry.batch, end);
                }
                Step::Publish if seckill_failpoint::breaks("no-relay") => {}
                Step::Publish => {
                    seckill_failpoint::reach("relay.before-append");
                    self.log.append_now(part, &Record::Batch(entry.batch.clone()))?;
                    seckill_failpoint::reach("relay.after-append");
                    orphans.note_published(&entry.batch, Instant::now());
                    self.metrics.republished.inc();
                    let Batch { sale, epoch, first, .. } = &entry.batch;
                    tracing::info!(%sale, %epoch, first, last = entry.batch.last(), "published an orphaned batch");
                }
            }
        }
        Ok(())
    }
}

/// All orders of the batch are among the stored ones, which are in order and without repetition.
fn is_stored(batch: &Batch, stored: &[Seq]) -> bool {
    let from = stored.partition_point(|seq| *seq < batch.first);
    let to = stored.partition_point(|seq| *seq <= batch.last());
    to - from == batch.orders.len()
}

type Key = (SaleId, Epoch, Seq);

fn key(batch: &Batch) -> Key {
    (batch.sale, batch.epoch, batch.first)
}

/// Old entries that are not stored. That alone does not make them orphans: while the worker is behind, they may well be
/// in the log, and publishing all of them again would put it behind for ever. So the end of the log is noted, and an
/// entry is published when all up to there is stored and it is still missing.
#[derive(Debug, Default)]
struct Orphans {
    known: HashMap<Key, Noted>,
    seen: HashSet<Key>,
}

#[derive(Debug, Clone, Copy)]
enum Noted {
    End(Offset),
    Published(Instant),
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    NoteEnd,
    Publish,
}

impl Orphans {
    fn begin_pass(&mut self) {
        self.seen.clear();
    }

    /// Forgets what was not seen in this pass: it is stored, or of an epoch that is over.
    fn end_pass(&mut self) {
        self.known.retain(|key, _| self.seen.contains(key));
    }

    fn next_step(&mut self, batch: &Batch, position: Offset, now: Instant) -> Step {
        self.seen.insert(key(batch));
        match self.known.get(&key(batch)) {
            None => Step::NoteEnd,
            Some(Noted::End(end)) if position >= *end => Step::Publish,
            Some(Noted::Published(at)) if now.duration_since(*at) >= PATIENCE => Step::NoteEnd,
            Some(_) => Step::Wait,
        }
    }

    fn note_end(&mut self, batch: &Batch, end: Offset) {
        self.known.insert(key(batch), Noted::End(end));
    }

    fn note_published(&mut self, batch: &Batch, now: Instant) {
        self.known.insert(key(batch), Noted::Published(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_protocol::{Buyer, KeyHash, Order};

    fn batch(first: Seq, orders: usize) -> Batch {
        let order = Order {
            buyer: Buyer::anonymous("k"),
            quantity: 1,
            tier: 0,
            key: KeyHash(1),
        };
        Batch {
            sale: SaleId(1),
            epoch: Epoch(2),
            first,
            orders: vec![order; orders],
        }
    }

    #[test]
    fn a_batch_is_stored_when_all_its_orders_are() {
        let stored = [1, 2, 3, 5, 6];
        assert!(is_stored(&batch(1, 3), &stored));
        assert!(is_stored(&batch(5, 2), &stored));
        assert!(!is_stored(&batch(3, 3), &stored));
        assert!(!is_stored(&batch(6, 2), &stored));
        assert!(!is_stored(&batch(9, 1), &stored));
    }

    #[test]
    fn an_entry_is_published_only_once_all_that_was_in_the_log_is_stored() {
        let (mut orphans, now) = (Orphans::default(), Instant::now());
        assert_eq!(orphans.next_step(&batch(1, 1), 10, now), Step::NoteEnd);
        orphans.note_end(&batch(1, 1), 20);
        assert_eq!(orphans.next_step(&batch(1, 1), 19, now), Step::Wait);
        assert_eq!(orphans.next_step(&batch(1, 1), 20, now), Step::Publish);
    }

    #[test]
    fn a_published_entry_is_left_alone_for_a_while() {
        let (mut orphans, now) = (Orphans::default(), Instant::now());
        orphans.note_published(&batch(1, 1), now);
        assert_eq!(orphans.next_step(&batch(1, 1), 99, now), Step::Wait);
        assert_eq!(orphans.next_step(&batch(1, 1), 99, now + PATIENCE), Step::NoteEnd);
    }

    #[test]
    fn what_is_no_longer_in_the_outbox_is_forgotten() {
        let (mut orphans, now) = (Orphans::default(), Instant::now());
        orphans.note_end(&batch(1, 1), 20);
        orphans.note_end(&batch(2, 1), 20);
        orphans.begin_pass();
        orphans.next_step(&batch(2, 1), 0, now);
        orphans.end_pass();
        assert_eq!(orphans.known.len(), 1);
    }
}
