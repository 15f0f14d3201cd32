//! A figure in the rounds of a run, and its median.
use std::fmt;

use serde::{Deserialize, Serialize};

/// One figure for each round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = ((sorted.len().saturating_sub(1)) as f64 * q).round() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    fn most(&self) -> f64 {
        self.quantile(1.0)
    }
}

/// The median, and the range of the rounds.
impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: f64| {
            if n < 100.0 {
                format!("{n:.2}")
            } else {
                format!("{n:.0}")
            }
        };
        let (least, most) = (number(self.least()), number(self.most()));
        match self.0.len() {
            0 | 1 => f.pad(&number(self.median())),
            _ => f.pad(&format!("{} ({least} to {most})", number(self.median()))),
        }
    }
}
