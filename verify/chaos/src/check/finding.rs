//! The result of one check.
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Finding {
    pub invariant: &'static str,
    pub says: &'static str,
    /// How much evidence was checked.
    pub checked: String,
    pub violations: Vec<String>,
}

impl Finding {
    pub fn is_violated(&self) -> bool {
        !self.violations.is_empty()
    }
}

pub fn finding(invariant: &'static str, says: &'static str, checked: String, violations: Vec<String>) -> Finding {
    Finding {
        invariant,
        says,
        checked,
        violations,
    }
}
