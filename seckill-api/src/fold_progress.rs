//! How far order-worker has folded the log. Requests that wait for a record share one query of the ledger.
use std::sync::Arc;
use std::time::Duration;

use seckill_ledger::Ledger;
use seckill_protocol::Offset;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::ledger_lookup::LedgerLookups;

const QUERY_INTERVAL: Duration = Duration::from_millis(50);

pub struct FoldProgress {
    ledger: Ledger,
    lookups: Arc<LedgerLookups>,
    sample: Mutex<Sample>,
}

/// The next offset of each partition, as the ledger had them at one instant.
#[derive(Default)]
struct Sample {
    taken_at: Option<Instant>,
    positions: Vec<(u32, Offset)>,
}

impl FoldProgress {
    pub fn new(ledger: Ledger, lookups: Arc<LedgerLookups>) -> Self {
        FoldProgress {
            ledger,
            lookups,
            sample: Mutex::default(),
        }
    }

    /// Waits until the record at this offset is folded. Set a time limit: MySQL or order-worker may be away.
    pub async fn reaches(&self, partition: u32, offset: Offset) {
        while !self.has_reached(partition, offset).await {
            sleep(QUERY_INTERVAL).await;
        }
    }

    async fn has_reached(&self, partition: u32, offset: Offset) -> bool {
        let mut sample = self.sample.lock().await;
        if sample.taken_at.is_none_or(|at| at.elapsed() >= QUERY_INTERVAL) {
            let positions = self.lookups.look_up(self.ledger.positions()).await;
            sample.taken_at = Some(Instant::now());
            // After a failure the last positions stay true.
            if let Ok(positions) = positions {
                sample.positions = positions;
            }
        }
        sample
            .positions
            .iter()
            .any(|(of, next)| *of == partition && *next > offset)
    }
}
