//! Which failures of a repeated operation are worth a log line.
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decides whether a failure is logged: the first of a row of failures always is. How the rest of the row is treated
/// depends on the constructor. The caller writes the line with its own message and fields, or uses
/// [`FailureLog::note`].
#[derive(Debug, Clone)]
pub struct FailureLog {
    rule: Rule,
    /// Failures since the last success.
    count: u32,
    equal_in_a_row: u32,
    last: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    FirstOnly,
    Changes,
    ChangesAndEvery(u32),
}

impl FailureLog {
    /// Logs only the first of a row, even if a later failure is another one. For fast loops over several servers.
    pub fn first_only() -> Self {
        Self::new(Rule::FirstOnly)
    }

    /// Logs the first of a row, and each failure that differs from the one before it.
    pub fn changes() -> Self {
        Self::new(Rule::Changes)
    }

    /// As [`FailureLog::changes`]; of equal failures in a row also every `n`-th one.
    pub fn changes_and_every(n: u32) -> Self {
        Self::new(Rule::ChangesAndEvery(n))
    }

    fn new(rule: Rule) -> Self {
        FailureLog {
            rule,
            count: 0,
            equal_in_a_row: 0,
            last: None,
        }
    }

    /// Records a failure. True if it is to be logged.
    #[must_use = "says whether to log the failure"]
    pub fn failed(&mut self, error: &impl Display) -> bool {
        self.count = self.count.saturating_add(1);
        if matches!(self.rule, Rule::FirstOnly) {
            return self.count == 1;
        }
        let error = error.to_string();
        if self.last.as_ref() == Some(&error) {
            self.equal_in_a_row = self.equal_in_a_row.saturating_add(1);
        } else {
            self.equal_in_a_row = 0;
            self.last = Some(error);
        }
        match self.rule {
            Rule::ChangesAndEvery(n) => self.equal_in_a_row.is_multiple_of(n),
            Rule::FirstOnly | Rule::Changes => self.equal_in_a_row == 0,
        }
    }

    /// Records a success, which ends the row. Answers how many failures the row had: a number above 0 is a recovery.
    pub fn succeeded(&mut self) -> u32 {
        self.equal_in_a_row = 0;
        self.last = None;
        std::mem::take(&mut self.count)
    }

    /// Failures since the last success.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Records a result and logs it: a warning for a failure that is worth it, one line for the recovery.
    pub fn note<E: Display>(&mut self, task: &str, result: Result<(), E>) {
        match result {
            Ok(()) => {
                let failures = self.succeeded();
                if failures > 0 {
                    tracing::info!(task, failures, "recovered");
                }
            }
            Err(error) => {
                if self.failed(&error) {
                    tracing::warn!(task, %error, "failed, retrying");
                }
            }
        }
    }
}

/// For a failure of many requests at the same time: at most one log line in each interval.
#[derive(Debug)]
pub struct LogInterval {
    interval: Duration,
    logged_at: Mutex<Option<Instant>>,
}

impl LogInterval {
    pub fn new(interval: Duration) -> Self {
        LogInterval {
            interval,
            logged_at: Mutex::default(),
        }
    }

    /// True if a line is due now. The next one is due after the interval.
    #[must_use = "says whether to log the failure"]
    pub fn is_due(&self) -> bool {
        // The only change is a single assignment, so a panic elsewhere leaves the value consistent.
        let mut logged_at = self.logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged_at.is_none_or(|at| at.elapsed() >= self.interval);
        if is_due {
            *logged_at = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(mut log: FailureLog, failures: &[&str]) -> Vec<usize> {
        let worth_logging = |(n, error): (usize, &&str)| log.failed(error).then_some(n);
        failures.iter().enumerate().filter_map(worth_logging).collect()
    }

    #[test]
    fn first_only_ignores_changes() {
        assert_eq!(logged(FailureLog::first_only(), &["a", "a", "b"]), [0]);
    }

    #[test]
    fn changes_are_logged_once_each() {
        assert_eq!(logged(FailureLog::changes(), &["a", "a", "b", "b", "a"]), [0, 2, 4]);
    }

    #[test]
    fn equal_failures_are_logged_again_every_nth() {
        let failures: Vec<&str> = std::iter::repeat_n("a", 12).chain(["b", "a"]).collect();
        assert_eq!(logged(FailureLog::changes_and_every(10), &failures), [0, 10, 12, 13]);
    }

    #[test]
    fn success_ends_the_row() {
        for mut log in [FailureLog::first_only(), FailureLog::changes()] {
            assert_eq!(log.succeeded(), 0);
            assert!(log.failed(&"a"));
            assert!(!log.failed(&"a"));
            assert_eq!(log.count(), 2);
            assert_eq!(log.succeeded(), 2);
            assert!(log.failed(&"a"));
        }
    }

    #[test]
    fn a_line_is_due_once_in_an_interval() {
        let log = LogInterval::new(Duration::from_secs(3600));
        assert_eq!([log.is_due(), log.is_due()], [true, false]);
        let log = LogInterval::new(Duration::ZERO);
        assert_eq!([log.is_due(), log.is_due()], [true, true]);
    }
}
