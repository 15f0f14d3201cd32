//! Publishes orphaned batches: batches that were sold and did not reach the log because the selling process died in
//! between. It also trims stored batches from the outbox.
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use seckill_ledger::{Ledger, LedgerError, Sale};
use seckill_order_log::{LogError, OrderLog};
use seckill_protocol::{Batch, Epoch, Offset, Record, SaleId, Seq};
use seckill_service::{FailureLog, Shutdown};
use seckill_stock::{OutboxEntry, RedisConfig, StockClient, StockError};
use tokio::sync::watch;

use crate::consume::Positions;
use crate::metrics::Metrics;

const RELAY_INTERVAL: Duration = Duration::from_millis(200);
/// The selling process has published its batch this long after the relay saw it first, or never will. The clock of Redis
/// does not count: it may step back, and another server has another one.
const ORPHAN_AGE: Duration = Duration::from_millis(500);
/// Time limit for a published record to be stored, before it is published again.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// Outbox entries in one read.
const PAGE_SIZE: usize = 500;

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
    pub redis: RedisConfig,
    pub positions: watch::Receiver<Positions>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

impl Relay {
    /// Runs until shutdown. A failure is retried in the next pass. Storing does not wait for it.
    pub async fn run(self) {
        let mut stock = None;
        let mut orphans = Orphans::default();
        let mut failures = FailureLog::first_only();
        loop {
            failures.note("relaying the outbox", self.pass(&mut stock, &mut orphans).await);
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(RELAY_INTERVAL) => {}
            }
        }
    }

    /// Checks each sale once. A failure of one sale does not stop the others.
    async fn pass(&self, stock: &mut Option<StockClient>, orphans: &mut Orphans) -> Result<(), RelayError> {
        // Read before the stored orders: these then contain all that the log holds below the positions.
        let positions = self.positions.borrow().clone();
        if positions.is_empty() {
            return Ok(());
        }
        let stock = match stock {
            Some(stock) => &*stock,
            None => &*stock.insert(StockClient::connect_to(&self.redis).await?),
        };
        let mut result = Ok(());
        orphans.begin_pass();
        for sale in self.ledger.selling_sales().await? {
            if let (Some(position), Some(epoch)) = (positions.get(&sale.partition), sale.live_epoch)
                && let Err(error) = self.relay_sale(stock, &sale, epoch, *position, orphans).await
            {
                result = Err(error);
            }
        }
        orphans.end_pass();
        result
    }

    async fn relay_sale(
        &self,
        stock: &StockClient,
        sale: &Sale,
        epoch: Epoch,
        position: Offset,
        orphans: &mut Orphans,
    ) -> Result<(), RelayError> {
        let mut after = 0;
        loop {
            let entries = stock.outbox(sale.id, epoch, after, PAGE_SIZE).await?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
                return Ok(());
            };
            let (first, last) = (first.batch.first, last.batch.last());
            let stored = self.ledger.folded_seqs(sale.id, epoch, first, last).await?;
            let stored_count = entries
                .iter()
                .take_while(|entry| is_stored(&entry.batch, &stored))
                .count();
            if let Some(through) = entries[..stored_count].last() {
                let trimmed = stock.trim_outbox(sale.id, epoch, through.batch.last()).await?;
                self.metrics.trimmed.inc_by(trimmed);
            }
            // After CLOSE a missing batch is void, so nobody publishes it.
            if sale.cut.closed.is_none() {
                let missing = entries[stored_count..]
                    .iter()
                    .filter(|entry| !is_stored(&entry.batch, &stored));
                self.publish(sale.partition, missing, position, orphans).await?;
            }
            if stored_count < PAGE_SIZE {
                return Ok(());
            }
            after = last;
        }
    }

    async fn publish(
        &self,
        partition: u32,
        missing: impl Iterator<Item = &OutboxEntry>,
        position: Offset,
        orphans: &mut Orphans,
    ) -> Result<(), RelayError> {
        let mut end = None;
        for entry in missing {
            match orphans.next_action(&entry.batch, position, Instant::now()) {
                OrphanAction::Wait => {}
                OrphanAction::NoteEnd => {
                    let end = match end {
                        Some(end) => end,
                        None => *end.insert(self.log.end_offset(partition).await?),
                    };
                    orphans.note_end(&entry.batch, end);
                }
                OrphanAction::Publish if seckill_failpoint::breaks("no-relay") => {}
                OrphanAction::Publish => {
                    seckill_failpoint::reach("relay.before-append");
                    self.log.append_now(partition, &Record::Batch(entry.batch.clone()))?;
                    seckill_failpoint::reach("relay.after-append");
                    orphans.note_published(&entry.batch, Instant::now());
                    self.metrics.republished.inc();
                    let Batch { sale, epoch, first, .. } = &entry.batch;
                    let (last, sold_at) = (entry.batch.last(), entry.at);
                    tracing::info!(%sale, %epoch, first, last, sold_at, "published an orphaned batch");
                }
            }
        }
        Ok(())
    }
}

