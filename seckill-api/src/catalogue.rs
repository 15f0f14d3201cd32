//! The sales that this process knows: a snapshot of the ledger, read every half second, and sooner when a purchase finds
//! the snapshot outdated.
//!
//! Each read takes the unsettled sales. Those that were settled before do not change, so they are read once.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use seckill_ledger::{CataloguePage, Ledger, LedgerError, NotSpoken, Sale};
use seckill_protocol::admission::behind;
use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::{Epoch, Offset, Quantity, SaleId, Tier};
use seckill_service::{FailureLog, Gate, Shutdown};
use seckill_stock::Batcher;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::clock;
use crate::limits::MAX_QUANTITY;
use crate::remaining_units::RemainingUnits;

const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// However many requests ask for a newer snapshot, the ledger is not read more often.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(50);
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for a request that waits for a newer snapshot.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(1);
/// The clocks of this process and of Redis differ by at most this. NTP keeps them.
const MAX_CLOCK_SKEW: Millis = 2_000;
/// A snapshot of at most this age knows a start that was moved to an earlier time before the sale was preheated.
const MAX_SNAPSHOT_AGE: Duration = Duration::from_secs(1);
/// For this time after its settlement a sale answers "ended", and returns the result of an earlier purchase.
const SETTLED_SALE_RETENTION: Millis = 7 * 24 * 60 * 60 * 1000;
/// Settlements are read again for this time, because their commits may be seen in another order, and another server of
/// MySQL may have another clock.
const SETTLEMENT_OVERLAP: Millis = 60_000;
/// A settled sale is kept for at most this much longer than [`SETTLED_SALE_RETENTION`].
const PRUNE_INTERVAL: Millis = 60 * 60 * 1000;

pub struct Catalogue {
    ledger: Ledger,
    class: String,
    snapshot: watch::Sender<Arc<Snapshot>>,
    refresh_requested: Notify,
    too_old: TooOld,
    /// Ready while this program speaks the format that the ledger requires.
    format: Gate,
}

/// Whether the ledger requires a format that this program does not speak. Then it answers no request.
#[derive(Clone, Default)]
pub struct TooOld(Arc<AtomicBool>);

impl TooOld {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Boxed, because these waits are rare: otherwise the future of every purchase would need room for them.
type BoxedWait<'a> = BoxFuture<'a, bool>;

/// The catalogue as of one instant.
#[derive(Default)]
pub struct Snapshot {
    /// When the read of the ledger began.
    read_at: Option<Instant>,
    /// The next offset of each partition that the ledger had then. MySQL may have lost the rows of sales behind it.
    positions: Vec<(u32, Offset)>,
    unsettled: Sales,
    /// Shared by all snapshots until another sale is settled.
    settled: Arc<Settled>,
}

#[derive(Default, Clone)]
struct Sales {
    /// By `namespace/name`.
    by_name: HashMap<Arc<str>, Arc<ListedSale>>,
    by_id: HashMap<SaleId, Arc<ListedSale>>,
    by_item: HashMap<i64, Vec<Arc<ListedSale>>>,
}

#[derive(Default)]
struct Settled {
    sales: Sales,
    /// Of the sales above, in unix ms.
    first_settled_at: Millis,
    last_settled_at: Millis,
}

impl Sales {
    fn insert(&mut self, listed: Arc<ListedSale>) {
        if let Some(item) = listed.sale.item_id {
            self.by_item.entry(item).or_default().push(listed.clone());
        }
        self.by_name.insert(listed.name().into(), listed.clone());
        self.by_id.insert(listed.sale.id, listed);
    }
}

impl FromIterator<Arc<ListedSale>> for Sales {
    fn from_iter<I: IntoIterator<Item = Arc<ListedSale>>>(listed: I) -> Self {
        let mut sales = Sales::default();
        listed.into_iter().for_each(|listed| sales.insert(listed));
        sales
    }
}

impl Settled {
    /// The settled sales after a read, or `None` if they have not changed.
    fn next(&self, read: Vec<Sale>, unsettled: &Sales, now: Millis) -> Option<Settled> {
        let is_new = |sale: &Sale| match self.sales.by_id.get(&sale.id) {
            Some(known) => known.sale.updated_at_ms != sale.updated_at_ms,
            None => true,
        };
        let added: Vec<Sale> = read.into_iter().filter(is_new).collect();
        let oldest = now.saturating_sub(SETTLED_SALE_RETENTION);
        let to_prune = !self.sales.by_id.is_empty() && self.first_settled_at + PRUNE_INTERVAL < oldest;
        // MySQL may have lost a settlement.
        let returned = unsettled.by_id.keys().any(|id| self.sales.by_id.contains_key(id));
        if added.is_empty() && !to_prune && !returned {
            return None;
        }
        let mut by_id = self.sales.by_id.clone();
        by_id.extend(
            added
                .into_iter()
                .map(|sale| (sale.id, Arc::new(ListedSale { sale, active: None }))),
        );
        by_id.retain(|id, listed| listed.settled_at() >= oldest && !unsettled.by_id.contains_key(id));
        let times = || by_id.values().map(|listed| listed.settled_at());
        Some(Settled {
            first_settled_at: times().min().unwrap_or_default(),
            last_settled_at: times().max().unwrap_or_default(),
            sales: by_id.into_values().collect(),
        })
    }
}

/// A sale as the ledger had it.
pub struct ListedSale {
    pub sale: Sale,
    /// None once the sale is settled.
    pub active: Option<Arc<ActiveSale>>,
}

impl ListedSale {
    /// `namespace/name`
    pub fn name(&self) -> String {
        format!("{}/{}", self.sale.namespace, self.sale.name)
    }

