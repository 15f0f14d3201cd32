//! The purchases under way in this process. A second request for the same one waits for it instead of running beside it,
//! and then learns from the index what the first one came to.
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seckill_protocol::{KeyHash, SaleId};
use tokio::sync::oneshot;

/// Purchases of other buyers whose keys have the same hash wait for each other, too: it does no harm.
type Id = (SaleId, KeyHash);

#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<HashMap<Id, Queue>>>);

/// Those who wait for the one under way.
type Queue = VecDeque<oneshot::Sender<Turn>>;

impl InFlight {
    /// Waits until nobody else is at this purchase.
    pub async fn turn(&self, id: Id) -> Turn {
        let handed_over = match self.lock().entry(id) {
            Entry::Vacant(nobody) => {
                nobody.insert(Queue::new());
                None
            }
            Entry::Occupied(mut queue) => {
                let (sender, receiver) = oneshot::channel();
                queue.get_mut().push_back(sender);
                Some(receiver)
            }
        };
        let ours = || Turn {
            in_flight: self.clone(),
            id,
        };
        match handed_over {
            None => ours(),
            // A sender leaves the queue only to be sent a turn.
            Some(turn) => turn.await.unwrap_or_else(|_| ours()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Queue>> {
        // Changed in single steps, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The only one at a purchase. Goes to the next in the queue when it is dropped, also by one who went away before it came.
pub struct Turn {
    in_flight: InFlight,
    id: Id,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut running = self.in_flight.lock();
            let queue = running.entry(self.id).or_default();
            let next = std::iter::from_fn(|| queue.pop_front()).find(|waiting| !waiting.is_closed());
            if next.is_none() {
                running.remove(&self.id);
            }
            next
        };
        if let Some(next) = next {
            let _ = next.send(Turn {
                in_flight: self.in_flight.clone(),
                id: self.id,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    const ID: Id = (SaleId(1), KeyHash(1));

    #[tokio::test]
    async fn one_at_a_time_is_at_a_purchase_in_the_order_in_which_they_came() {
        let in_flight = InFlight::default();
        let first = in_flight.turn(ID).await;
        let (mut second, mut third) = (Box::pin(in_flight.turn(ID)), Box::pin(in_flight.turn(ID)));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        let other = in_flight.turn((SaleId(1), KeyHash(2))).now_or_never();
        assert!(other.is_some());
        drop(first);
        assert!((&mut third).now_or_never().is_none());
        let second = second.now_or_never().expect("its turn");
        drop(second);
        assert!(third.now_or_never().is_some());
        drop(other);
        assert!(in_flight.lock().is_empty());
    }

    #[tokio::test]
    async fn the_turn_of_one_who_has_gone_away_goes_to_the_next() {
        let in_flight = InFlight::default();
        let first = in_flight.turn(ID).await;
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(in_flight.turn(ID))).collect();
        for turn in &mut waiting {
            assert!(turn.now_or_never().is_none());
        }
        let (last, handed, gone) = (waiting.pop(), waiting.pop(), waiting);
        drop(gone);
        drop(first);
        // It has its turn, and goes away before it looks.
        drop(handed);
        assert!(last.expect("four").now_or_never().is_some());
        assert!(in_flight.lock().is_empty());
    }
}
