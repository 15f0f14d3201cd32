//! The current time in Unix milliseconds, as a value that a program passes on and a test can set.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = u64;

/// Answers the current time. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
    /// Milliseconds ahead of the system's clock.
    Wrong(Arc<AtomicI64>),
}

impl Clock {
    /// The clock of this machine.
    pub const fn system() -> Self {
        Clock(Source::System)
    }

    pub fn now(&self) -> Millis {
        match &self.0 {
            Source::System => system_time(),
            Source::Manual(now) => now.load(Ordering::SeqCst),
            Source::Wrong(ahead) => system_time().saturating_add_signed(ahead.load(Ordering::SeqCst)),
        }
    }
}

/// 0 if the system clock is before 1970.
fn system_time() -> Millis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since_epoch.as_millis()).unwrap_or(Millis::MAX)
}

/// A clock for tests: it moves only when the test moves it.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    pub fn new(now: Millis) -> Self {
        ManualClock(Arc::new(AtomicU64::new(now)))
    }

    /// The clock to pass to the code under test. It shows every later change.
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.0.clone()))
    }

    pub fn set(&self, now: Millis) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub fn advance(&self, milliseconds: Millis) {
        self.0.fetch_add(milliseconds, Ordering::SeqCst);
    }
}

/// A clock for tests that runs, and is wrong by as much as the test says.
#[derive(Clone, Debug, Default)]
pub struct WrongClock(Arc<AtomicI64>);

impl WrongClock {
    /// So many milliseconds ahead of the system's clock; negative: behind.
    pub fn ahead_by(ms: i64) -> Self {
        WrongClock(Arc::new(AtomicI64::new(ms)))
    }

    /// The clock to pass to the code under test. It shows every later change.
    pub fn clock(&self) -> Clock {
        Clock(Source::Wrong(self.0.clone()))
    }

    pub fn set_ahead(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_is_in_milliseconds() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let now = u128::from(Clock::system().now());
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        assert!((before..=after).contains(&now));
    }

    #[test]
    fn a_wrong_clock_runs_beside_the_right_one() {
        let wrong = WrongClock::ahead_by(3_600_000);
        let clock = wrong.clock();
        let ahead = || clock.now().cast_signed() - Clock::system().now().cast_signed();
        assert!((3_590_000..=3_600_000).contains(&ahead()));
        wrong.set_ahead(-3_600_000);
        assert!((-3_610_000..=-3_600_000).contains(&ahead()));
    }

    #[test]
    fn manual_clock_moves_only_by_hand() {
        let manual = ManualClock::new(1000);
        let clock = manual.clock();
        assert_eq!(clock.now(), 1000);
        manual.advance(5);
        assert_eq!(clock.clone().now(), 1005);
        manual.set(7);
        assert_eq!(clock.now(), 7);
    }
}
