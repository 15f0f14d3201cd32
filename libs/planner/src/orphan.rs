//! When a sale without a FlashSale is ended. The ledger knows every sale, so no finalizer is needed.
use std::collections::HashMap;
use std::time::{Duration, Instant};

use seckill_protocol::SaleId;

/// A FlashSale that is replaced is absent for a moment, and its sale goes on.
const MISSING_FOR_GOOD: Duration = Duration::from_secs(5);

/// Since when the FlashSales of unfinished sales have been missing.
#[derive(Debug, Default)]
pub struct MissingSince(HashMap<SaleId, Instant>);

impl MissingSince {
    /// Notes which sales are missing now, and returns those that have been missing for long enough.
    pub fn update(&mut self, missing: &[SaleId], now: Instant) -> Vec<SaleId> {
        self.0.retain(|id, _| missing.contains(id));
        let long_enough = |id: &&SaleId| {
            let since = self.0.entry(**id).or_insert(now);
            now.saturating_duration_since(*since) >= MISSING_FOR_GOOD
        };
        missing.iter().filter(long_enough).copied().collect()
    }
}

/// The API server's live answer to the question for one FlashSale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveAnswer {
    /// It exists, with this class.
    Found { class: Option<String> },
    /// 404 for this very object, not for its namespace or its resource.
    NotFound,
    /// 403, after the watch reported that the object was deleted: the right to ask may have gone with the namespace.
    ForbiddenAfterDeletion,
    /// Any other refusal proves nothing.
    Inconclusive,
}

/// Whether the FlashSale of a sale is gone for certain. One of another class is another sale's.
pub fn is_gone(answer: &LiveAnswer, class: &str) -> bool {
    match answer {
        LiveAnswer::Found { class: found } => found.as_ref().is_some_and(|found| found != class),
        LiveAnswer::NotFound | LiveAnswer::ForbiddenAfterDeletion => true,
        LiveAnswer::Inconclusive => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sale_is_gone_after_five_seconds_without_its_flash_sale() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut missing = MissingSince::default();
        let sale = SaleId(1);
        assert!(missing.update(&[sale], at(0)).is_empty());
        assert!(missing.update(&[sale], at(4)).is_empty());
        assert_eq!(missing.update(&[sale], at(5)), [sale]);
        // One that came back begins anew.
        assert!(missing.update(&[], at(6)).is_empty());
        assert!(missing.update(&[sale], at(7)).is_empty());
        assert!(missing.update(&[sale], at(11)).is_empty());
        assert_eq!(missing.update(&[sale], at(12)), [sale]);
    }

    #[test]
    fn only_a_certain_answer_ends_a_sale() {
        let found = |class: Option<&str>| LiveAnswer::Found {
            class: class.map(str::to_owned),
        };
        assert!(!is_gone(&found(Some("default")), "default"));
        assert!(!is_gone(&found(None), "default"));
        assert!(is_gone(&found(Some("other")), "default"));
        assert!(is_gone(&LiveAnswer::NotFound, "default"));
        assert!(is_gone(&LiveAnswer::ForbiddenAfterDeletion, "default"));
        assert!(!is_gone(&LiveAnswer::Inconclusive, "default"));
    }
}
