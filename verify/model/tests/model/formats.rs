//! An upgrade with all rules and without each one.
use libtest_mimic::Trial;
use seckill_model::Formats;
use seckill_model::formats::{FormatRule, NOT_SHUT_OUT, UNDERSTOOD};

use crate::explore::{SizedModel, check_all_states, trial};
use crate::mutants::check_refuted;

impl SizedModel for Formats {
    fn size(&self) -> String {
        "2 versions of a worker, 1 operator, 3 records, failovers of MySQL".to_owned()
    }
}

const MUTANTS: [(&str, FormatRule, &str); 6] = [
    ("store_without_format_check", FormatRule::Fence, UNDERSTOOD),
    ("raise_without_heartbeats", FormatRule::HeartbeatsCount, NOT_SHUT_OUT),
    ("raise_after_the_row", FormatRule::RaiseWithTheRow, UNDERSTOOD),
    ("required_format_is_lowered", FormatRule::NeverLower, UNDERSTOOD),
    ("identity_without_format", FormatRule::IdentityHasFormat, UNDERSTOOD),
    ("restored_row_without_raise", FormatRule::RestoreRaises, UNDERSTOOD),
];

pub fn trials() -> Vec<Trial> {
    let all_rules = trial("formats", || check_all_states("formats", Formats::default()));
    let mutants = MUTANTS.map(|(name, rule, property)| {
        trial(format!("mutant_{name}"), move || {
            check_refuted(name, Formats { broken: Some(rule) }, property)
        })
    });
    [all_rules].into_iter().chain(mutants).collect()
}
