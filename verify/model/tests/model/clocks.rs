//! The clocks of a sale, with all rules and without each one.
use libtest_mimic::Trial;
use seckill_model::SaleClocks;
use seckill_model::clocks::{ClockRule, NOT_EARLY, NOT_ENDED_EARLY};

use crate::explore::{SizedModel, check_all_states, trial};
use crate::mutants::check_refuted;

impl SizedModel for SaleClocks {
    fn size(&self) -> String {
        "3 clocks, one of them wrong at a time, 2 servers".to_owned()
    }
}

const MUTANTS: [(&str, ClockRule, &str); 3] = [
    ("one_clock_closes", ClockRule::TwoClocksClose, NOT_ENDED_EARLY),
    ("a_silent_clock_votes", ClockRule::SilentHasNoVote, NOT_ENDED_EARLY),
    ("redis_alone_opens", ClockRule::HoldOpening, NOT_EARLY),
];

pub fn trials() -> Vec<Trial> {
    let all_rules = trial("clocks", || check_all_states("clocks", SaleClocks::default()));
    let mutants = MUTANTS.map(|(name, rule, property)| {
        trial(format!("mutant_{name}"), move || {
            check_refuted(name, SaleClocks { broken: Some(rule) }, property)
        })
    });
    [all_rules].into_iter().chain(mutants).collect()
}
