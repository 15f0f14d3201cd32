//! Callers that wait for a batch. One that has gone away holds no place, and its request is dropped.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// A request, and where its caller waits for the answer.
pub(crate) struct Queued<T, A> {
    pub request: T,
    /// Closed when the caller has gone away.
    pub answer: oneshot::Sender<A>,
}

struct Shared<T, A> {
    state: Mutex<State<T, A>>,
    capacity: usize,
    /// A request arrived, or the queue was closed. Only the receiver waits for it.
    changed: Notify,
}

struct State<T, A> {
    waiting: VecDeque<Queued<T, A>>,
    /// There is no sender or no receiver any more.
    closed: bool,
}

impl<T, A> Shared<T, A> {
    fn state(&self) -> MutexGuard<'_, State<T, A>> {
        // Every change is a single step, so a panic elsewhere leaves the queue consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the queue when it is dropped.
pub(crate) struct Sender<T, A>(Arc<Shared<T, A>>);

/// Closes the queue when it is dropped, which also drops what waits.
pub(crate) struct Receiver<T, A>(Arc<Shared<T, A>>);

/// The queue is full or closed.
#[derive(Debug)]
pub(crate) struct Refused;

pub(crate) fn queue<T, A>(capacity: usize) -> (Sender<T, A>, Receiver<T, A>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            closed: false,
        }),
        capacity,
        changed: Notify::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T, A> Sender<T, A> {
    pub fn push(&self, request: T, answer: oneshot::Sender<A>) -> Result<(), Refused> {
        let mut state = self.0.state();
        if state.waiting.len() >= self.0.capacity {
            // Clients that connect and disconnect must not fill the queue.
            state.waiting.retain(|queued| !queued.answer.is_closed());
        }
        if state.closed || state.waiting.len() >= self.0.capacity {
            return Err(Refused);
        }
        state.waiting.push_back(Queued { request, answer });
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T, A> Drop for Sender<T, A> {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_one();
    }
}

impl<T, A> Receiver<T, A> {
    /// Number of waiting requests. Some of their callers may have gone away.
    pub fn len(&self) -> usize {
        self.0.state().waiting.len()
    }

    /// Waits for a request whose caller still waits, and takes at most `max` of them. Empty once the queue is closed.
    pub async fn take(&self, max: usize) -> Vec<Queued<T, A>> {
        loop {
            // Read before the queue is: what was pushed before the close is taken first.
            let closed = self.0.state().closed;
            let batch = self.try_take(max);
            if closed || !batch.is_empty() {
                return batch;
            }
            self.0.changed.notified().await;
        }
    }

    /// Takes at most `max` requests whose callers still wait, without waiting.
    pub fn try_take(&self, max: usize) -> Vec<Queued<T, A>> {
        let mut state = self.0.state();
        let mut batch = Vec::with_capacity(max.min(state.waiting.len()));
        while batch.len() < max
            && let Some(queued) = state.waiting.pop_front()
        {
            if !queued.answer.is_closed() || seckill_failpoint::breaks("gone-callers-served") {
                batch.push(queued);
            }
        }
        batch
    }
}

impl<T, A> Drop for Receiver<T, A> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting); // wakes the callers, without the lock
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// A caller that waits, unless it is dropped.
    fn push(sender: &Sender<u32, ()>, request: u32) -> Result<oneshot::Receiver<()>, Refused> {
        let (answer, caller) = oneshot::channel();
        sender.push(request, answer)?;
        Ok(caller)
    }

    #[test]
    fn callers_that_went_away_hold_no_places() {
        let (sender, receiver) = queue(3);
        let first = push(&sender, 1).expect("there is room");
        for _ in 0..1000 {
            drop(push(&sender, 0).expect("there is room"));
        }
        let _others = [2, 3].map(|request| push(&sender, request).expect("there is room"));
        assert!(push(&sender, 4).is_err());
        drop(first);
        let _fourth = push(&sender, 4).expect("there is room");
        assert_eq!(receiver.len(), 3);
    }

    #[test]
    fn only_requests_of_waiting_callers_are_taken() {
        let (sender, receiver) = queue(10);
        let mut callers = Vec::new();
        for request in 0..6 {
            let caller = push(&sender, request).expect("there is room");
            if request % 2 == 1 {
                callers.push(caller);
            }
        }
        let taken = || {
            let batch = receiver.take(2).now_or_never()?;
            Some(batch.into_iter().map(|queued| queued.request).collect::<Vec<_>>())
        };
        assert_eq!(taken(), Some(vec![1, 3]));
        assert_eq!(taken(), Some(vec![5]));
        drop(push(&sender, 6).expect("there is room"));
        assert_eq!(taken(), None);
        drop(sender);
        assert_eq!(taken(), Some(vec![]));
    }

    #[test]
    fn a_queue_without_a_receiver_refuses() {
        let (sender, receiver) = queue(10);
        let mut caller = push(&sender, 1).expect("there is room");
        drop(receiver);
        assert!(caller.try_recv().is_err());
        assert!(push(&sender, 2).is_err());
    }
}
