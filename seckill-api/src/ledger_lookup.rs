//! Queries of the ledger for requests, bounded in number and time.
use std::fmt::Display;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use seckill_ledger::LedgerError;
use seckill_service::LogInterval;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::limits::MAX_CONCURRENT_LOOKUPS;
use crate::problem::Problem;

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// While MySQL is unavailable every lookup fails.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Limits how many requests query the ledger at the same time, so that a crowd after the end is answered at once.
pub struct LedgerLookups {
    permits: Semaphore,
    warnings: LogInterval,
    queries: Counter,
}

impl LedgerLookups {
    /// `queries` counts the queries.
    pub fn new(queries: Counter) -> Self {
        LedgerLookups {
            permits: Semaphore::new(MAX_CONCURRENT_LOOKUPS),
            warnings: LogInterval::new(WARN_INTERVAL),
            queries,
        }
    }

    pub async fn look_up<T>(&self, lookup: impl Future<Output = Result<T, LedgerError>>) -> Result<T, Problem> {
        let _permit = self.permits.try_acquire().map_err(|_| Problem::Overloaded)?;
        self.queries.inc();
        match timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => self.warn(&error),
            Err(_) => self.warn(&LedgerError::TimedOut(LOOKUP_TIMEOUT.as_secs())),
        }
        Err(Problem::NotReady)
    }

    fn warn(&self, error: &dyn Display) {
        if self.warnings.is_due() {
            tracing::warn!(%error, "ledger lookup failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use futures::future::{pending, ready};

    #[tokio::test]
    async fn lookups_beyond_the_limit_are_refused_at_once() {
        let lookups = LedgerLookups::new(Counter::default());
        let mut waiting: Vec<_> = (0..MAX_CONCURRENT_LOOKUPS)
            .map(|_| Box::pin(lookups.look_up(pending::<Result<(), LedgerError>>())))
            .collect();
        for lookup in &mut waiting {
            assert!(lookup.now_or_never().is_none());
        }
        assert!(matches!(lookups.look_up(ready(Ok(()))).await, Err(Problem::Overloaded)));
        waiting.pop();
        assert!(lookups.look_up(ready(Ok(()))).await.is_ok());
    }

    #[tokio::test]
    async fn a_failed_lookup_is_not_ready() {
        let failed = LedgerLookups::new(Counter::default())
            .look_up(ready(Err::<(), _>(LedgerError::TimedOut(1))))
            .await;
        assert!(matches!(failed, Err(Problem::NotReady)));
    }
}
