//! The statuses and events that wait to be written beside the reconciles. `sale::status_writer` writes them.
//!
//! Of each sale only the newest status waits, and one write at a time is in progress, so a status never replaces a newer
//! one. A write that fails is repeated by the next reconcile, which finds that the status still differs.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::core::error_boundary::InvalidObject;
use seckill_crds::{FlashSale, FlashSaleStatus};
use seckill_planner::SaleKey;

use crate::cluster::events::Note;
use crate::cluster::watch::Guarded;

/// The events of one sale that wait while the API server is away; the oldest are dropped first.
const MAX_WAITING_NOTES: usize = 16;
/// How often a leader that ends checks whether all is written.
const EMPTIED_INTERVAL: Duration = Duration::from_millis(10);

pub struct StatusQueue {
    waiting: Mutex<HashMap<SaleKey, Waiting>>,
    /// Each sale is here once, from its first news until all of it is written.
    due: UnboundedSender<SaleKey>,
}

/// The sales whose news are due.
pub struct DueStatuses(pub UnboundedReceiver<SaleKey>);

/// The news of one sale.
pub struct Waiting {
    pub object: ObjectReference,
    pub status: Option<NewStatus>,
    /// In the order in which they happened.
    pub notes: Vec<WaitingNote>,
}

pub enum NewStatus {
    Known(Box<FlashSaleStatus>),
    /// The object can't be parsed, so the rest of its status has to be read first.
    Refused(Refusal),
}

/// Why a FlashSale can't be parsed, in this generation of it.
pub struct Refusal {
    pub error: String,
    pub generation: Option<i64>,
}

pub struct WaitingNote {
    pub note: Note,
    /// It says what changes by the status, and is found again if that can't be written.
    pub of_status: bool,
}

impl StatusQueue {
    pub fn new() -> (Self, DueStatuses) {
        let (due, receiver) = unbounded();
        let waiting = Mutex::default();
        (StatusQueue { waiting, due }, DueStatuses(receiver))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SaleKey, Waiting>> {
        // Single insertions and removals: a panic elsewhere leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces a status that waits. Its notes are still published.
    pub fn push_status(&self, object: &FlashSale, status: FlashSaleStatus, notes: Vec<Note>) {
        self.push(object.object_ref(&()), |waiting| {
            waiting.status = Some(NewStatus::Known(Box::new(status)));
            waiting.add(notes, true);
        });
    }

    /// Replaces a status that waits.
    pub fn push_refusal(&self, object: &Guarded, invalid: &InvalidObject) {
        let refusal = Refusal {
            error: invalid.error.clone(),
            generation: invalid.metadata.generation,
        };
        self.push(object.object_ref(&()), |waiting| {
            waiting.status = Some(NewStatus::Refused(refusal));
        });
    }

    pub fn push_note(&self, object: &FlashSale, note: Note) {
        self.push(object.object_ref(&()), |waiting| waiting.add([note], false));
    }

    fn push(&self, object: ObjectReference, add: impl FnOnce(&mut Waiting)) {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let key = SaleKey::new(name(&object.namespace), name(&object.name));
        let mut waiting = self.lock();
        if let Some(waiting) = waiting.get_mut(&key) {
            waiting.object = object;
            return add(waiting);
        }
        let (status, notes) = (None, Vec::new());
        let mut news = Waiting { object, status, notes };
        add(&mut news);
        waiting.insert(key.clone(), news);
        // Fails only when the leadership term ends.
        let _ = self.due.unbounded_send(key);
    }

    /// Whether anything of a sale is not written yet.
    pub fn is_pending(&self, key: &SaleKey) -> bool {
        self.lock().contains_key(key)
    }

    /// Waits until all is written.
    pub async fn emptied(&self) {
        while !self.lock().is_empty() {
            tokio::time::sleep(EMPTIED_INTERVAL).await;
        }
    }

    /// What there is to write of a sale; `None`: nothing any more.
    pub fn take(&self, key: &SaleKey) -> Option<Waiting> {
        let mut waiting = self.lock();
        let news = waiting.get_mut(key)?;
        if news.status.is_none() && news.notes.is_empty() {
            waiting.remove(key);
            return None;
        }
        Some(Waiting {
            object: news.object.clone(),
            status: news.status.take(),
            notes: std::mem::take(&mut news.notes),
        })
    }
}

impl Waiting {
    fn add(&mut self, notes: impl IntoIterator<Item = Note>, of_status: bool) {
        let notes = notes.into_iter().map(|note| WaitingNote { note, of_status });
        self.notes.extend(notes);
        let excess = self.notes.len().saturating_sub(MAX_WAITING_NOTES);
        self.notes.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::convert::sale_key;

    fn sale() -> FlashSale {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSale",
            "metadata": {"name": "sale", "namespace": "shop"},
            "spec": {
                "className": "default",
                "item": {"sku": "s", "name": "An item", "price": "9.90", "currency": "EUR"},
                "stock": 10,
                "startsAt": "2027-01-01T00:00:00Z",
                "endsAt": "2027-01-01T01:00:00Z",
            },
        }))
        .expect("a FlashSale")
    }

    fn status(epoch: i64) -> FlashSaleStatus {
        FlashSaleStatus {
            epoch: Some(epoch),
            ..FlashSaleStatus::default()
        }
    }

    fn note(reason: &'static str) -> Note {
        Note::normal(reason, "")
    }

    #[test]
    fn the_newest_status_waits_and_no_event_is_lost() {
        let (queue, mut due) = StatusQueue::new();
        let (object, key) = (sale(), sale_key(&sale()));
        queue.push_status(&object, status(1), vec![note("Opened")]);
        queue.push_note(&object, note("Rebuilt"));
        queue.push_status(&object, status(2), vec![note("SoldOut")]);
        assert_eq!(due.0.try_recv().ok(), Some(key.clone()));
        assert!(due.0.try_recv().is_err(), "a sale is due once");
        let news = queue.take(&key).expect("news");
        assert!(matches!(news.status, Some(NewStatus::Known(status)) if status.epoch == Some(2)));
        let reasons: Vec<&str> = news.notes.iter().map(|note| note.note.reason).collect();
        assert_eq!(reasons, ["Opened", "Rebuilt", "SoldOut"]);
        // It is being written.
        assert!(queue.is_pending(&key));
        queue.push_status(&object, status(3), Vec::new());
        assert!(due.0.try_recv().is_err(), "one write at a time");
        assert!(queue.take(&key).is_some() && queue.take(&key).is_none());
        assert!(!queue.is_pending(&key));
        queue.push_note(&object, note("Settled"));
        assert_eq!(due.0.try_recv().ok(), Some(key));
    }

    #[test]
    fn waiting_events_are_bounded() {
        let (queue, _due) = StatusQueue::new();
        for _ in 0..100 {
            queue.push_note(&sale(), note("Rebuilt"));
        }
        let news = queue.take(&sale_key(&sale())).expect("news");
        assert_eq!(news.notes.len(), MAX_WAITING_NOTES);
    }
}
