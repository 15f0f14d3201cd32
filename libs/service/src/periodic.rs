//! Intervals of background loops.
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Ticks at once, then after each `period`. A late tick delays those after it, so that a slow pass is never followed by
/// a burst. Must be called inside of the runtime.
pub fn periodic(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
