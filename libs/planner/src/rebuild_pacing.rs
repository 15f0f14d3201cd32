//! How soon after a rebuild the index of a sale is rebuilt again.
use std::time::{Duration, Instant};

/// From the end of the first rebuild to the start of the second. It doubles with each further rebuild.
const REBUILD_DELAY_MIN: Duration = Duration::from_millis(500);
/// It bounds how long a sale waits after the cause is gone.
const REBUILD_DELAY_MAX: Duration = Duration::from_secs(5);
/// After this time without a rebuild the next one is the first again.
const REBUILDS_FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// The latest rebuilds of one sale. Each stops the sale for a moment and leaves a barrier in the log. A Redis that removes
/// keys, or an address that leads to two servers in turn, would make the operator rebuild without an end.
#[derive(Debug, Clone, Default)]
pub struct RebuildHistory {
    in_a_row: u32,
    last: Option<Instant>,
}

/// A rebuild that has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildDelay {
    /// Rebuilds so far, each soon after the other.
    pub in_a_row: u32,
    pub left: Duration,
}

impl RebuildHistory {
    /// Notes a rebuild that has succeeded now.
    pub fn note(&mut self, now: Instant) {
        self.in_a_row = self.in_a_row_at(now).saturating_add(1);
        self.last = Some(now);
    }

    /// Rebuilds so far, each soon after the other.
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// How long the next rebuild has to wait; `None`: it may begin. The first one, and the first after a quiet time, never
    /// waits.
    pub fn delay(&self, now: Instant) -> Option<RebuildDelay> {
        let in_a_row = self.in_a_row_at(now);
        let doublings = in_a_row.checked_sub(1)?;
        let delay = REBUILD_DELAY_MIN.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
        let due = self.last? + delay.min(REBUILD_DELAY_MAX);
        let left = due.saturating_duration_since(now);
        (!left.is_zero()).then_some(RebuildDelay { in_a_row, left })
    }

    fn in_a_row_at(&self, now: Instant) -> u32 {
        let quiet = |last| now.saturating_duration_since(last) >= REBUILDS_FORGOTTEN_AFTER;
        match self.last {
            Some(last) if !quiet(last) => self.in_a_row,
            _ => 0,
        }
    }
}

impl RebuildDelay {
    /// For the readers of a FlashSale. It names no time, so the status is not written for every moment that passes.
    pub fn message(self) -> String {
        format!(
            "the stock index is gone again, soon after rebuild {} in a row; rebuilds wait up to {} s: check that Redis has \
             maxmemory-policy noeviction and that --redis-url leads to one server",
            self.in_a_row,
            REBUILD_DELAY_MAX.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rebuild_never_waits_and_later_ones_wait_longer() {
        let (mut history, begun) = (RebuildHistory::default(), Instant::now());
        let mut now = begun;
        assert_eq!(history.delay(now), None);
        let mut delays = Vec::new();
        for in_a_row in 1..=7 {
            history.note(now);
            let delay = history.delay(now).expect("it waits");
            assert_eq!((delay.in_a_row, history.in_a_row()), (in_a_row, in_a_row));
            assert!(history.delay(now + delay.left - Duration::from_millis(1)).is_some());
            now += delay.left;
            assert_eq!(history.delay(now), None);
            delays.push(delay.left.as_millis());
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 5000, 5000, 5000]);
    }

    #[test]
    fn rebuilds_of_a_long_time_ago_delay_nothing() {
        let (mut history, begun) = (RebuildHistory::default(), Instant::now());
        for _ in 0..40 {
            history.note(begun);
        }
        assert_eq!(history.delay(begun).map(|delay| delay.left), Some(REBUILD_DELAY_MAX));
        let later = begun + REBUILDS_FORGOTTEN_AFTER;
        assert_eq!(history.delay(later), None);
        history.note(later);
        assert_eq!(history.delay(later).map(|delay| delay.left), Some(REBUILD_DELAY_MIN));
    }
}
