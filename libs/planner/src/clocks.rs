//! The clocks by which a sale opens and ends: no clock decides alone.
//!
//! **The end.** A sale is closed for good when two of the reachable clocks (the operator's, Redis's, MySQL's) have passed
//! its end. A server that does not answer has no vote, and one clock alone never closes a sale. So a wrong clock can at
//! most delay the end, and only while one of the right clocks can't be read.
//!
//! **The opening.** An index opens by the clock of Redis, because one script there decides each purchase. It is installed
//! during the lead time, so that a sale opens on time without anybody's help. If the clock of Redis is ahead, the index
//! would sell early. Then the terms that go into the index are suspended, until two clocks have reached the start.
//!
//! A simpler rule would delay only the installation. It would not help against a difference that is smaller than the lead
//! time, nor against a clock that is set after the installation. The suspension helps against both. It costs nothing
//! while the clocks agree: then the operator changes nothing at the start. While they differ, the sale opens when the
//! operator has applied the terms, which takes it some milliseconds, and a leader.
//!
//! A clock of Redis that is behind opens the sale late, and one that is ahead refuses buyers before the end. Neither can be
//! repaired from outside, nor is it final: the sale goes on when the clock is set right. Readers of the FlashSale are told.
use std::time::Duration;

use seckill_protocol::index::Millis;

/// A greater difference is reported, and holds back the opening.
pub const CLOCK_DIFFERENCE_LIMIT_MS: u64 = 500;
/// A sale that is open for a tier is looked at more often than this.
const HOLD_BEFORE_MS: u64 = 15_000;
/// A sale that was not closed this long after its end by one of the clocks is stalled.
const CLOSE_OVERDUE_MS: u64 = 60_000;

/// What the clocks showed at the same instant, in Unix milliseconds; `None`: it can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Clocks {
    pub operator: Millis,
    pub redis: Option<Millis>,
    pub mysql: Option<Millis>,
}

impl Clocks {
    /// Three clocks that show the same.
    pub fn all_at(now: Millis) -> Self {
        Clocks {
            operator: now,
            redis: Some(now),
            mysql: Some(now),
        }
    }

    fn readings(&self) -> impl Iterator<Item = Millis> {
        [Some(self.operator), self.redis, self.mysql].into_iter().flatten()
    }

    /// The latest time that two clocks have reached; `None`: only one can be read.
    fn agreed(&self) -> Option<Millis> {
        let mut readings: Vec<Millis> = self.readings().collect();
        readings.sort_unstable();
        readings.iter().rev().nth(1).copied()
    }

    /// The current time for everything that can be undone: the agreed one, or else the operator's own.
    pub fn now(&self) -> Millis {
        self.agreed().unwrap_or(self.operator)
    }

    /// How long until the next of the clocks reaches this time; `None`: all have. A sale is looked at again by then: the
    /// clocks that agree now may both be wrong, one of them by an old reading.
    pub fn time_until(&self, at: Millis) -> Option<Duration> {
        let left = self
            .readings()
            .filter(|reading| *reading < at)
            .map(|reading| at - reading);
        left.min().map(Duration::from_millis)
    }

    /// Whether two clocks have reached this time. One alone proves nothing.
    pub fn have_reached(&self, at: Millis) -> bool {
        self.agreed().is_some_and(|agreed| agreed >= at)
    }

    /// The latest time that any clock but that of Redis shows: a sale that is due by one of them is worth a probe.
    pub fn latest_without_redis(&self) -> Millis {
        self.mysql.map_or(self.operator, |mysql| mysql.max(self.operator))
    }

    /// Whether the index must not sell yet, although its server may say so. `held` is the last answer: it stays as long
    /// as Redis does not answer, and does not change with each millisecond of the difference.
    pub fn hold_opening(&self, opens_at: Millis, held: bool) -> bool {
        if self.have_reached(opens_at) {
            return false;
        }
        let limit = match held {
            true => CLOCK_DIFFERENCE_LIMIT_MS / 2,
            false => CLOCK_DIFFERENCE_LIMIT_MS,
        };
        self.redis
            .map_or(held, |redis| redis.saturating_sub(self.now()) > limit)
    }

    /// The same for an opening after the first one: until shortly before it, the sale sells to those for whom it is open.
    pub fn hold_next_opening(&self, opens_at: Millis, held: bool) -> bool {
        let is_near = |redis: Millis| redis.saturating_add(HOLD_BEFORE_MS) >= opens_at;
        self.redis.is_some_and(is_near) && self.hold_opening(opens_at, held)
    }

