//! Kubernetes events of FlashSales.
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

/// Something worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Note {
            warning: false,
            reason,
            message: message.into(),
        }
    }

    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Note {
            warning: true,
            reason,
            message: message.into(),
        }
    }
}

/// Publishes notes as events of a FlashSale. A failure is logged: an event is no reason to fail a reconcile.
pub async fn publish(recorder: &Recorder, object: &ObjectReference, notes: impl IntoIterator<Item = Note>) {
    for note in notes {
        let event = Event {
            type_: match note.warning {
                true => EventType::Warning,
                false => EventType::Normal,
            },
            reason: note.reason.to_owned(),
            note: Some(note.message),
            action: note.reason.to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, object).await {
            tracing::warn!(%error, reason = note.reason, "failed to write an event");
        }
    }
}
