use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use seckill_ledger::LedgerError;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::problem::Problem;

/// More than these would only wait for a connection.
const AT_ONCE: usize = 128;
const WITHIN: Duration = Duration::from_secs(3);
/// While MySQL is away every lookup fails.
const WARNED_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// The bound on how many requests ask the ledger at once, so that a crowd after the end is answered at once too.
pub struct Lookups {
    places: Semaphore,
    warned: Mutex<Option<Instant>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Lookups {
            places: Semaphore::new(AT_ONCE),
            warned: Mutex::default(),
        }
    }
}

impl Lookups {
    pub async fn look_up<T>(&self, lookup: impl Future<Output = Result<T, LedgerError>>) -> Result<T, Problem> {
        let _place = self.places.try_acquire().map_err(|_| Problem::Overloaded)?;
        match timeout(WITHIN, lookup).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => self.warn(&error),
            Err(_) => self.warn(&LedgerError::TimedOut(WITHIN.as_secs())),
        }
        Err(Problem::NotReady)
    }

    fn warn(&self, error: &dyn Display) {
        // One instant is written at once, so a panic elsewhere leaves it whole.
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARNED_AT_MOST_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(%error, "looking into the ledger");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use futures::future::{pending, ready};

    #[tokio::test]
    async fn beyond_the_bound_a_lookup_is_refused_at_once() {
        let lookups = Lookups::default();
        let mut waiting: Vec<_> = (0..AT_ONCE)
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
    async fn a_ledger_that_fails_is_not_ready() {
        let failed = Lookups::default()
            .look_up(ready(Err::<(), _>(LedgerError::TimedOut(1))))
            .await;
        assert!(matches!(failed, Err(Problem::NotReady)));
    }
}
