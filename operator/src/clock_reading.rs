//! The clock of a server, read once. It goes on by the monotonic clock, so a step of the operator's own clock does not move
//! it: two readings that moved with the operator's clock would be one vote that counts twice.
use std::time::Instant;

use seckill_protocol::index::Millis;

#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    shown: Millis,
    at: Instant,
}

impl ClockReading {
    /// What the clock shows at this moment. Whatever the way of the answer took, a reading is never later than the clock.
    pub fn of(shown: Millis) -> Self {
        let at = Instant::now();
        ClockReading { shown, at }
    }

    /// What that clock shows by now.
    pub fn now(self) -> Millis {
        let since = Millis::try_from(self.at.elapsed().as_millis()).unwrap_or(Millis::MAX);
        self.shown.saturating_add(since)
    }
}