    /// Why the index does not sell, although the sale has opened and has not ended; `None`: the clock of Redis is no reason.
    pub fn refusal_of_redis(&self, opens_at: Millis, closes_at: Millis) -> Option<String> {
        let (redis, now) = (self.redis?, self.now());
        let seconds = redis.abs_diff(now).div_ceil(1000);
        if redis.abs_diff(now) <= CLOCK_DIFFERENCE_LIMIT_MS || now < opens_at || now >= closes_at {
            None
        } else if redis < opens_at {
            Some(format!(
                "the clock of Redis is {seconds} s behind and has not reached spec.startsAt, so no unit is sold: set it \
                 right (NTP)"
            ))
        } else if redis >= closes_at {
            Some(format!(
                "the clock of Redis is {seconds} s ahead and has passed spec.endsAt, so no unit is sold: set it right (NTP)"
            ))
        } else {
            None
        }
    }

    /// Why a sale is not closed although one clock says that it ended a minute ago. Of three clocks two always agree; of
    /// two nobody knows which one is right.
    pub fn close_overdue(&self, ends_at: Millis) -> Option<String> {
        let (first, last) = (self.readings().min()?, self.readings().max()?);
        let overdue = last >= ends_at.saturating_add(CLOSE_OVERDUE_MS) && !self.have_reached(ends_at);
        let three = self.redis.is_some() && self.mysql.is_some();
        (overdue && !three).then(|| {
            format!(
                "the sale is not closed: of the clocks that can be read, one has passed spec.endsAt and the other is {} s \
                 behind it; set the clocks of the operator, Redis and MySQL (NTP)",
                (last - first).div_ceil(1000)
            )
        })
    }
}

/// How far the clock of a server is ahead of the operator's, give or take the round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    pub ahead_ms: i64,
    pub round_trip_ms: u64,
}

impl ClockDifference {
    /// Of a reading between two readings of the operator's own clock.
    pub fn of(theirs: Millis, asked: Millis, answered: Millis) -> Self {
        ClockDifference {
            ahead_ms: theirs.cast_signed() - asked.midpoint(answered).cast_signed(),
            round_trip_ms: answered.abs_diff(asked),
        }
    }

