//! What this process did lately. It spares work and noise; nothing that counts depends on it.
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use seckill_crds::{FlashSale, FlashSaleStatus};
use seckill_protocol::SaleId;

use crate::balance::{Sample, Weighed};
use crate::error::Trouble;
use crate::plan::Standing;

/// What of a sale's balance is remembered from one look to the next.
#[derive(Debug, Clone, Default)]
pub struct Scales {
    /// Whose units are on their way.
    pub sample: Option<Sample>,
    /// What is told.
    pub last: Option<Weighed>,
}

/// A CLOSE or TOTAL that the worker has not passed by then is appended again: twice is once.
const APPEND_AGAIN: Duration = Duration::from_secs(10);

/// Figures that always move are written into a status no more often than this.
const SAMPLE: Duration = Duration::from_secs(2);
/// And for all sales together, on average, no more often than this, of which some may come at once.
const SAMPLE_OF_ANY: Duration = Duration::from_millis(100);
const AT_ONCE: u32 = 10;

/// `namespace/name` of a FlashSale.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Key(format!("{namespace}/{name}"))
    }

    pub fn of(object: &impl kube::ResourceExt) -> Self {
        Key::new(&object.namespace().unwrap_or_default(), &object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Default)]
pub struct Memory(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    sales: HashMap<Key, OfASale>,
    closes: HashMap<SaleId, Instant>,
    totals: HashMap<SaleId, (u64, Instant)>,
    any_ending: bool,
    samples: Samples,
}

#[derive(Default)]
struct OfASale {
    standing: Option<Standing>,
    failures: u32,
    trouble: Option<Trouble>,
    /// When its figures may be written next.
    sample_at: Option<Instant>,
    written: Option<Written>,
    scales: Scales,
}

/// A status that was written when the object was known in this version.
struct Written {
    over: Option<String>,
    status: FlashSaleStatus,
}

/// The write budget that all sales share: each has a turn, one behind the other.
#[derive(Default)]
struct Samples {
    /// When all turns that were given are over, if they come evenly.
    given_until: Option<Instant>,
}

impl Samples {
    fn may_sample(&mut self, turn: &mut Option<Instant>, now: Instant) -> bool {
        let at = turn.unwrap_or_else(|| self.turn_from(now));
        let may = at <= now;
        *turn = Some(if may { self.turn_from(now + SAMPLE) } else { at });
        may
    }

    fn turn_from(&mut self, earliest: Instant) -> Instant {
        let given = self.given_until.unwrap_or(earliest);
        let at = earliest.max(given.checked_sub(SAMPLE_OF_ANY * AT_ONCE).unwrap_or(earliest));
        self.given_until = Some(given.max(at) + SAMPLE_OF_ANY);
        at
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Single insertions and removals: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: &Key, note: impl FnOnce(&mut OfASale)) {
        note(self.lock().sales.entry(key.clone()).or_default());
    }

    fn recall<T>(&self, key: &Key, recall: impl FnOnce(&OfASale) -> T) -> Option<T> {
        self.lock().sales.get(key).map(recall)
    }

    /// What a plan said last; `None` before the first.
    pub fn standing(&self, key: &Key) -> Option<Standing> {
        self.recall(key, |sale| sale.standing).flatten()
    }

    pub fn stands(&self, key: &Key, standing: Standing) {
        self.note(key, |sale| sale.standing = Some(standing));
    }

    pub fn succeeded(&self, key: &Key) {
        self.note(key, |sale| (sale.failures, sale.trouble) = (0, None));
    }

    /// One more look that failed, and why.
    pub fn failed(&self, key: &Key, trouble: Option<Trouble>) {
        self.note(key, |sale| {
            sale.failures = sale.failures.saturating_add(1);
            sale.trouble = trouble;
        });
    }

    /// Looks that failed in a row.
    pub fn failures(&self, key: &Key) -> u32 {
        self.recall(key, |sale| sale.failures).unwrap_or_default()
    }

