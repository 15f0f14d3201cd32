//! The purchases under way in this process. A second request for the same one joins it instead of running beside it.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use seckill_protocol::{Buyer, KeyHash, Quantity, SaleId};

use crate::problem::Problem;
use crate::purchase::{Answered, Purchase};

type Id = (SaleId, Buyer, KeyHash);

#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    purchases: HashMap<Id, Entry>,
    tickets: u64,
}

struct Entry {
    ticket: u64,
    quantity: Quantity,
    /// Weak, so that it ends when all who asked for it have gone away.
    purchase: WeakShared<BoxFuture<'static, Answered>>,
}

impl InFlight {
    /// The answer of the purchase under way, or of `run` if there is none.
    pub async fn join<F>(&self, purchase: Purchase, run: impl FnOnce(Purchase) -> F) -> Answered
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        self.find_or_begin(purchase, run)?.await
    }

    fn find_or_begin<F>(
        &self,
        purchase: Purchase,
        run: impl FnOnce(Purchase) -> F,
    ) -> Result<Shared<BoxFuture<'static, Answered>>, Problem>
    where
        F: Future<Output = Answered> + Send + 'static,
    {
        let id = (purchase.sale, purchase.buyer.clone(), purchase.key);
        let quantity = purchase.quantity;
        let mut running = self.lock();
        if let Some(entry) = running.purchases.get(&id)
            && let Some(first) = entry.purchase.upgrade()
        {
            return if entry.quantity == quantity {
                Ok(first)
            } else {
                Err(Problem::KeyReused)
            };
        }
        running.tickets += 1;
        let ticket = running.tickets;
        let place = Place {
            in_flight: self.clone(),
            id: id.clone(),
            ticket,
        };
        let future = run(purchase);
        let shared = async move {
            let _place = place;
            future.await
        }
        .boxed()
        .shared();
        // A future that has not ended can be referred to weakly.
        if let Some(weak) = shared.downgrade() {
            let entry = Entry {
                ticket,
                quantity,
                purchase: weak,
            };
            running.purchases.insert(id, entry);
        }
        Ok(shared)
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        // Changed in single steps, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a purchase out when it ends, or when nobody waits for it any longer.
struct Place {
    in_flight: InFlight,
    id: Id,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.in_flight.lock();
        if running
            .purchases
            .get(&self.id)
            .is_some_and(|entry| entry.ticket == self.ticket)
        {
            running.purchases.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purchase::Outcome;
    use tokio::sync::oneshot;

    fn purchase(quantity: Quantity) -> Purchase {
        Purchase {
            sale: SaleId(1),
            buyer: Buyer::anonymous("k"),
            key: KeyHash(1),
            quantity,
        }
    }

    async fn until(told: oneshot::Receiver<()>) -> Answered {
        let _ = told.await;
        Ok(Outcome::Pending)
    }

    #[tokio::test]
    async fn the_second_request_joins_the_first() {
        let in_flight = InFlight::default();
        let (tell, told) = oneshot::channel();
        let first = in_flight.find_or_begin(purchase(1), |_| until(told)).unwrap();
        let second = in_flight
            .find_or_begin(purchase(1), |_| async { panic!("ran twice") })
            .unwrap();
        let other = in_flight.find_or_begin(purchase(2), |_| async { panic!("ran") });
        assert!(matches!(other, Err(Problem::KeyReused)));
        tell.send(()).unwrap();
        assert!(matches!(first.await, Ok(Outcome::Pending)));
        assert!(matches!(second.await, Ok(Outcome::Pending)));
        assert!(in_flight.lock().purchases.is_empty());
    }

    #[tokio::test]
    async fn a_purchase_that_all_have_left_is_forgotten() {
        let in_flight = InFlight::default();
        let (_tell, told) = oneshot::channel();
        let mut first = in_flight.find_or_begin(purchase(1), |_| until(told)).unwrap();
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        assert!(in_flight.lock().purchases.is_empty());
        let again = in_flight.join(purchase(2), |_| async { Ok(Outcome::Pending) }).await;
        assert!(matches!(again, Ok(Outcome::Pending)));
    }
}
