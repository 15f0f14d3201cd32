//! The current keys of an issuer, refreshed in the background. No request with a known key waits for a fetch.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use seckill_service::retry::full_jitter;
use seckill_service::{FailureLog, Shutdown};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::cache::{TokenCache, TokenHash};
use super::fetch::{FetchError, KeyFetcher};
use super::jwks::{InvalidKeySet, KeySet};
use super::token::Verified;
use crate::metrics::Metrics;

/// Of equal failures in a row the first is logged, and then every tenth.
const LOG_EVERY_NTH: u32 = 10;
/// For a request with an unknown key. It is less than the time limit of a request.
const MAX_WAIT: Duration = Duration::from_secs(6);

/// When keys are fetched.
#[derive(Debug, Clone, Copy)]
pub struct RefreshIntervals {
    /// The age at which keys are fetched again.
    pub max_age: Duration,
    /// Tokens with unknown keys cause one fetch in this time, whatever the fetch brings. A fetch that failed is also
    /// repeated after this time.
    pub min_interval: Duration,
}

impl Default for RefreshIntervals {
    fn default() -> Self {
        RefreshIntervals {
            max_age: Duration::from_secs(600),
            min_interval: Duration::from_secs(30),
        }
    }
}

/// Keys, and the tokens that they have verified. Other keys come with an empty cache, so a token of a removed key is
/// never found.
#[derive(Debug)]
pub struct CurrentKeys {
    pub keys: KeySet,
    verified: Mutex<TokenCache>,
}

impl CurrentKeys {
    pub fn verified_before(&self, token: &TokenHash, now: u64) -> Option<Verified> {
        lock(&self.verified).verified(token, now)
    }

    pub fn remember(&self, token: TokenHash, verified: Verified) {
        lock(&self.verified).insert(token, verified);
    }
}

pub struct Keys {
    issuer: Arc<str>,
    /// None until the first fetch succeeds. A failed fetch never replaces keys.
    current: RwLock<Option<Arc<CurrentKeys>>>,
    /// When tokens with unknown keys may cause the next fetch.
    next_fetch: Mutex<Option<Instant>>,
    /// The number of fetches that such tokens have asked for.
    wanted: watch::Sender<u64>,
    finished: watch::Sender<Finished>,
    intervals: RefreshIntervals,
}

#[derive(Debug, Clone, Copy, Default)]
struct Finished {
    /// As many of the wanted fetches have ended.
    fetches: u64,
    last_failed: bool,
}

/// What is known about the keys after a token with an unknown key asked for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Fetched,
    /// The issuer does not answer, so a key that is not known here may exist.
    IssuerAway,
}

#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Keys(#[from] InvalidKeySet),
}

impl Keys {
    pub fn new(issuer: Arc<str>, intervals: RefreshIntervals) -> Self {
        Keys {
            issuer,
            current: RwLock::default(),
            next_fetch: Mutex::default(),
            wanted: watch::Sender::default(),
            finished: watch::Sender::default(),
            intervals,
        }
    }

    pub fn current(&self) -> Option<Arc<CurrentKeys>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the keys fetched again for a token with an unknown key, and waits for it. Within the interval it starts no
    /// further fetch, and waits only for one that has started.
    pub async fn refetch(&self) -> Freshness {
        if let Some(number) = self.claim() {
            let mut finished = self.finished.subscribe();
            let waited = timeout(MAX_WAIT, finished.wait_for(|finished| finished.fetches >= number)).await;
            if waited.is_err() {
                return Freshness::IssuerAway;
            }
        }
        match self.finished.borrow().last_failed {
            true => Freshness::IssuerAway,
            false => Freshness::Fetched,
        }
    }

    /// The number of the fetch to wait for. The slot is taken before the fetch, so that a crowd causes only one.
    fn claim(&self) -> Option<u64> {
        let mut next_fetch = lock(&self.next_fetch);
        let now = Instant::now();
        if next_fetch.is_none_or(|at| at <= now) {
            *next_fetch = Some(now + self.intervals.min_interval);
            self.wanted.send_modify(|fetches| *fetches += 1);
            return Some(*self.wanted.borrow());
        }
        let wanted = *self.wanted.borrow();
        (self.finished.borrow().fetches < wanted).then_some(wanted)
    }

    /// Fetches at once, then at the age of the keys and whenever tokens want it.
    pub async fn follow(&self, fetcher: KeyFetcher, algorithms: &[Algorithm], metrics: &Metrics, shutdown: Shutdown) {
        let mut wanted = self.wanted.subscribe();
        let mut failures = FailureLog::changes_and_every(LOG_EVERY_NTH);
        loop {
            let fetches = *wanted.borrow();
            let refreshed = tokio::select! {
                () = shutdown.cancelled() => return,
                refreshed = self.refresh(&fetcher, algorithms) => refreshed,
            };
            let last_failed = refreshed.is_err();
            metrics.count_key_fetch(&self.issuer, !last_failed);
            self.log(refreshed, &mut failures);
            self.finished.send_replace(Finished { fetches, last_failed });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(self.delay(&failures)) => {}
                // The sender is in self.
                _ = wanted.wait_for(|wanted| *wanted > fetches) => {}
            }
        }
    }

    fn delay(&self, failures: &FailureLog) -> Duration {
        match failures.count() {
            0 => self.intervals.max_age,
            _ if self.current().is_some() => self.intervals.min_interval,
            count => full_jitter(count),
        }
    }

    async fn refresh(&self, fetcher: &KeyFetcher, algorithms: &[Algorithm]) -> Result<(), RefreshError> {
        let document = fetcher.fetch().await?;
        self.replace(KeySet::parse(&document, algorithms)?);
        Ok(())
    }

    /// Equal keys keep the tokens that were verified by them.
    fn replace(&self, keys: KeySet) {
        if self.current().is_some_and(|current| current.keys == keys) {
            return;
        }
        tracing::info!(issuer = %self.issuer, keys = keys.len(), ignored = keys.ignored, "keys of the issuer loaded");
        let verified = Mutex::default();
        let current = Arc::new(CurrentKeys { keys, verified });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current);
    }

    fn log(&self, refreshed: Result<(), RefreshError>, failures: &mut FailureLog) {
        match refreshed {
            Ok(()) => {
                let failed = failures.succeeded();
                if failed > 0 {
                    tracing::info!(issuer = %self.issuer, failed, "fetching the keys of the issuer works again");
                }
            }
            Err(error) => {
                if !failures.failed(&error) {
                    return;
                }
                match self.current().is_some() {
                    true => tracing::warn!(issuer = %self.issuer, %error,
                        "failed to fetch the keys of the issuer, the earlier keys stay in use"),
                    false => tracing::warn!(issuer = %self.issuer, %error,
                        "failed to fetch the keys of the issuer, its tokens are refused until they are fetched"),
                }
            }
        }
    }
}

/// The guarded data changes in single steps, so a panic elsewhere leaves it consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