    /// The most units that an order can have.
    pub fn max_per_order(&self) -> Quantity {
        match self.sale.max_per_order {
            0 => MAX_QUANTITY,
            most => most.min(MAX_QUANTITY),
        }
    }

    /// In unix ms; 0 before the settlement.
    fn settled_at(&self) -> Millis {
        self.sale
            .settled_at_ms
            .map_or(0, |at| Millis::try_from(at).unwrap_or_default())
    }

    pub fn has_ended(&self) -> bool {
        self.active.is_none() || self.sale.state == SaleState::Closed || clock::now() >= self.sale.closes_at
    }
}

/// The state of a sale that this process keeps from one snapshot to the next.
pub struct ActiveSale {
    epoch: watch::Sender<Option<Epoch>>,
    /// Spawned by the first purchase.
    batcher: OnceLock<Batcher>,
    pub remaining: Mutex<RemainingSample>,
}

/// The units left, as Redis had them at one instant.
#[derive(Default)]
pub struct RemainingSample {
    pub taken_at: Option<Instant>,
    /// None if they are unknown.
    pub units: Option<RemainingUnits>,
}

impl ActiveSale {
    fn new() -> Self {
        ActiveSale {
            epoch: watch::Sender::new(None),
            batcher: OnceLock::new(),
            remaining: Mutex::default(),
        }
    }

    /// The epoch of the index in force, according to the ledger.
    pub fn epoch(&self) -> Option<Epoch> {
        *self.epoch.borrow()
    }

    /// Never lowers the epoch: after MySQL lost its tail, the row may name an old epoch.
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
    /// `format` is closed while this program is too old for the ledger.
    pub fn new(ledger: Ledger, class: String, format: Gate) -> Self {
        Catalogue {
            ledger,
            class,
            snapshot: watch::Sender::default(),
            refresh_requested: Notify::new(),
            too_old: TooOld::default(),
            format,
        }
    }

