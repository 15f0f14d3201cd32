//! What this leadership term did and read lately. To forget it costs work, noise or a wait, never correctness.
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use seckill_crds::{FlashSale, FlashSaleStatus};
use seckill_planner::balance::BalanceHistory;
use seckill_planner::condition::Blocker;
use seckill_planner::pacing::StatusBudget;
use seckill_planner::progress::ProgressHistory;
use seckill_planner::rebuild_pacing::{RebuildDelay, RebuildHistory};
use seckill_planner::{Clocks, Condition, Progress, SaleKey, Standing};
use seckill_protocol::index::Millis;
use seckill_protocol::{Offset, SaleId};

use crate::clock_reading::ClockReading;
use crate::cluster::convert::sale_key;

/// A CLOSE or TOTAL that the worker has not read within this time is appended again: twice is once.
const APPEND_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Changes are noticed if they were looked for within this time.
const WATCH_VALID: Duration = Duration::from_secs(3);

#[derive(Default)]
pub struct ReconcileCache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    sales: HashMap<SaleKey, SaleEntry>,
    closes: HashMap<SaleId, Instant>,
    totals: HashMap<SaleId, (u64, Instant)>,
    any_ending: Option<bool>,
    any_selling_orphan: bool,
    /// The sales whose changes are noticed without a reconcile, and when that was checked.
    watched: Option<(HashSet<SaleKey>, Instant)>,
    budget: StatusBudget,
    clock_of_redis: Option<ClockReading>,
    /// How many ms the agreed time is ahead of the operator's own clock.
    clock_correction: i64,
}

#[derive(Default)]
struct SaleEntry {
    standing: Option<Standing>,
    failures: u32,
    blocker: Option<Blocker>,
    progress: ProgressHistory,
    /// When its figures may be written next.
    write_turn: Option<Instant>,
    written: Option<Written>,
    balance: BalanceHistory,
    rebuilds: RebuildHistory,
    index_unknown_since: Option<Instant>,
    absent: Option<AbsentSince>,
}

/// The ledger did not know a name, and the partitions had these ends after that.
#[derive(Debug, Clone)]
pub struct AbsentSince {
    pub since: Millis,
    pub ends: Vec<Offset>,
}

/// A status that was decided, and is written or about to be, when the object was known in this version.
struct Written {
    over: Option<String>,
    status: FlashSaleStatus,
}

