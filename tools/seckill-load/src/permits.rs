//! Permits for requests in flight. A request waits until a permit is free.
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) struct Permits {
    free: Semaphore,
    size: usize,
    peak: AtomicUsize,
}

impl Permits {
    pub fn new(size: usize) -> Self {
        Permits {
            free: Semaphore::new(size),
            size,
            peak: AtomicUsize::new(0),
        }
    }

    /// Waits for a permit, first come, first served. Dropping the permit frees it.
    pub async fn acquire(&self) -> Option<SemaphorePermit<'_>> {
        // None only if the semaphore is closed, which never happens.
        let permit = self.free.acquire().await.ok();
        self.peak.fetch_max(self.in_use(), Ordering::Relaxed);
        permit
    }

    pub fn in_use(&self) -> usize {
        self.size.saturating_sub(self.free.available_permits())
    }

    /// The highest number of permits in use at the same time.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}
