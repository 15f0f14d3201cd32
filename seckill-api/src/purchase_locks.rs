//! One lock per purchase. A second request for the same purchase waits for the first one, and then gets its result from
//! the index. The number of requests that wait is limited.
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seckill_protocol::{KeyHash, SaleId};
use tokio::sync::oneshot;

use crate::limits::MAX_WAITING_PER_KEY;

/// The hash of a key depends on its buyer. Two purchases with the same hash also wait for each other, which does no harm.
type PurchaseId = (SaleId, KeyHash);

/// The locked purchases, each with its queue.
#[derive(Clone, Default)]
pub struct PurchaseLocks(Arc<Mutex<HashMap<PurchaseId, Queue>>>);

type Queue = VecDeque<oneshot::Sender<PurchaseLock>>;

impl PurchaseLocks {
    /// Waits until no other request holds the lock of this purchase, first come, first served. None if too many requests
    /// wait for it already.
    pub async fn lock(&self, id: PurchaseId) -> Option<PurchaseLock> {
        let handed_over = match self.queues().entry(id) {
            Entry::Vacant(unlocked) => {
                unlocked.insert(Queue::new());
                None
            }
            Entry::Occupied(mut queue) => {
                let queue = queue.get_mut();
                if queue.len() >= MAX_WAITING_PER_KEY {
                    queue.retain(|waiting| !waiting.is_closed());
                }
                if queue.len() >= MAX_WAITING_PER_KEY {
                    return None;
                }
                let (sender, receiver) = oneshot::channel();
                queue.push_back(sender);
                Some(receiver)
            }
        };
        let new_lock = || PurchaseLock {
            locks: self.clone(),
            id,
        };
        Some(match handed_over {
            None => new_lock(),
            // A sender leaves the queue only to send a lock.
            Some(lock) => lock.await.unwrap_or_else(|_| new_lock()),
        })
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<PurchaseId, Queue>> {
        // Every change is a single step, so a panic elsewhere leaves the map consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes to the next request in the queue when it is dropped. A request that went away while it waited drops the lock as
/// soon as it is sent.
pub struct PurchaseLock {
    locks: PurchaseLocks,
    id: PurchaseId,
}

impl Drop for PurchaseLock {
    fn drop(&mut self) {
        let next = {
            let mut queues = self.locks.queues();
            let queue = queues.entry(self.id).or_default();
            let next = std::iter::from_fn(|| queue.pop_front()).find(|waiting| !waiting.is_closed());
            if next.is_none() {
                queues.remove(&self.id);
            }
            next
        };
        if let Some(next) = next {
            let _ = next.send(PurchaseLock {
                locks: self.locks.clone(),
                id: self.id,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    const ID: PurchaseId = (SaleId(1), KeyHash(1));

    #[tokio::test]
    async fn a_purchase_is_locked_by_one_request_at_a_time_in_order() {
        let locks = PurchaseLocks::default();
        let first = locks.lock(ID).await.expect("free");
        let (mut second, mut third) = (Box::pin(locks.lock(ID)), Box::pin(locks.lock(ID)));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        let other = locks.lock((SaleId(1), KeyHash(2))).now_or_never();
        assert!(other.is_some());
        drop(first);
        assert!((&mut third).now_or_never().is_none());
        let second = second.now_or_never().expect("it is locked");
        drop(second);
        assert!(third.now_or_never().flatten().is_some());
        drop(other);
        assert!(locks.queues().is_empty());
    }

    #[tokio::test]
    async fn the_lock_skips_requests_that_went_away() {
        let locks = PurchaseLocks::default();
        let first = locks.lock(ID).await;
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(locks.lock(ID))).collect();
        for lock in &mut waiting {
            assert!(lock.now_or_never().is_none());
        }
        let (last, handed, gone) = (waiting.pop(), waiting.pop(), waiting);
        drop(gone);
        drop(first);
        // This one has got the lock, and goes away before it is polled.
        drop(handed);
        assert!(last.expect("four").now_or_never().is_some());
        assert!(locks.queues().is_empty());
    }

    #[tokio::test]
    async fn only_a_bounded_number_of_requests_waits() {
        let locks = PurchaseLocks::default();
        let first = locks.lock(ID).await.expect("free");
        let mut waiting: Vec<_> = (0..MAX_WAITING_PER_KEY).map(|_| Box::pin(locks.lock(ID))).collect();
        for lock in &mut waiting {
            assert!(lock.now_or_never().is_none());
        }
        assert!(locks.lock(ID).await.is_none());
        assert!(locks.lock((SaleId(1), KeyHash(2))).await.is_some());
        // A client that goes away makes room.
        drop(waiting.pop());
        let mut next = Box::pin(locks.lock(ID));
        assert!((&mut next).now_or_never().is_none());
        drop((first, waiting));
        assert!(next.await.is_some());
        assert!(locks.queues().is_empty());
    }
}