impl ReconcileCache {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Single insertions and removals: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: &SaleKey, note: impl FnOnce(&mut SaleEntry)) {
        note(self.lock().sales.entry(key.clone()).or_default());
    }

    fn recall<T>(&self, key: &SaleKey, recall: impl FnOnce(&SaleEntry) -> T) -> Option<T> {
        self.lock().sales.get(key).map(recall)
    }

    /// From the last plan; `None` before the first.
    pub fn standing(&self, key: &SaleKey) -> Option<Standing> {
        self.recall(key, |sale| sale.standing).flatten()
    }

    pub fn set_standing(&self, key: &SaleKey, standing: Standing) {
        self.note(key, |sale| sale.standing = Some(standing));
    }

    pub fn succeeded(&self, key: &SaleKey) {
        self.note(key, |sale| (sale.failures, sale.blocker) = (0, None));
    }

    /// Counts one more failed reconcile, and why it failed.
    pub fn failed(&self, key: &SaleKey, blocker: Option<Blocker>) {
        self.note(key, |sale| {
            sale.failures = sale.failures.saturating_add(1);
            sale.blocker = blocker;
        });
    }

    /// Failed reconciles in a row.
    pub fn failures(&self, key: &SaleKey) -> u32 {
        self.recall(key, |sale| sale.failures).unwrap_or_default()
    }

    /// Why reconciles fail. A single failure is not reported: the next reconcile is due in a moment.
    pub fn blocker(&self, key: &SaleKey) -> Option<Blocker> {
        self.recall(key, |sale| sale.blocker.clone().filter(|_| sale.failures > 1))
            .flatten()
    }

    /// Notes what is being done for a sale, and returns the conditions that say whether it takes long.
    pub fn note_progress(&self, key: &SaleKey, progress: &Progress) -> [Condition; 2] {
        let mut entries = self.lock();
        let sale = entries.sales.entry(key.clone()).or_default();
        sale.progress.note(progress, Instant::now())
    }

    /// The status as it was decided last, even if the watch has not shown it yet. Otherwise a time that says when
    /// something was observed first would be written twice.
    pub fn status(&self, object: &FlashSale) -> FlashSaleStatus {
        let written = self.recall(&sale_key(object), |sale| {
            let written = sale.written.as_ref();
            let unseen = written.filter(|written| written.over == object.resource_version());
            unseen.map(|written| written.status.clone())
        });
        written.flatten().or_else(|| object.status.clone()).unwrap_or_default()
    }

    pub fn wrote(&self, object: &FlashSale, status: FlashSaleStatus) {
        let over = object.resource_version();
        self.note(&sale_key(object), |sale| {
            sale.written = Some(Written { over, status });
        });
    }

    /// That status could not be written: what the watch shows counts again.
    pub fn not_written(&self, key: &SaleKey) {
        self.note(key, |sale| sale.written = None);
    }

    /// Whether the figures of a sale may be written now.
    pub fn may_write_figures(&self, key: &SaleKey) -> bool {
        let mut entries = self.lock();
        let Entries { sales, budget, .. } = &mut *entries;
        let write_turn = &mut sales.entry(key.clone()).or_default().write_turn;
        budget.may_write(write_turn, Instant::now())
    }

    pub fn close_appended(&self, sale: SaleId) -> bool {
        let appended = self.lock().closes.get(&sale).copied();
        appended.is_some_and(|at| at.elapsed() < APPEND_AGAIN_AFTER)
    }

    pub fn total_appended(&self, sale: SaleId, total: u64) -> bool {
        let appended = self.lock().totals.get(&sale).copied();
        appended.is_some_and(|(of, at)| of >= total && at.elapsed() < APPEND_AGAIN_AFTER)
    }

    pub fn remember_total(&self, sale: SaleId, total: u64) {
        self.lock().totals.insert(sale, (total, Instant::now()));
    }

    pub fn balance(&self, key: &SaleKey) -> BalanceHistory {
        self.recall(key, |sale| sale.balance.clone()).unwrap_or_default()
    }

    pub fn set_balance(&self, key: &SaleKey, balance: BalanceHistory) {
        self.note(key, |sale| sale.balance = balance);
    }

    /// Counts a rebuild that succeeded, and returns how many did soon after each other. A failed one is retried with the
    /// back-off of all failed reconciles.
    pub fn note_rebuild(&self, key: &SaleKey) -> u32 {
        self.note(key, |sale| sale.rebuilds.note(Instant::now()));
        self.recall(key, |sale| sale.rebuilds.in_a_row()).unwrap_or_default()
    }

    /// How long the next rebuild has to wait; `None`: it may begin.
    pub fn rebuild_delay(&self, key: &SaleKey) -> Option<RebuildDelay> {
        self.recall(key, |sale| sale.rebuilds.delay(Instant::now())).flatten()
    }

    pub fn absent_since(&self, key: &SaleKey) -> Option<AbsentSince> {
        self.recall(key, |sale| sale.absent.clone()).flatten()
    }

    pub fn set_absent(&self, key: &SaleKey, absent: AbsentSince) {
        self.note(key, |sale| sale.absent = Some(absent));
    }

    pub fn forget_absent(&self, key: &SaleKey) {
        if let Some(sale) = self.lock().sales.get_mut(key) {
            sale.absent = None;
        }
    }

    /// Whether a sale waits until the ledger has read the log.
    pub fn any_awaiting_ledger(&self) -> bool {
        let awaiting = |sale: &SaleEntry| sale.standing == Some(Standing::AwaitingLedger);
        self.lock().sales.values().any(awaiting)
    }

    pub fn remember_close(&self, sale: SaleId) {
        self.lock().closes.insert(sale, Instant::now());
    }

    pub fn forget_appended(&self, sale: SaleId) {
        let mut entries = self.lock();
        entries.closes.remove(&sale);
        entries.totals.remove(&sale);
    }

    /// How long the index of a sale has been unknown, if it is.
    pub fn index_unknown_for(&self, key: &SaleKey, unknown: bool) -> Duration {
        let mut entries = self.lock();
        let since = &mut entries.sales.entry(key.clone()).or_default().index_unknown_since;
        *since = unknown.then(|| since.unwrap_or_else(Instant::now));
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The clock of Redis at the last check of the servers.
    pub fn clock_of_redis(&self) -> Option<ClockReading> {
        self.lock().clock_of_redis
    }

    pub fn set_clock_of_redis(&self, reading: Option<ClockReading>) {
        self.lock().clock_of_redis = reading;
    }

    /// The clocks that were read last correct the operator's own. Without MySQL's there is no sale yet, and nothing new.
    pub fn set_clock_correction(&self, clocks: &Clocks) {
        if clocks.mysql.is_none() {
            return;
        }
        self.lock().clock_correction = clocks.now().cast_signed() - clocks.operator.cast_signed();
    }

    /// The time by which sales are planned, from the operator's own clock.
    pub fn corrected(&self, own: Millis) -> Millis {
        own.saturating_add_signed(self.lock().clock_correction)
    }

    /// Whether any sale has ended and is not settled; `None`: the ledger was not read yet.
    pub fn any_ending(&self) -> Option<bool> {
        self.lock().any_ending
    }

    pub fn note_any_ending(&self, any: bool) {
        self.lock().any_ending = Some(any);
    }

    /// Whether any sale sells without a FlashSale, so that its demand is unknown.
    pub fn any_selling_orphan(&self) -> bool {
        self.lock().any_selling_orphan
    }

    pub fn note_any_selling_orphan(&self, any: bool) {
        self.lock().any_selling_orphan = any;
    }

    /// Whether a change of a sale or its index is noticed without a reconcile.
    pub fn is_watched(&self, key: &SaleKey) -> bool {
        let entries = self.lock();
        let watched = entries.watched.as_ref();
        watched.is_some_and(|(keys, at)| at.elapsed() < WATCH_VALID && keys.contains(key))
    }

    pub fn set_watched(&self, keys: HashSet<SaleKey>) {
        self.lock().watched = Some((keys, Instant::now()));
    }

    /// Forgets the FlashSales that are gone.
    pub fn keep(&self, present: &HashSet<SaleKey>) {
        self.lock().sales.retain(|key, _| present.contains(key));
    }
}
