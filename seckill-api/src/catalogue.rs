//! The sales that this process knows: a snapshot of the ledger's, taken every half second, and sooner when a purchase
//! learns that the last one is old.
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use seckill_ledger::{Ledger, LedgerError, Sale};
use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::{Epoch, SaleId};
use seckill_service::Shutdown;
use seckill_stock::Batcher;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::clock;
use crate::remaining::Sample;

const EVERY: Duration = Duration::from_millis(500);
/// However many ask for a newer one, the ledger is not read more often.
const AT_MOST_EVERY: Duration = Duration::from_millis(50);
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How long somebody waits for a newer one.
pub const REFRESHED_WITHIN: Duration = Duration::from_secs(1);
/// The clocks of this process and of Redis, at most. They are kept by NTP.
const CLOCKS_DIFFER_BY: Millis = 2_000;
/// A start that was moved to an earlier time before the sale was preheated is known by then.
const RECENT: Duration = Duration::from_secs(1);
/// So long after the end a buyer is told "ended", and can ask what an earlier request came to.
const SETTLED_WITHIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub struct Catalogue {
    ledger: Ledger,
    class: String,
    /// Of the log, as this process reads it.
    partitions: u32,
    snapshot: watch::Sender<Arc<Snapshot>>,
    wanted: Notify,
}

/// What is seldom waited for is on the heap: every purchase's future would have to hold the room for it.
type Rare<'a> = BoxFuture<'a, bool>;

/// The catalogue as of one instant.
struct Snapshot {
    /// When reading it began.
    read_at: Option<Instant>,
    /// By `namespace/name`.
    by_name: HashMap<String, Arc<Listed>>,
    by_id: HashMap<SaleId, Arc<Listed>>,
}

/// A sale as the ledger had it.
pub struct Listed {
    pub sale: Sale,
    /// None once the sale is settled.
    pub selling: Option<Arc<Selling>>,
}

impl Listed {
    /// `namespace/name`
    pub fn name(&self) -> String {
        format!("{}/{}", self.sale.namespace, self.sale.name)
    }

    pub fn has_ended(&self) -> bool {
        self.selling.is_none() || self.sale.state == SaleState::Closed || clock::now() >= self.sale.closes_at
    }
}

/// What this process keeps of a sale from one snapshot of the catalogue to the next.
pub struct Selling {
    epoch: watch::Sender<Option<Epoch>>,
    /// Spawned when the first purchase comes.
    batcher: OnceLock<Batcher>,
    pub remaining: Mutex<Sample>,
}

impl Selling {
    fn new() -> Self {
        Selling {
            epoch: watch::Sender::new(None),
            batcher: OnceLock::new(),
            remaining: Mutex::default(),
        }
    }

    /// The epoch of the index that sells, by the ledger's word.
    pub fn epoch(&self) -> Option<Epoch> {
        *self.epoch.borrow()
    }

    /// Never downwards: after MySQL lost its tail the row may name an epoch that is long over.
    fn raise_epoch(&self, epoch: Option<Epoch>) {
        self.epoch.send_if_modified(|known| {
            let newer = epoch > *known;
            *known = epoch.max(*known);
            newer
        });
    }

    pub fn batcher(&self, spawn: impl FnOnce(watch::Receiver<Option<Epoch>>) -> Batcher) -> &Batcher {
        self.batcher.get_or_init(|| spawn(self.epoch.subscribe()))
    }
}

impl Catalogue {
    pub fn new(ledger: Ledger, class: String, partitions: u32) -> Self {
        Catalogue {
            ledger,
            class,
            partitions,
            snapshot: watch::Sender::new(Arc::new(Snapshot {
                read_at: None,
                by_name: HashMap::new(),
                by_id: HashMap::new(),
            })),
            wanted: Notify::new(),
        }
    }