    /// Reads the ledger periodically, and on request, until shutdown.
    pub async fn follow(&self, shutdown: Shutdown) {
        let mut failures = FailureLog::first_only();
        while !shutdown.is_cancelled() {
            // After a failure the last snapshot stays in use.
            failures.note("reading the sales", self.read().await);
            sleep(MIN_REFRESH_INTERVAL).await;
            tokio::select! {
                () = sleep(REFRESH_INTERVAL - MIN_REFRESH_INTERVAL) => {}
                () = self.refresh_requested.notified() => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Reads the ledger once. The first read takes the settled sales in pages.
    pub async fn read(&self) -> Result<(), LedgerError> {
        let before = self.snapshot();
        let known: Vec<SaleId> = before.unsettled.by_id.keys().copied().collect();
        let mut since = before.settled_since(clock::now());
        let mut settled = Vec::new();
        loop {
            let read_at = Instant::now();
            let page = self.read_page(since, &known).await?;
            match page.next_after {
                Some(next) => {
                    since = next;
                    settled.extend(page.sales.into_iter().filter(|sale| sale.settled_at_ms.is_some()));
                }
                None => {
                    settled.extend(page.sales);
                    let next = before.next(settled, page.positions, read_at, clock::now());
                    self.snapshot.send_replace(Arc::new(next));
                    return Ok(());
                }
            }
        }
    }

    async fn read_page(&self, settled_after: i64, known: &[SaleId]) -> Result<CataloguePage, LedgerError> {
        let reading = self.ledger.catalogue_page(&self.class, settled_after, known);
        let page = match timeout(READ_TIMEOUT, reading).await {
            Ok(Err(LedgerError::NotSpoken(not_spoken))) => {
                self.refuse(not_spoken);
                return Err(not_spoken.into());
            }
            Ok(read) => read?,
            Err(_) => return Err(LedgerError::TimedOut(READ_TIMEOUT.as_secs())),
        };
        self.too_old.0.store(false, Ordering::Relaxed);
        self.format.ready();
        Ok(page)
    }

    fn refuse(&self, not_spoken: NotSpoken) {
        self.format.not_ready(not_spoken.to_string());
        if !self.too_old.0.swap(true, Ordering::Relaxed) {
            tracing::error!("{not_spoken}");
        }
    }

    /// Whether this program is too old for the ledger, now and later.
    pub fn too_old(&self) -> TooOld {
        self.too_old.clone()
    }

    /// The catalogue as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Waits for a snapshot that is newer than the call. Returns false after the time limit.
    pub fn refresh(&self, limit: Duration) -> BoxedWait<'_> {
        self.refresh_requested.notify_one();
        self.next_snapshot(limit)
    }

    /// The same, without a read of the ledger before the next periodic one: for what anybody can ask at will.
    pub fn next_snapshot(&self, limit: Duration) -> BoxedWait<'_> {
        let requested_at = Instant::now();
        Box::pin(async move {
            let mut snapshots = self.snapshot.subscribe();
            let newer = snapshots.wait_for(|snapshot| snapshot.read_at.is_some_and(|at| at >= requested_at));
            matches!(timeout(limit, newer).await, Ok(Ok(_)))
        })
    }

    /// Waits until the index in force has this epoch or a newer one. Returns false at the deadline.
    pub fn wait_for_epoch<'a>(&'a self, active: &'a ActiveSale, min_epoch: Epoch, deadline: Instant) -> BoxedWait<'a> {
        Box::pin(async move {
            let mut epochs = active.epoch.subscribe();
            loop {
                self.refresh_requested.notify_one();
                let until = deadline.min(Instant::now() + 2 * MIN_REFRESH_INTERVAL);
                let reached = epochs.wait_for(|epoch| *epoch >= Some(min_epoch));
                match timeout_at(until, reached).await {
                    Ok(reached) => return reached.is_ok(),
                    Err(_) if until == deadline => return false,
                    Err(_) => {}
                }
            }
        })
    }

    pub fn by_id(&self, id: SaleId) -> Option<Arc<ListedSale>> {
        self.snapshot.borrow().by_id(id).cloned()
    }

    /// The start of the sale for buyers of a tier, if it is so far in the future that clock skew does not matter.
    ///
    /// This answer needs no index: a start does not move once the stock is in Redis, so nobody can have bought before it.
    /// Near the start, and while the ledger can't be read, the clock of Redis decides.
    pub fn future_start(&self, id: SaleId, tier: Tier) -> Option<Millis> {
        self.snapshot.borrow().future_start(id, tier, clock::now())
    }

    /// All sales, sorted by name.
    pub fn all(&self) -> Vec<Arc<ListedSale>> {
        let snapshot = self.snapshot();
        let both = [&snapshot.unsettled, &snapshot.settled.sales];
        let mut all: Vec<_> = both
            .into_iter()
            .flat_map(|sales| sales.by_id.values().cloned())
            .collect();
        all.sort_by(|a, b| (&a.sale.namespace, &a.sale.name).cmp(&(&b.sale.namespace, &b.sale.name)));
        all
    }
}

impl Snapshot {
    /// The sale `namespace/name`.
    pub fn by_name(&self, name: &str) -> Option<Arc<ListedSale>> {
        let found = self.unsettled.by_name.get(name);
        found.or_else(|| self.settled.sales.by_name.get(name)).cloned()
    }

