//! The places in flight: who finds none free waits its turn.
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) struct Places {
    free: Semaphore,
    size: usize,
    peak: AtomicUsize,
}

impl Places {
    pub fn new(size: usize) -> Self {
        Places {
            free: Semaphore::new(size),
            size,
            peak: AtomicUsize::new(0),
        }
    }

    /// Waits for a place, first come first served; it is free again when the permit is dropped.
    pub async fn take(&self) -> Option<SemaphorePermit<'_>> {
        // None only if the semaphore were closed, which it never is.
        let place = self.free.acquire().await.ok();
        self.peak.fetch_max(self.taken(), Ordering::Relaxed);
        place
    }

    pub fn taken(&self) -> usize {
        self.size.saturating_sub(self.free.available_permits())
    }

    /// The most that were taken at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}
