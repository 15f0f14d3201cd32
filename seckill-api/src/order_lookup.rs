//! The order of a key after a sale, from the ledger. After CLOSE every late request asks for it. Requests that wait at the
//! same time share one query, and soon the process has the keys of all orders, and asks only for those.
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use seckill_ledger::{AllKeys, Ledger, MAX_KEYS, StoredOrder};
use seckill_protocol::{Buyer, KeyHash, SaleId};
use tokio::sync::{Semaphore, oneshot};

use crate::ledger_lookup::LedgerLookups;
use crate::limits::{MAX_KEPT_KEYS, MAX_WAITING_LOOKUPS};
use crate::order_keys::{OrderKeys, SortedKeys};
use crate::problem::Problem;

#[derive(Debug, Clone)]
pub enum OrderOfKey {
    Stored(Box<StoredOrder>),
    /// This key has no order and never gets one.
    Never,
    /// The ledger does not have all orders of the sale.
    Unknown,
}

/// The order of a key of a sale. There is at most one query in flight for a sale: it takes all keys that wait.
pub struct OrderLookups(Arc<Shared>);

type Key = (Buyer, KeyHash);
type Answer = Result<OrderOfKey, Problem>;

struct Waiting {
    key: Key,
    answer: oneshot::Sender<Answer>,
}

struct Shared {
    ledger: Ledger,
    lookups: Arc<LedgerLookups>,
    /// The sales that are being queried.
    waiting: Mutex<HashMap<SaleId, VecDeque<Waiting>>>,
    order_keys: OrderKeys,
    reading_keys: Semaphore,
}

impl OrderLookups {
    /// `kept_keys` has the number of keys that are kept in memory.
    pub fn new(ledger: Ledger, lookups: Arc<LedgerLookups>, kept_keys: Gauge) -> Self {
        OrderLookups(Arc::new(Shared {
            ledger,
            lookups,
            waiting: Mutex::default(),
            order_keys: OrderKeys::new(kept_keys),
            reading_keys: Semaphore::new(1),
        }))
    }

    pub async fn order_of(&self, sale: SaleId, buyer: &Buyer, key: KeyHash) -> Answer {
        if self.0.order_keys.rule_out(sale, key) {
            return Ok(OrderOfKey::Never);
        }
        let key = (buyer.clone(), key);
        let (answer, answered) = oneshot::channel();
        if self.0.push(sale, Waiting { key, answer })? {
            let draining = Draining {
                shared: self.0.clone(),
                sale,
            };
            tokio::spawn(async move { draining.run().await });
        }
        // The answer is lost only if the task panicked.
        answered.await.unwrap_or(Err(Problem::NotReady))
    }
}

impl Shared {
    /// Returns whether the caller has to start the queries of this sale.
    fn push(&self, sale: SaleId, waiting: Waiting) -> Result<bool, Problem> {
        let mut sales = lock(&self.waiting);
        let starts = !sales.contains_key(&sale);
        let queue = sales.entry(sale).or_default();
        if queue.len() >= MAX_WAITING_LOOKUPS {
            queue.retain(|waiting| !waiting.answer.is_closed());
        }
        if queue.len() >= MAX_WAITING_LOOKUPS {
            return Err(Problem::Overloaded);
        }
        queue.push_back(waiting);
        Ok(starts)
    }

    /// The next keys of a sale whose callers still wait. Empty if there are none: then the queries of the sale have ended.
    fn take(&self, sale: SaleId) -> Vec<Waiting> {
        let mut sales = lock(&self.waiting);
        let mut batch = Vec::new();
        if let Some(queue) = sales.get_mut(&sale) {
            while batch.len() < MAX_KEYS
                && let Some(waiting) = queue.pop_front()
            {
                if !waiting.answer.is_closed() {
                    batch.push(waiting);
                }
            }
        }
        if batch.is_empty() {
            sales.remove(&sale);
        }
        batch
    }
}

impl Shared {
    /// Reads and keeps the keys of a sale, one sale at a time. If that fails, a later request asks for them again.
    async fn keep_keys(&self, sale: SaleId) {
        let Ok(_permit) = self.reading_keys.try_acquire() else {
            return;
        };
        // With the time limit of the ledger: this is no lookup for a caller who waits.
        match self.ledger.keys_of_all_orders(sale, MAX_KEPT_KEYS).await {
            Ok(AllKeys::Keys(keys)) => {
                // Sorting millions of keys would stop other requests of this thread.
                let sorted = tokio::task::spawn_blocking(move || SortedKeys::of(keys));
                if let Ok(keys) = sorted.await {
                    self.order_keys.keep(sale, keys);
                }
            }
            Ok(AllKeys::TooMany) => self.order_keys.give_up(sale),
            Ok(AllKeys::Incomplete) => {}
            Err(error) => tracing::warn!(%sale, %error, "failed to read the keys of all orders"),
        }
    }
}

/// The task that queries for one sale until nobody waits.
struct Draining {
    shared: Arc<Shared>,
    sale: SaleId,
}

impl Draining {
    async fn run(self) {
        loop {
            let batch = self.shared.take(self.sale);
            if batch.is_empty() {
                return;
            }
            let keys: Vec<_> = batch.iter().map(|waiting| (&waiting.key.0, waiting.key.1)).collect();
            let query = self.shared.ledger.orders_by_key(self.sale, &keys);
            let found = self.shared.lookups.look_up(query).await;
            self.answer(batch, found);
        }
    }

    fn answer(&self, batch: Vec<Waiting>, found: Result<(Vec<Option<StoredOrder>>, bool), Problem>) {
        let (orders, complete) = match found {
            Ok(found) => found,
            Err(problem) => {
                for waiting in batch {
                    let _ = waiting.answer.send(Err(problem.clone())); // fails if the caller has gone away
                }
                return;
            }
        };
        let mut never = 0;
        for (Waiting { answer, .. }, order) in batch.into_iter().zip(orders) {
            let result = match order {
                Some(order) => OrderOfKey::Stored(Box::new(order)),
                None if complete => OrderOfKey::Never,
                None => OrderOfKey::Unknown,
            };
            never += usize::from(matches!(result, OrderOfKey::Never));
            let _ = answer.send(Ok(result));
        }
        if self.shared.order_keys.ask_for(self.sale, never) {
            let (shared, sale) = (self.shared.clone(), self.sale);
            tokio::spawn(async move { shared.keep_keys(sale).await });
        }
    }
}

/// A panic must not leave a sale that looks as if it were being queried.
impl Drop for Draining {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.shared.waiting).remove(&self.sale);
        }
    }
}

/// The guarded data changes in single steps, so a panic elsewhere leaves it consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