    fn by_id(&self, id: SaleId) -> Option<&Arc<ListedSale>> {
        let found = self.unsettled.by_id.get(&id);
        found.or_else(|| self.settled.sales.by_id.get(&id))
    }

    /// The sale of an item on the old demo's routes: of the sales that have not ended, the one that was created first;
    /// otherwise the one that ended last.
    pub fn by_item(&self, item: i64) -> Option<Arc<ListedSale>> {
        let both = [&self.unsettled, &self.settled.sales];
        let of_item = || both.into_iter().filter_map(|sales| sales.by_item.get(&item)).flatten();
        let running = of_item()
            .filter(|listed| !listed.has_ended())
            .min_by_key(|listed| (listed.sale.created_at_ms, listed.sale.id));
        let last_ended = || of_item().max_by_key(|listed| (listed.sale.closes_at, listed.sale.id));
        running.or_else(last_ended).cloned()
    }

    /// Whether the snapshot was read so lately that the ledger can have no sale that it lacks for long.
    pub fn is_recent(&self) -> bool {
        self.read_at.is_some_and(|at| at.elapsed() < MAX_SNAPSHOT_AGE)
    }

    /// From when on the settlements have to be read, in unix ms.
    fn settled_since(&self, now: Millis) -> i64 {
        let oldest = now.saturating_sub(SETTLED_SALE_RETENTION);
        let since = oldest.max(self.settled.last_settled_at.saturating_sub(SETTLEMENT_OVERLAP));
        i64::try_from(since).unwrap_or(i64::MAX)
    }

    /// Whether the ledger had read the log to these ends. If not, a sale that is missing here may exist.
    pub fn has_read_to(&self, ends: &[Offset]) -> bool {
        behind(ends, &self.positions).is_empty()
    }

    fn future_start(&self, id: SaleId, tier: Tier, now: Millis) -> Option<Millis> {
        let sale = &self.by_id(id)?.sale;
        let opens_at = sale.opens_for(tier);
        let is_future = self.is_recent() && sale.state != SaleState::Closed && opens_at > now + MAX_CLOCK_SKEW;
        is_future.then_some(opens_at)
    }

    fn next(&self, sales: Vec<Sale>, positions: Vec<(u32, Offset)>, read_at: Instant, now: Millis) -> Snapshot {
        let (unsettled, settled): (Vec<_>, Vec<_>) = sales.into_iter().partition(|sale| sale.settled_at_ms.is_none());
        // The batcher of a settled sale ends when the last purchase drops the sale.
        let unsettled: Sales = unsettled.into_iter().map(|sale| Arc::new(self.list(sale))).collect();
        let settled = self.settled.next(settled, &unsettled, now);
        Snapshot {
            read_at: Some(read_at),
            positions,
            settled: settled.map_or_else(|| self.settled.clone(), Arc::new),
            unsettled,
        }
    }

