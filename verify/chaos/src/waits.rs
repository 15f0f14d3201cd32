//! How long buyers of the main sale waited for their answer: from the first request, whatever they heard in between.
use std::collections::HashMap;

use crate::crowd::MAIN_SALE;
use crate::history::{At, HistoryData};
use crate::run::PlayedFault;

/// A purchase has failed if its buyer has no final answer after this time, although the buyer repeated the request.
pub const FAILED_AFTER_MS: At = 10_000;

pub struct Waits(Vec<(At, At)>);

impl Waits {
    pub fn of(history: &HistoryData) -> Self {
        let mut started: HashMap<usize, At> = HashMap::new();
        let mut waits = Vec::new();
        let mut answered = vec![false; history.buyers.len()];
        for event in &history.events {
            if answered[event.buyer] || history.buyers[event.buyer].sale != MAIN_SALE {
                continue;
            }
            let from = *started.entry(event.buyer).or_insert(event.from);
            if event.answer.is_final() {
                answered[event.buyer] = true;
                waits.push((from, event.to));
            }
        }
        Waits(waits)
    }

    /// The longest wait of those that a fault touched, and how many of them failed.
    pub fn during(&self, fault: &PlayedFault) -> (At, usize) {
        let touched = self
            .0
            .iter()
            .filter(|(from, to)| *from <= fault.healed_ms && *to >= fault.from_ms);
        let times: Vec<At> = touched.map(|(from, to)| to - from).collect();
        let failed = times.iter().filter(|time| **time > FAILED_AFTER_MS).count();
        (times.into_iter().max().unwrap_or_default(), failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Buyer, BuyerAnswer, Event};

    #[test]
    fn a_wait_lasts_from_the_first_request_to_the_final_answer() {
        let event = Event::purchase;
        let history = HistoryData {
            buyers: [MAIN_SALE, MAIN_SALE, "short-1", MAIN_SALE].map(Buyer::of).into(),
            events: vec![
                event(3, 0, 10, BuyerAnswer::Ended),
                event(0, 1000, 1500, BuyerAnswer::Pending),
                event(1, 1000, 1600, BuyerAnswer::Unavailable("503".into())),
                event(2, 1000, 60_000, BuyerAnswer::Ended),
                event(0, 2500, 3000, BuyerAnswer::SoldOut { left: 0 }),
                event(0, 30_000, 40_000, BuyerAnswer::SoldOut { left: 0 }),
                event(1, 11_000, 11_001, BuyerAnswer::Ended),
            ],
            wins: Vec::new(),
        };
        let fault = |from_ms, healed_ms| PlayedFault {
            fault: "kill-api".into(),
            did: String::new(),
            failed: false,
            from_ms,
            healed_ms,
            stopped_ms: 0,
            resumed_ms: None,
            promotion: None,
        };
        let waits = Waits::of(&history);
        assert_eq!(waits.during(&fault(1200, 1300)), (10_001, 1));
        assert_eq!(waits.during(&fault(0, 500)), (10, 0));
        assert_eq!(waits.during(&fault(20_000, 20_001)), (0, 0));
    }
}
