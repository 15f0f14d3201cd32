//! Requests at the same time.
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;

/// At most so many at the same time.
const CONCURRENCY: usize = 32;

/// Does this for all numbers from 0 to less than `count`, and returns the first error.
pub fn at_the_same_time(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let (next, first_error) = (AtomicUsize::new(0), Mutex::new(Ok(())));
    thread::scope(|scope| {
        for _ in 0..CONCURRENCY.min(count) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        return;
                    }
                    if let Err(error) = work(number) {
                        let mut first_error = first_error.lock().expect("no worker panics");
                        if first_error.is_ok() {
                            *first_error = Err(error);
                        }
                        next.store(count, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    first_error.into_inner().expect("no worker panics")
}
