//! How often a status is written, and when a sale is reconciled again.
use std::time::{Duration, Instant};

use crate::plan::{Plan, Step};

/// Figures that always move are written into one status no more often than this.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// And for all sales together, on average, no more often than this. A burst may come at once.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
const WRITE_BURST: u32 = 10;

/// After a step the sale is observed again at once.
const AFTER_STEP: Duration = Duration::from_millis(10);
/// After CLOSE: the worker has to read it first.
const AFTER_CLOSE: Duration = Duration::from_millis(100);

/// The budget for status writes, which all sales share: each has a turn, one behind the other.
#[derive(Debug, Default)]
pub struct StatusBudget {
    /// When all turns that were given are over, if they come evenly.
    given_until: Option<Instant>,
}

impl StatusBudget {
    /// Whether the figures of a sale may be written now. `turn` is the sale's own, kept by the caller.
    pub fn may_write(&mut self, turn: &mut Option<Instant>, now: Instant) -> bool {
        let at = turn.unwrap_or_else(|| self.turn_from(now));
        let may = at <= now;
        *turn = Some(if may { self.turn_from(now + SAMPLE_INTERVAL) } else { at });
        may
    }

    fn turn_from(&mut self, earliest: Instant) -> Instant {
        let given = self.given_until.unwrap_or(earliest);
        let burst = WRITE_INTERVAL * WRITE_BURST;
        let at = earliest.max(given.checked_sub(burst).unwrap_or(earliest));
        self.given_until = Some(given.max(at) + WRITE_INTERVAL);
        at
    }
}

/// When a sale is reconciled again after its plan was carried out; `None`: only when something changes.
pub fn requeue_after(plan: &Plan) -> Option<Duration> {
    match plan.step {
        Step::Nothing => plan.requeue_after,
        Step::Close { .. } => Some(AFTER_CLOSE),
        _ => Some(AFTER_STEP),
    }
}

#[cfg(test)]
mod tests {
    use seckill_protocol::SaleId;

    use super::*;
    use crate::sale::Standing;

    #[test]
    fn a_sale_without_a_step_waits_as_long_as_its_plan_says() {
        let after = |step, requeue_after| {
            super::requeue_after(&Plan {
                step,
                report: None,
                standing: Standing::Unsettled,
                requeue_after,
            })
        };
        let hour = Some(Duration::from_secs(3600));
        assert_eq!([after(Step::Nothing, hour), after(Step::Nothing, None)], [hour, None]);
        let sale = SaleId(1);
        assert_eq!(after(Step::Free { sale }, hour), Some(AFTER_STEP));
        assert_eq!(after(Step::Close { sale, partition: 0 }, hour), Some(AFTER_CLOSE));
    }

    /// Reconciles so many sales each second for so long, and counts how often the figures of each were written.
    fn written(sales: usize, seconds: u64) -> Vec<u64> {
        let (mut budget, mut turns, begun) = (StatusBudget::default(), vec![None; sales], Instant::now());
        let mut written = vec![0; sales];
        for second in 0..seconds {
            for (turn, written) in turns.iter_mut().zip(&mut written) {
                *written += u64::from(budget.may_write(turn, begun + Duration::from_secs(second)));
            }
        }
        written
    }

    #[test]
    fn the_figures_of_a_few_sales_are_written_every_other_second() {
        let written = written(3, 60);
        assert!(written.iter().all(|times| (29..=30).contains(times)), "{written:?}");
    }

    #[test]
    fn a_thousand_sales_share_ten_writes_a_second_evenly() {
        let written = written(1000, 600);
        let all: u64 = written.iter().sum();
        assert!((5_000..=6_010).contains(&all), "{all}");
        assert!(written.iter().all(|times| (5..=7).contains(times)), "{written:?}");
    }
}