    fn list(&self, sale: Sale) -> ListedSale {
        let known = self
            .unsettled
            .by_id
            .get(&sale.id)
            .and_then(|listed| listed.active.clone());
        let active = known.unwrap_or_else(|| Arc::new(ActiveSale::new()));
        active.raise_epoch(sale.live_epoch);
        ListedSale {
            sale,
            active: Some(active),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_protocol::{Format, SaleCut};

    fn sale(id: u32, live_epoch: Option<i64>) -> Sale {
        Sale {
            id: SaleId(id),
            class: "default".into(),
            namespace: "shop".into(),
            name: format!("sale-{id}"),
            uid: String::new(),
            partition: 0,
            format: Format::FIRST,
            version: 1,
            state: SaleState::Open,
            opens_at: 0,
            closes_at: u64::MAX,
            limit_per_buyer: 0,
            max_per_order: 0,
            orders_ever_max: 0,
            item: serde_json::json!({}),
            item_id: Some(1),
            issuer: None,
            tiers: None,
            tier_limits: Default::default(),
            price: "1.00".into(),
            currency: "CNY".into(),
            offered: 1,
            live_epoch: live_epoch.map(Epoch),
            total: 1,
            sold: 0,
            taken: 0,
            returned: 0,
            orders_ever: 0,
            cut: SaleCut::default(),
            created_at_ms: i64::from(id),
            updated_at_ms: 0,
            settled_at_ms: None,
            settled_left: None,
            freed_at_ms: None,
            missing_since_ms: None,
            stopped: false,
            identity_at: None,
            cluster: None,
        }
    }

    fn next(before: &Snapshot, sales: Vec<Sale>) -> Snapshot {
        before.next(sales, Vec::new(), Instant::now(), NOW)
    }

    const NOW: Millis = 1_000 * SETTLED_SALE_RETENTION;

    fn empty() -> Snapshot {
        Snapshot::default()
    }

    fn settled(id: u32, at: Millis) -> Sale {
        Sale {
            settled_at_ms: Some(at as i64),
            ..sale(id, Some(1))
        }
    }

    fn epoch(snapshot: &Snapshot) -> Option<Epoch> {
        snapshot.by_id(SaleId(1)).unwrap().active.as_ref().unwrap().epoch()
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
    fn settled_sales_stay_without_being_read_again() {
        let hour = 3_600_000;
        let first = next(
            &empty(),
            vec![sale(1, None), settled(2, NOW - 10), settled(3, NOW - 2 * hour)],
        );
        assert_eq!(first.settled_since(NOW), (NOW - 10 - SETTLEMENT_OVERLAP) as i64);
        // The next read has only what is unsettled or was settled lately.
        let second = next(&first, vec![sale(1, None), settled(2, NOW - 10)]);
        assert!(Arc::ptr_eq(&first.settled, &second.settled));
        assert!(second.by_id(SaleId(3)).is_some_and(|listed| listed.active.is_none()));
        assert!(second.by_name("shop/sale-3").is_some());
        // A sale is settled, and MySQL loses the settlement of another one.
        let third = next(&second, vec![settled(1, NOW), sale(2, Some(1))]);
        assert_eq!(third.settled.sales.by_id.len(), 2);
        assert!(third.by_id(SaleId(1)).is_some_and(|listed| listed.active.is_none()));
        assert!(third.by_id(SaleId(2)).is_some_and(|listed| listed.active.is_some()));
        // The oldest are forgotten.
        let later = NOW + SETTLED_SALE_RETENTION;
        let fourth = third.next(Vec::new(), Vec::new(), Instant::now(), later);
        assert!(fourth.by_id(SaleId(3)).is_none() && fourth.by_id(SaleId(1)).is_some());
        assert_eq!(fourth.settled_since(later), NOW as i64);
    }

    #[test]
    fn a_far_start_is_known_unless_the_snapshot_is_old() {
        let snapshot = |opens_at, state, read_at| {
            let sale = Sale {
                opens_at,
                state,
                ..sale(1, None)
            };
            empty().next(vec![sale], Vec::new(), read_at, NOW)
        };
        let future_start =
            |opens_at| snapshot(opens_at, SaleState::Open, Instant::now()).future_start(SaleId(1), 0, 10_000);
        assert_eq!(future_start(12_001), Some(12_001));
        assert_eq!(future_start(12_000), None);
        let closed = snapshot(99_000, SaleState::Closed, Instant::now());
        assert_eq!(closed.future_start(SaleId(1), 0, 10_000), None);
        let old = Instant::now()
            .checked_sub(2 * MAX_SNAPSHOT_AGE)
            .expect("the machine runs longer");
        let old = snapshot(99_000, SaleState::Open, old);
        assert_eq!(old.future_start(SaleId(1), 0, 10_000), None);
    }

    #[test]
    fn a_settled_sale_stays_listed_but_is_not_active() {
        let active = next(&empty(), vec![sale(1, Some(5))]);
        let settled = next(&active, vec![settled(1, NOW)]);
        for snapshot in [next(&settled, vec![]), settled] {
            let listed = snapshot.by_name("shop/sale-1").unwrap();
            assert!(listed.active.is_none() && listed.has_ended());
        }
    }
}
