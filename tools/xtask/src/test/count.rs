//! Counts the results of tests, and prints the summary.
use std::time::Duration;

/// The results of tests. A check that is not a test program counts as one test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Count {
    /// Adds a line of a test runner: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result:") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (number, what) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next());
            match (number, what) {
                (Some(n), Some("passed")) => self.passed += n,
                (Some(n), Some("failed")) => self.failed += n,
                (Some(n), Some("ignored")) => self.skipped += n,
                _ => {}
            }
        }
    }
}

/// The result of one step.
#[derive(Debug)]
pub struct StepResult {
    pub name: String,
    pub failed: bool,
    count: Count,
    duration: Duration,
}

impl StepResult {
    /// A step that failed has at least one failure, so that the last line is never green for a step that did not run.
    pub fn new(name: String, failed: bool, mut count: Count, duration: Duration) -> Self {
        if failed && count.failed == 0 {
            count.failed = 1;
        }
        StepResult {
            name,
            failed,
            count,
            duration,
        }
    }
}

/// A line for each step: its name, result and duration in seconds, and the results of its tests.
pub fn table(results: &[StepResult]) -> String {
    let mut text = format!("{:<12} {:<7} {:>8}  tests\n", "step", "result", "seconds");
    for step in results {
        let Count {
            passed,
            failed,
            skipped,
        } = step.count;
        text += &format!(
            "{:<12} {:<7} {:>8.1}  {passed} passed, {failed} failed, {skipped} skipped\n",
            step.name,
            if step.failed { "FAILED" } else { "passed" },
            step.duration.as_secs_f64(),
        );
    }
    text
}

/// The last line, which CI reads.
pub fn total(results: &[StepResult]) -> String {
    let sum = |number: fn(&Count) -> u64| results.iter().map(|step| number(&step.count)).sum::<u64>();
    format!(
        "{} passed, {} failed, {} skipped",
        sum(|c| c.passed),
        sum(|c| c.failed),
        sum(|c| c.skipped)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_runners_add_up() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.25s",
        ] {
            count.add(line);
        }
        assert_eq!(
            count,
            Count {
                passed: 5,
                failed: 1,
                skipped: 1
            }
        );
    }

    #[test]
    fn failed_step_without_results_counts_as_one_failure() {
        let step = |failed, count| StepResult::new("fmt".into(), failed, count, Duration::from_secs(2));
        let skipped = Count {
            skipped: 1,
            ..Count::default()
        };
        let passed = Count {
            passed: 2,
            ..Count::default()
        };
        let results = [step(true, Count::default()), step(false, passed), step(false, skipped)];
        assert_eq!(total(&results), "2 passed, 1 failed, 1 skipped");
        let table = table(&results);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(
            table.contains("fmt          FAILED       2.0  0 passed, 1 failed, 0 skipped"),
            "{table}"
        );
    }
}