/// Whether all orders of the batch are stored. `stored` is sorted and has no duplicates.
fn is_stored(batch: &Batch, stored: &[Seq]) -> bool {
    let from = stored.partition_point(|seq| *seq < batch.first);
    let to = stored.partition_point(|seq| *seq <= batch.last());
    to - from == batch.orders.len()
}

type BatchKey = (SaleId, Epoch, Seq);

fn key(batch: &Batch) -> BatchKey {
    (batch.sale, batch.epoch, batch.first)
}

/// Old entries that are not stored. Age alone does not make them orphans: while the worker is behind, they may be in
/// the log, and publishing all of them again would keep it behind forever. So the relay notes the end of the log. It
/// publishes an entry that is still missing when everything up to that end is stored.
#[derive(Debug, Default)]
struct Orphans {
    known: HashMap<BatchKey, OrphanState>,
    seen: HashSet<BatchKey>,
}

#[derive(Debug, Clone, Copy)]
enum OrphanState {
    Seen(Instant),
    End(Offset),
    Published(Instant),
}

#[derive(Debug, PartialEq, Eq)]
enum OrphanAction {
    Wait,
    NoteEnd,
    Publish,
}

impl Orphans {
    fn begin_pass(&mut self) {
        self.seen.clear();
    }

    /// Forgets entries that this pass did not see: they are stored, or their epoch has ended.
    fn end_pass(&mut self) {
        self.known.retain(|key, _| self.seen.contains(key));
    }

    fn next_action(&mut self, batch: &Batch, position: Offset, now: Instant) -> OrphanAction {
        self.seen.insert(key(batch));
        match self.known.get(&key(batch)) {
            None => {
                self.known.insert(key(batch), OrphanState::Seen(now));
                OrphanAction::Wait
            }
            Some(OrphanState::Seen(at)) if now.duration_since(*at) >= ORPHAN_AGE => OrphanAction::NoteEnd,
            Some(OrphanState::End(end)) if position >= *end => OrphanAction::Publish,
            Some(OrphanState::Published(at)) if now.duration_since(*at) >= STORE_TIMEOUT => OrphanAction::NoteEnd,
            Some(_) => OrphanAction::Wait,
        }
    }

    fn note_end(&mut self, batch: &Batch, end: Offset) {
        self.known.insert(key(batch), OrphanState::End(end));
    }

    fn note_published(&mut self, batch: &Batch, now: Instant) {
        self.known.insert(key(batch), OrphanState::Published(now));
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
    fn an_entry_is_published_after_the_whole_log_is_stored() {
        let (mut orphans, now) = (Orphans::default(), Instant::now());
        assert_eq!(orphans.next_action(&batch(1, 1), 10, now), OrphanAction::Wait);
        let old = now + ORPHAN_AGE;
        assert_eq!(orphans.next_action(&batch(1, 1), 10, old), OrphanAction::NoteEnd);
        orphans.note_end(&batch(1, 1), 20);
        assert_eq!(orphans.next_action(&batch(1, 1), 19, now), OrphanAction::Wait);
        assert_eq!(orphans.next_action(&batch(1, 1), 20, now), OrphanAction::Publish);
    }

    #[test]
    fn a_published_entry_waits_for_the_store_timeout() {
        let (mut orphans, now) = (Orphans::default(), Instant::now());
        orphans.note_published(&batch(1, 1), now);
        assert_eq!(orphans.next_action(&batch(1, 1), 99, now), OrphanAction::Wait);
        assert_eq!(
            orphans.next_action(&batch(1, 1), 99, now + STORE_TIMEOUT),
            OrphanAction::NoteEnd
        );
    }

    #[test]
    fn entries_gone_from_the_outbox_are_forgotten() {
        let (mut orphans, now) = (Orphans::default(), Instant::now());
        orphans.note_end(&batch(1, 1), 20);
        orphans.note_end(&batch(2, 1), 20);
        orphans.begin_pass();
        orphans.next_action(&batch(2, 1), 0, now);
        orphans.end_pass();
        assert_eq!(orphans.known.len(), 1);
    }
}
