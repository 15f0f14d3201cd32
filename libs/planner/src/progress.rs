//! The conditions `Reconciling` and `Stalled`, by which Helm, Flux, Argo CD and other tools wait (kstatus).
//!
//! A step that is done within seconds is no news, and a server that does not answer for a moment is no failure. So how long
//! something lasts decides, unless a person has to act in any case.
use std::time::{Duration, Instant};

use crate::condition::{Condition, ConditionStatus, ConditionType, Progress, Reason};

/// The same step is reported as `Reconciling` after this time.
const RECONCILING_AFTER: Duration = Duration::from_secs(5);
/// What keeps a sale from its next step is reported as `Stalled` after this time.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Since when the progress of a sale is what it is.
#[derive(Debug, Clone, Default)]
pub struct ProgressHistory {
    /// The present step, by its reason.
    step: Option<(Reason, Instant)>,
    blocked_since: Option<Instant>,
}

impl ProgressHistory {
    /// Notes the present progress, and returns the conditions `Reconciling` and `Stalled`. They are never both true.
    pub fn note(&mut self, progress: &Progress, now: Instant) -> [Condition; 2] {
        let is_blocked = matches!(progress, Progress::Blocked { .. });
        self.blocked_since = is_blocked.then(|| self.blocked_since.unwrap_or(now));
        let same_step = |reason| self.step.filter(|(of, _)| *of == reason).map_or(now, |(_, at)| at);
        self.step = progress.reason().map(|(reason, _)| (reason, same_step(reason)));
        let lasts = |since: Instant, least| now.saturating_duration_since(since) >= least;
        let is_stalled = matches!(progress, Progress::Stopped { .. })
            || self.blocked_since.is_some_and(|since| lasts(since, STALLED_AFTER));
        let is_reconciling = !is_stalled && self.step.is_some_and(|(_, since)| lasts(since, RECONCILING_AFTER));
        [
            condition(ConditionType::Reconciling, progress, is_reconciling),
            condition(ConditionType::Stalled, progress, is_stalled),
        ]
    }
}

fn condition(type_: ConditionType, progress: &Progress, holds: bool) -> Condition {
    match progress.reason().filter(|_| holds) {
        Some((reason, message)) => Condition::new(type_, ConditionStatus::True, reason, message),
        None => {
            let (reason, message) = match type_ {
                ConditionType::Stalled => (Reason::Progressing, "nothing blocks the sale"),
                _ => (Reason::UpToDate, "no step takes long"),
            };
            Condition::new(type_, ConditionStatus::False, reason, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::Blocker;

    fn working(reason: Reason) -> Progress {
        let message = String::new();
        Progress::Working { reason, message }
    }

    fn blocked(reason: Reason) -> Progress {
        let message = String::new();
        Progress::of(&Blocker { reason, message })
    }

    /// Whether `Reconciling` and `Stalled` are true, after each progress at its second.
    fn reported(steps: &[(u64, Progress)]) -> Vec<(bool, bool)> {
        let (mut history, begun) = (ProgressHistory::default(), Instant::now());
        let of = |(second, progress): &(u64, Progress)| {
            let conditions = history.note(progress, begun + Duration::from_secs(*second));
            let [reconciling, stalled] = conditions.map(|condition| condition.status == ConditionStatus::True);
            (reconciling, stalled)
        };
        steps.iter().map(of).collect()
    }

    #[test]
    fn a_condition_that_does_not_hold_has_a_reason_of_its_own() {
        let conditions = ProgressHistory::default().note(&Progress::UpToDate, Instant::now());
        assert_eq!(
            conditions.map(|condition| (condition.type_, condition.status, condition.reason)),
            [
                (ConditionType::Reconciling, ConditionStatus::False, Reason::UpToDate),
                (ConditionType::Stalled, ConditionStatus::False, Reason::Progressing),
            ]
        );
    }

    #[test]
    fn a_step_is_reported_after_five_seconds() {
        let step = || working(Reason::StockMissing);
        assert_eq!(
            reported(&[
                (0, step()),
                (4, step()),
                (5, step()),
                (600, step()),
                (601, Progress::UpToDate)
            ]),
            [
                (false, false),
                (false, false),
                (true, false),
                (true, false),
                (false, false)
            ]
        );
    }

    #[test]
    fn the_next_step_has_its_own_five_seconds() {
        let next = || working(Reason::WorkloadsMissing);
        assert_eq!(
            reported(&[
                (0, working(Reason::StockMissing)),
                (4, next()),
                (8, next()),
                (9, next())
            ]),
            [(false, false), (false, false), (false, false), (true, false)]
        );
    }

    #[test]
    fn a_server_that_is_away_stalls_a_sale_after_a_minute() {
        let away = || blocked(Reason::RedisUnavailable);
        // The second server counts from when the first one went.
        let other = || blocked(Reason::LogUnavailable);
        assert_eq!(
            reported(&[
                (0, away()),
                (1, Progress::UpToDate),
                (2, away()),
                (7, away()),
                (61, other()),
                (62, other())
            ]),
            [
                (false, false),
                (false, false),
                (false, false),
                (true, false),
                (false, false),
                (false, true)
            ]
        );
    }

    #[test]
    fn what_only_a_person_can_end_stalls_a_sale_at_once() {
        for reason in [Reason::LogReplaced, Reason::Oversold, Reason::IdentityMismatch] {
            assert_eq!(reported(&[(0, blocked(reason))]), [(false, true)], "{reason:?}");
        }
        assert_eq!(reported(&[(0, blocked(Reason::LedgerUnavailable))]), [(false, false)]);
    }
}