    /// A warning if the clocks differ by more than the limit, whatever the measurement may be mistaken by.
    pub fn warning(&self, server: &str) -> Option<String> {
        let apart = self.ahead_ms.unsigned_abs();
        (apart > CLOCK_DIFFERENCE_LIMIT_MS + self.round_trip_ms).then(|| {
            let side = match self.ahead_ms.is_negative() {
                true => "behind",
                false => "ahead of",
            };
            format!(
                "the clock of {server} is up to {} s {side} the operator's: synchronize all clocks with NTP",
                apart.div_ceil(1000)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;
    const AT: Millis = 1_900_000_000_000;

    fn clocks(operator: Millis, redis: Option<Millis>, mysql: Option<Millis>) -> Clocks {
        Clocks { operator, redis, mysql }
    }

    /// Each clock an hour behind, right, an hour ahead, or (but for the operator's) not readable.
    fn all_clocks(now: Millis) -> Vec<Clocks> {
        let readings = [Some(now - HOUR), Some(now), Some(now + HOUR), None];
        let mut all = Vec::new();
        for operator in readings.into_iter().flatten() {
            for redis in readings {
                for mysql in readings {
                    all.push(clocks(operator, redis, mysql));
                }
            }
        }
        all
    }

    fn wrong(clocks: &Clocks, now: Millis) -> usize {
        clocks.readings().filter(|reading| *reading != now).count()
    }

    #[test]
    fn two_reachable_clocks_decide_the_end() {
        for clocks in all_clocks(AT) {
            let past = clocks.readings().filter(|reading| *reading >= AT).count();
            assert_eq!(clocks.have_reached(AT), past >= 2, "{clocks:?}");
        }
    }

    #[test]
    fn the_next_clock_to_reach_a_time_decides_the_wait() {
        let minute = Duration::from_secs(60);
        let before = AT - 60_000;
        // Two wrong clocks outvote the right one, which says when to look again.
        assert_eq!(
            clocks(AT - HOUR, Some(AT - HOUR), Some(before)).time_until(AT),
            Some(minute)
        );
        // A clock that is ahead has no say.
        assert_eq!(
            clocks(AT + HOUR, Some(before), Some(before - 5)).time_until(AT),
            Some(minute)
        );
        assert_eq!(clocks(AT, None, Some(AT + HOUR)).time_until(AT), None);
        assert_eq!(
            clocks(AT - 1, None, None).time_until(AT),
            Some(Duration::from_millis(1))
        );
    }

    #[test]
    fn one_clock_alone_closes_nothing() {
        assert!(!clocks(AT + HOUR, None, None).have_reached(AT));
        assert_eq!(clocks(AT, None, None).now(), AT);
    }

    #[test]
    fn a_sale_is_probed_when_any_clock_but_that_of_redis_says_so() {
        let latest = |operator, mysql| clocks(operator, Some(AT + HOUR), mysql).latest_without_redis();
        assert_eq!(latest(AT, Some(AT + 1)), AT + 1);
        assert_eq!(latest(AT, Some(AT - 1)), AT);
        assert_eq!(latest(AT, None), AT);
    }

    #[test]
    fn one_wrong_clock_never_ends_a_sale_early() {
        for now in [AT - 1, AT] {
            for clocks in all_clocks(now).iter().filter(|clocks| wrong(clocks, now) <= 1) {
                assert!(!clocks.have_reached(AT) || now >= AT, "{clocks:?}");
            }
        }
    }

    #[test]
    fn one_wrong_clock_delays_no_end_while_all_answer() {
        for clocks in all_clocks(AT).iter().filter(|clocks| wrong(clocks, AT) <= 1) {
            if clocks.redis.is_some() && clocks.mysql.is_some() {
                assert!(clocks.have_reached(AT), "{clocks:?}");
            }
        }
    }

    #[test]
    fn a_fast_redis_is_held_until_two_clocks_reach_the_start() {
        let fast = |now| clocks(now, Some(now + HOUR), Some(now));
        assert!(fast(AT - 1).hold_opening(AT, false));
        assert!(!fast(AT).hold_opening(AT, true));
        // Less than the lead time, and not yet past the start by its own clock: it would be soon.
        let ahead = clocks(AT - 60_000, Some(AT - 30_000), Some(AT - 60_000));
        assert!(ahead.hold_opening(AT, false));
        // Both others must agree.
        assert!(!clocks(AT - HOUR, Some(AT), Some(AT)).hold_opening(AT, true));
    }

    #[test]
    fn clocks_that_agree_hold_nothing_back() {
        for apart in [0, 100, CLOCK_DIFFERENCE_LIMIT_MS] {
            for now in [AT - HOUR, AT - 1, AT] {
                assert!(!clocks(now, Some(now + apart), Some(now)).hold_opening(AT, false));
                assert!(!clocks(now, Some(now - apart), Some(now)).hold_opening(AT, false));
            }
        }
    }

    #[test]
    fn a_hold_changes_only_with_a_clear_answer() {
        let ahead = |by| clocks(AT - HOUR, Some(AT - HOUR + by), Some(AT - HOUR));
        assert!(!ahead(400).hold_opening(AT, false) && ahead(400).hold_opening(AT, true));
        assert!(ahead(501).hold_opening(AT, false) && !ahead(250).hold_opening(AT, true));
        let silent = clocks(AT - HOUR, None, Some(AT - HOUR));
        assert!(silent.hold_opening(AT, true) && !silent.hold_opening(AT, false));
    }

    #[test]
    fn a_refusal_by_the_clock_of_redis_is_explained() {
        let (opens, closes) = (AT, AT + 2 * HOUR);
        let why = |now: Millis, redis: Millis| clocks(now, Some(redis), Some(now)).refusal_of_redis(opens, closes);
        assert!(why(AT + 1000, AT - HOUR).is_some_and(|why| why.contains("3601 s behind")));
        assert!(why(closes - 1000, closes + HOUR).is_some_and(|why| why.contains("3601 s ahead")));
        assert_eq!(why(AT + 100, AT - 100), None);
        assert_eq!(why(AT + HOUR, AT + HOUR + 1000), None);
        assert_eq!(why(AT - 1, AT - HOUR), None);
        // At these instants the index sells.
        assert_eq!(why(AT + 1000, AT), None);
        assert_eq!(why(closes - 1000, closes - 1), None);
        assert_eq!(clocks(AT, None, Some(AT)).refusal_of_redis(opens, closes), None);
    }

    #[test]
    fn a_close_is_overdue_when_two_clocks_contradict_each_other() {
        let overdue = |clocks: Clocks| clocks.close_overdue(AT).is_some();
        let late = AT + CLOSE_OVERDUE_MS;
        assert!(overdue(clocks(late, None, Some(AT - 1))));
        assert!(overdue(clocks(AT - HOUR, None, Some(late))));
        assert!(!overdue(clocks(late - 1, None, Some(AT - 1))));
        assert!(!overdue(clocks(late, None, Some(AT))));
        assert!(!overdue(clocks(AT - 1, Some(late), Some(AT - 1))));
    }

    #[test]
    fn only_a_difference_beyond_the_measurement_is_a_warning() {
        let warning = |ahead_ms, round_trip_ms| {
            let difference = ClockDifference {
                ahead_ms,
                round_trip_ms,
            };
            difference.warning("Redis").unwrap_or_default()
        };
        assert!(warning(1300, 0).contains("Redis is up to 2 s ahead"));
        assert!(warning(-600, 0).contains("up to 1 s behind"));
        assert_eq!(warning(650, 150), "");
        assert!(warning(651, 150).contains("ahead"));
        assert_eq!(ClockDifference::of(1_500, 1_000, 1_200).ahead_ms, 400);
    }
}