    /// Reads the ledger again and again, until the process is told to end.
    pub async fn follow(&self, shutdown: Shutdown) {
        let mut failed = false;
        while !shutdown.is_cancelled() {
            match self.read().await {
                Ok(()) if failed => {
                    failed = false;
                    tracing::info!("reading the sales again");
                }
                Ok(()) => {}
                // Logged once: what was read before goes on to serve.
                Err(error) if !failed => {
                    failed = true;
                    tracing::warn!(%error, "can't read the sales; going on with those known");
                }
                Err(_) => {}
            }
            sleep(AT_MOST_EVERY).await;
            tokio::select! {
                () = sleep(EVERY - AT_MOST_EVERY) => {}
                () = self.wanted.notified() => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Reads the ledger once.
    pub async fn read(&self) -> Result<(), LedgerError> {
        let read_at = Instant::now();
        let sales = match timeout(READ_WITHIN, self.ledger.catalogue(&self.class, SETTLED_WITHIN)).await {
            Ok(sales) => sales?,
            Err(_) => return Err(LedgerError::TimedOut(READ_WITHIN.as_secs())),
        };
        for sale in &sales {
            if sale.part >= self.partitions && self.by_id(sale.id).is_none() {
                tracing::error!(sale = %sale.id, partition = sale.part, partitions = self.partitions,
                    "can't sell: the topic has grown since this process began; restart it");
            }
        }
        self.snapshot
            .send_modify(|snapshot| *snapshot = Arc::new(snapshot.followed_by(sales, read_at)));
        Ok(())
    }

    /// Looks up in what is known, and if it is not there, in a snapshot that is newer than the call: what `kubectl`
    /// shows is sold here.
    pub async fn surely<T>(&self, look: impl Fn(&Self) -> Option<T>) -> Option<T> {
        match look(self) {
            None if self.refresh(REFRESHED_WITHIN).await => look(self),
            found => found,
        }
    }

    /// Waits for a snapshot that is newer than the call; false if there was none by then.
    pub fn refresh(&self, within: Duration) -> Rare<'_> {
        Box::pin(async move {
            let asked = Instant::now();
            let mut snapshots = self.snapshot.subscribe();
            self.wanted.notify_one();
            let newer = snapshots.wait_for(|snapshot| snapshot.read_at.is_some_and(|at| at >= asked));
            matches!(timeout(within, newer).await, Ok(Ok(_)))
        })
    }

    /// Waits until the index that sells is of this epoch or a newer one; false if it is not by then.
    pub fn epoch_reached<'a>(&'a self, selling: &'a Selling, least: Epoch, deadline: Instant) -> Rare<'a> {
        Box::pin(async move {
            let mut epochs = selling.epoch.subscribe();
            loop {
                self.wanted.notify_one();
                let until = deadline.min(Instant::now() + 2 * AT_MOST_EVERY);
                let reached = epochs.wait_for(|epoch| *epoch >= Some(least));
                match timeout_at(until, reached).await {
                    Ok(reached) => return reached.is_ok(),
                    Err(_) if until == deadline => return false,
                    Err(_) => {}
                }
            }
        })
    }

    /// The sale `namespace/name`.
    pub fn by_name(&self, name: &str) -> Option<Arc<Listed>> {
        self.snapshot.borrow().by_name.get(name).cloned()
    }

    pub fn by_id(&self, id: SaleId) -> Option<Arc<Listed>> {
        self.snapshot.borrow().by_id.get(&id).cloned()
    }

    /// When the sale starts, if that is so far ahead that no clock may differ about it.
    ///
    /// Nobody needs the index to hear that: a start does not move once the stock is in place, so whoever comes before it
    /// can't have bought. Near the start the clock of Redis decides, and so it does while the ledger can't be read.
    pub fn starts_later(&self, id: SaleId) -> Option<Millis> {
        self.snapshot.borrow().starts_later(id, clock::now())
    }

    /// All, by name.
    pub fn all(&self) -> Vec<Arc<Listed>> {
        let mut all: Vec<_> = self.snapshot.borrow().by_id.values().cloned().collect();
        all.sort_by(|a, b| (&a.sale.namespace, &a.sale.name).cmp(&(&b.sale.namespace, &b.sale.name)));
        all
    }

    /// The sale that holds an item's number on the old demo's routes: of those that have not ended the first in the
    /// ledger, else the one that ended last.
    pub fn by_item(&self, item: i64) -> Option<Arc<Listed>> {
        let snapshot = self.snapshot.borrow().clone();
        let of_item = || {
            snapshot
                .by_id
                .values()
                .filter(|listed| listed.sale.item_id == Some(item))
        };
        let running = of_item()
            .filter(|listed| !listed.has_ended())
            .min_by_key(|listed| (listed.sale.created_at_ms, listed.sale.id));
        let ended_last = || of_item().max_by_key(|listed| (listed.sale.closes_at, listed.sale.id));
        running.or_else(ended_last).cloned()
    }
}

impl Snapshot {
    fn starts_later(&self, id: SaleId, now: Millis) -> Option<Millis> {
        let sale = &self.by_id.get(&id)?.sale;
        let recent = self.read_at.is_some_and(|at| at.elapsed() < RECENT);
        let later = recent && sale.state != SaleState::Closed && sale.opens_at > now + CLOCKS_DIFFER_BY;
        later.then_some(sale.opens_at)
    }

    fn followed_by(&self, sales: Vec<Sale>, read_at: Instant) -> Snapshot {
        let mut next = Snapshot {
            read_at: Some(read_at),
            by_name: HashMap::with_capacity(sales.len()),
            by_id: HashMap::with_capacity(sales.len()),
        };
        for sale in sales {
            let known = self.by_id.get(&sale.id).and_then(|listed| listed.selling.clone());
            // With the last purchase that still holds it, the batcher of a settled sale goes.
            let selling = match sale.settled_at_ms {
                Some(_) => None,
                None => Some(known.unwrap_or_else(|| Arc::new(Selling::new()))),
            };
            if let Some(selling) = &selling {
                selling.raise_epoch(sale.live_epoch);
            }
            let listed = Arc::new(Listed { sale, selling });
            next.by_id.insert(listed.sale.id, listed.clone());
            next.by_name.insert(listed.name(), listed);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_protocol::SaleCut;

    fn sale(id: u32, live_epoch: Option<i64>) -> Sale {
        Sale {
            id: SaleId(id),
            class: "default".into(),
            namespace: "shop".into(),
            name: format!("sale-{id}"),
            uid: String::new(),
            part: 0,
            version: 1,
            state: SaleState::Open,
            opens_at: 0,
            closes_at: u64::MAX,
            limit_per_buyer: 0,
            item: serde_json::json!({}),
            item_id: Some(1),
            price: "1.00".into(),
            currency: "CNY".into(),
            offered: 1,
            live_epoch: live_epoch.map(Epoch),
            total: 1,
            sold: 0,
            taken: 0,
            returned: 0,
            cut: SaleCut::default(),
            created_at_ms: i64::from(id),
            updated_at_ms: 0,
            settled_at_ms: None,
            settled_left: None,
            freed_at_ms: None,
        }
    }

    fn next(before: &Snapshot, sales: Vec<Sale>) -> Snapshot {
        before.followed_by(sales, Instant::now())
    }

    fn empty() -> Snapshot {
        Snapshot {
            read_at: None,
            by_name: HashMap::new(),
            by_id: HashMap::new(),
        }
    }

    fn epoch(snapshot: &Snapshot) -> Option<Epoch> {
        snapshot.by_id[&SaleId(1)].selling.as_ref().unwrap().epoch()
    }

    #[test]
    fn an_epoch_never_goes_down() {
        let mut snapshot = empty();
        for (row, known) in [
            (None, None),
            (Some(5), Some(5)),
            (Some(3), Some(5)),
            (None, Some(5)),
            (Some(9), Some(9)),
        ] {
            snapshot = next(&snapshot, vec![sale(1, row)]);
            assert_eq!(epoch(&snapshot), known.map(Epoch), "{row:?}");
        }
    }

    #[test]
    fn that_a_sale_starts_later_is_known_here_unless_it_is_near_or_the_catalogue_is_old() {
        let snapshot = |opens_at, state, read_at| {
            let sale = Sale {
                opens_at,
                state,
                ..sale(1, None)
            };
            empty().followed_by(vec![sale], read_at)
        };
        let starts_later =
            |opens_at| snapshot(opens_at, SaleState::Open, Instant::now()).starts_later(SaleId(1), 10_000);
        assert_eq!(starts_later(12_001), Some(12_001));
        assert_eq!(starts_later(12_000), None);
        let closed = snapshot(99_000, SaleState::Closed, Instant::now());
        assert_eq!(closed.starts_later(SaleId(1), 10_000), None);
        let old = Instant::now().checked_sub(2 * RECENT).expect("the machine runs longer");
        let old = snapshot(99_000, SaleState::Open, old);
        assert_eq!(old.starts_later(SaleId(1), 10_000), None);
    }

    #[test]
    fn a_settled_sale_is_listed_and_sells_no_more() {
        let selling = next(&empty(), vec![sale(1, Some(5))]);
        let settled = Sale {
            settled_at_ms: Some(1),
            ..sale(1, Some(5))
        };
        let settled = next(&selling, vec![settled]);
        assert!(settled.by_name["shop/sale-1"].selling.is_none());
        assert!(settled.by_name["shop/sale-1"].has_ended());
        assert!(next(&settled, vec![]).by_id.is_empty());
    }
}