    /// Why looks fail. A single one that failed is no news: the next one is due in a moment.
    pub fn trouble(&self, key: &Key) -> Option<Trouble> {
        self.recall(key, |sale| sale.trouble.clone().filter(|_| sale.failures > 1))
            .flatten()
    }

    /// The status as it was written last, also if the watch has not shown it yet: without that, a time that says when
    /// something was seen first would be written twice.
    pub fn status(&self, object: &FlashSale) -> FlashSaleStatus {
        let written = self.recall(&Key::of(object), |sale| {
            let written = sale.written.as_ref();
            let unseen = written.filter(|written| written.over == object.resource_version());
            unseen.map(|written| written.status.clone())
        });
        written.flatten().or_else(|| object.status.clone()).unwrap_or_default()
    }

    pub fn wrote(&self, object: &FlashSale, status: FlashSaleStatus) {
        let over = object.resource_version();
        self.note(&Key::of(object), |sale| {
            sale.written = Some(Written { over, status });
        });
    }

    /// Whether its figures may be written now.
    pub fn may_sample(&self, key: &Key) -> bool {
        let mut remembered = self.lock();
        let Remembered { sales, samples, .. } = &mut *remembered;
        let sample_at = &mut sales.entry(key.clone()).or_default().sample_at;
        samples.may_sample(sample_at, Instant::now())
    }

    pub fn close_appended(&self, sale: SaleId) -> bool {
        let appended = self.lock().closes.get(&sale).copied();
        appended.is_some_and(|at| at.elapsed() < APPEND_AGAIN)
    }

    pub fn total_appended(&self, sale: SaleId, total: u64) -> bool {
        let appended = self.lock().totals.get(&sale).copied();
        appended.is_some_and(|(of, at)| of >= total && at.elapsed() < APPEND_AGAIN)
    }

    pub fn remember_total(&self, sale: SaleId, total: u64) {
        self.lock().totals.insert(sale, (total, Instant::now()));
    }

    pub fn scales(&self, key: &Key) -> Scales {
        self.recall(key, |sale| sale.scales.clone()).unwrap_or_default()
    }

    pub fn set_scales(&self, key: &Key, scales: Scales) {
        self.note(key, |sale| sale.scales = scales);
    }

    pub fn remember_close(&self, sale: SaleId) {
        self.lock().closes.insert(sale, Instant::now());
    }

    pub fn forget_appended(&self, sale: SaleId) {
        let mut remembered = self.lock();
        remembered.closes.remove(&sale);
        remembered.totals.remove(&sale);
    }

    /// Whether any sale has ended and is not settled.
    pub fn any_ending(&self) -> bool {
        self.lock().any_ending
    }

    pub fn note_any_ending(&self, any: bool) {
        self.lock().any_ending = any;
    }

    /// Forgets the FlashSales that are gone.
    pub fn keep(&self, there: &HashSet<Key>) {
        self.lock().sales.retain(|key, _| there.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at so many sales each second for so long, and counts how often the figures of each were written.
    fn written(sales: usize, seconds: u64) -> Vec<u64> {
        let (mut samples, mut turns, begun) = (Samples::default(), vec![None; sales], Instant::now());
        let mut written = vec![0; sales];
        for second in 0..seconds {
            for (turn, written) in turns.iter_mut().zip(&mut written) {
                *written += u64::from(samples.may_sample(turn, begun + Duration::from_secs(second)));
            }
        }
        written
    }

    #[test]
    fn the_figures_of_a_few_sales_are_written_every_other_second() {
        let written = written(3, 60);
        assert!(written.iter().all(|times| (29..=30).contains(times)), "{written:?}");
    }

    #[test]
    fn a_thousand_sales_share_ten_writes_a_second_and_each_has_its_turn() {
        let written = written(1000, 600);
        let all: u64 = written.iter().sum();
        assert!((5_000..=6_010).contains(&all), "{all}");
        assert!(written.iter().all(|times| (5..=7).contains(times)), "{written:?}");
    }
}
