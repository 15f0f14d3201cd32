//! The heartbeats of a program, by which the operator knows which formats the running programs speak.
use std::sync::Arc;
use std::time::Duration;

use seckill_ledger::Ledger;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::log_once::FailureLog;
use crate::periodic::periodic;

/// A program counts as running for three times as long.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Time limit at shutdown. A heartbeat that stays is ignored after 30 s.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The heartbeats of this program. Clones are the same.
#[derive(Clone)]
pub struct Heartbeats(Arc<Inner>);

struct Inner {
    program: &'static str,
    instance: String,
    /// While heartbeats are written. Locked during a write, so that none follows after the end.
    ledger: Mutex<Option<Ledger>>,
}

impl Heartbeats {
    pub fn new(program: &'static str, instance: String) -> Self {
        Heartbeats(Arc::new(Inner {
            program,
            instance,
            ledger: Mutex::default(),
        }))
    }

    /// Writes the first heartbeat, and further ones in the background. A failure is logged and does not matter to this
    /// program: it is only not counted when the required format rises.
    pub async fn begin(&self, ledger: &Ledger) {
        let mut failures = FailureLog::first_only();
        *self.0.ledger.lock().await = Some(ledger.clone());
        self.0.beat(&mut failures).await;
        let inner = self.0.clone();
        tokio::spawn(async move {
            let mut ticks = periodic(HEARTBEAT_INTERVAL);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                if !inner.beat(&mut failures).await {
                    return;
                }
            }
        });
    }

    /// Deletes the heartbeat of a program that has stopped its work.
    pub async fn end(&self) {
        let ended = async {
            match self.0.ledger.lock().await.take() {
                Some(ledger) => ledger.end_heartbeat(self.0.program, &self.0.instance).await,
                None => Ok(()),
            }
        };
        match timeout(END_TIMEOUT, ended).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to delete the heartbeat"),
            Err(_) => tracing::warn!("timed out deleting the heartbeat"),
        }
    }
}

impl Inner {
    /// False after the end.
    async fn beat(&self, failures: &mut FailureLog) -> bool {
        let ledger = self.ledger.lock().await;
        let Some(ledger) = &*ledger else { return false };
        failures.note("writing the heartbeat", ledger.beat(self.program, &self.instance).await);
        true
    }
}
