//! The keys of all orders of sales that are over. The ledger had all orders of the sale when the keys were read, and after
//! CLOSE no order is added. So a key that is not among them never gets an order, also if MySQL loses its tail later.
use std::collections::{HashMap, VecDeque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use seckill_protocol::{KeyHash, SaleId};

use crate::limits::MAX_KEPT_KEYS;

/// A sale that fewer late buyers ask for stays with the ledger.
const WORTH_KEEPING: usize = 4;
/// From one attempt to read the keys of a sale to the next: the ledger may not answer in time, or the keys were forgotten.
const RETRY: Duration = Duration::from_secs(60);

pub struct OrderKeys {
    kept: RwLock<Kept>,
    kept_keys: Gauge,
}

pub struct SortedKeys(Box<[KeyHash]>);

impl SortedKeys {
    pub fn of(mut keys: Vec<KeyHash>) -> Self {
        keys.sort_unstable();
        SortedKeys(keys.into())
    }
}

#[derive(Default)]
struct Kept {
    keys: HashMap<SaleId, SortedKeys>,
    /// The sales that have keys, oldest first.
    order: VecDeque<SaleId>,
    attempts: HashMap<SaleId, Attempts>,
}

/// When the keys of a sale are read.
#[derive(Default)]
struct Attempts {
    /// Requests that the ledger has answered with "never".
    refused: usize,
    last: Option<Instant>,
    given_up: bool,
}

impl OrderKeys {
    pub fn new(kept_keys: Gauge) -> Self {
        OrderKeys {
            kept: RwLock::default(),
            kept_keys,
        }
    }

    /// Whether the key never gets an order in this sale. If not, the ledger knows.
    pub fn rule_out(&self, sale: SaleId, key: KeyHash) -> bool {
        let kept = self.read();
        let keys = kept.keys.get(&sale);
        keys.is_some_and(|SortedKeys(keys)| keys.binary_search(&key).is_err())
    }

    /// Counts refusals of the ledger. Returns whether the caller is to read the keys of the sale now.
    pub fn ask_for(&self, sale: SaleId, refused: usize) -> bool {
        if refused == 0 {
            return false;
        }
        let mut kept = self.write();
        if kept.keys.contains_key(&sale) {
            return false;
        }
        let attempts = kept.attempts.entry(sale).or_default();
        attempts.refused = attempts.refused.saturating_add(refused);
        let now = Instant::now();
        let is_due = attempts.last.is_none_or(|last| now - last >= RETRY);
        let asks = is_due && !attempts.given_up && attempts.refused >= WORTH_KEEPING;
        if asks {
            attempts.last = Some(now);
        }
        asks
    }

    /// Keeps the keys of a sale. Forgets those of older sales, to bound the memory.
    pub fn keep(&self, sale: SaleId, keys: SortedKeys) {
        let mut kept = self.write();
        if kept.keys.insert(sale, keys).is_none() {
            kept.order.push_back(sale);
        }
        while kept.len() > MAX_KEPT_KEYS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.keys.remove(&oldest);
        }
        self.kept_keys.set(kept.len() as i64);
    }

    /// The sale has too many keys, for ever.
    pub fn give_up(&self, sale: SaleId) {
        self.write().attempts.entry(sale).or_default().given_up = true;
    }

    /// The guarded data changes in single steps, so a panic elsewhere leaves it consistent.
    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn len(&self) -> usize {
        self.keys.values().map(|SortedKeys(keys)| keys.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> SortedKeys {
        SortedKeys::of((0..count as u64).rev().map(KeyHash).collect())
    }

    #[test]
    fn only_a_key_without_an_order_is_ruled_out() {
        let order_keys = OrderKeys::new(Gauge::default());
        assert!(!order_keys.rule_out(SaleId(1), KeyHash(7)), "nothing is known");
        order_keys.keep(SaleId(1), keys(3));
        assert!(!order_keys.rule_out(SaleId(1), KeyHash(2)));
        assert!(order_keys.rule_out(SaleId(1), KeyHash(3)));
        assert!(!order_keys.rule_out(SaleId(2), KeyHash(3)), "another sale");
    }

    #[test]
    fn the_keys_of_a_sale_are_asked_for_once_it_refuses_many() {
        let order_keys = OrderKeys::new(Gauge::default());
        assert!(!order_keys.ask_for(SaleId(1), WORTH_KEEPING - 1));
        assert!(order_keys.ask_for(SaleId(1), 1));
        assert!(!order_keys.ask_for(SaleId(1), WORTH_KEEPING), "they are being read");
        order_keys.keep(SaleId(1), keys(1));
        assert!(!order_keys.ask_for(SaleId(1), WORTH_KEEPING), "they are kept");
        order_keys.give_up(SaleId(2));
        assert!(!order_keys.ask_for(SaleId(2), WORTH_KEEPING), "there are too many");
    }

    #[test]
    fn the_keys_of_older_sales_are_forgotten() {
        let kept_keys = Gauge::default();
        let order_keys = OrderKeys::new(kept_keys.clone());
        for sale in 1..=3 {
            order_keys.keep(SaleId(sale), keys(MAX_KEPT_KEYS / 2));
        }
        let beyond = KeyHash(u64::MAX);
        assert!(!order_keys.rule_out(SaleId(1), beyond), "forgotten");
        assert!(order_keys.rule_out(SaleId(2), beyond) && order_keys.rule_out(SaleId(3), beyond));
        assert_eq!(kept_keys.get(), (MAX_KEPT_KEYS / 2 * 2) as i64);
    }
}
