//! The report of a run: figures beside their limits, goals and costs. It is written as JSON, and printed.
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::rounds::Rounds;

/// The goal of a figure.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    None,
    /// The least ratio to the limit; 1 is the limit itself.
    RatioAtLeast(f64),
    AtMost(f64),
    AtLeast(f64),
}

/// A figure, its limit if it has one, and its goal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub what: String,
    pub unit: String,
    pub rounds: Rounds,
    /// The limit, measured in the same rounds.
    pub limit: Option<Rounds>,
    pub goal: Goal,
    /// Why there is no figure: the message of the checker.
    pub broken: Option<String>,
}

impl Row {
    pub fn new(what: impl Into<String>, unit: &str, rounds: Vec<f64>) -> Self {
        Row {
            what: what.into(),
            unit: unit.to_owned(),
            rounds: Rounds(rounds),
            limit: None,
            goal: Goal::None,
            broken: None,
        }
    }

    pub fn beside(mut self, limit: Vec<f64>) -> Self {
        self.limit = Some(Rounds(limit));
        self
    }

    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    pub fn broken(what: impl Into<String>, why: String) -> Self {
        Row {
            broken: Some(why),
            ..Row::new(what, "", Vec::new())
        }
    }

    /// The ratio of each round: a disturbance of a round affects both figures of it.
    pub fn ratios(&self) -> Vec<f64> {
        let limit = self.limit.as_ref().map(|limit| limit.0.as_slice());
        let both = self.rounds.0.iter().zip(limit.unwrap_or_default());
        both.map(|(ours, limit)| ours / limit).collect()
    }

    pub fn ratio(&self) -> Option<f64> {
        self.limit.as_ref().map(|_| Rounds(self.ratios()).median())
    }

    pub fn goal_text(&self) -> Option<String> {
        Some(match self.goal {
            Goal::None => return None,
            Goal::RatioAtLeast(goal) => format!("at least {:.0} %", 100.0 * goal),
            Goal::AtMost(goal) => format!("at most {goal} {}", self.unit),
            Goal::AtLeast(goal) => format!("at least {goal} {}", self.unit),
        })
    }

    pub fn reached(&self) -> Option<bool> {
        let median = self.rounds.median();
        match self.goal {
            Goal::None => None,
            Goal::RatioAtLeast(goal) => self.ratio().map(|ratio| ratio >= goal),
            Goal::AtMost(goal) => Some(median <= goal),
            Goal::AtLeast(goal) => Some(median >= goal),
        }
    }
}

/// The processor time of one kind of answer, in the rounds of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cost {
    /// The kind of answer.
    pub what: String,
    /// Microseconds of a core, by program.
    pub shares: BTreeMap<String, Rounds>,
}

impl Cost {
    pub fn new(what: impl Into<String>) -> Self {
        Cost {
            what: what.into(),
            shares: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, spent: BTreeMap<String, f64>) {
        for (program, us) in spent {
            self.shares.entry(program).or_default().0.push(us);
        }
    }

    pub fn total(&self) -> f64 {
        self.shares.values().map(Rounds::median).sum()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.1} us of a core each", self.what, self.total())?;
        for (program, us) in &self.shares {
            write!(f, ", {program} {:.1}", us.median())?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.broken {
            return write!(f, "  {}: no figure: {why}", self.what);
        }
        write!(f, "  {}\n    {:>26} {:<4}", self.what, self.rounds, self.unit)?;
        if let (Some(limit), Some(ratio)) = (&self.limit, self.ratio()) {
            write!(f, " beside {limit:>26}: {:>3.0} %", 100.0 * ratio)?;
        }
        match (self.goal_text(), self.reached()) {
            (Some(goal), Some(true)) => write!(f, "  goal: {goal}, reached"),
            (Some(goal), _) => write!(f, "  goal: {goal}, NOT reached"),
            (None, _) => Ok(()),
        }
    }
}

/// All results of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub rounds: u32,
    pub cores: usize,
    /// The servers that were measured, with their versions.
    pub servers: String,
    pub scenarios: Vec<ScenarioReport>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ScenarioReport {
    pub scenario: String,
    #[serde(flatten)]
    pub measured: Measured,
}

/// The results of a scenario.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    pub rows: Vec<Row>,
    pub costs: Vec<Cost>,
}

impl From<Vec<Row>> for Measured {
    fn from(rows: Vec<Row>) -> Self {
        let costs = Vec::new();
        Measured { rows, costs }
    }
}

impl Report {
    pub fn new(rounds: u32, servers: String) -> Self {
        Report {
            rounds,
            servers,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            scenarios: Vec::new(),
        }
    }

    pub fn add(&mut self, scenario: &str, measured: impl Into<Measured>) {
        self.scenarios.push(ScenarioReport {
            scenario: scenario.to_owned(),
            measured: measured.into(),
        });
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.scenarios.iter().flat_map(|scenario| &scenario.measured.rows)
    }

    pub fn costs(&self) -> impl Iterator<Item = &Cost> {
        self.scenarios.iter().flat_map(|scenario| &scenario.measured.costs)
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Whether no checker failed.
    pub fn is_complete(&self) -> bool {
        self.rows().all(|row| row.broken.is_none())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(self)?).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios() {
        let row = Row::new("a", "/s", vec![10.0, 20.0, 90.0]).beside(vec![20.0, 25.0, 100.0]);
        assert_eq!(row.ratio(), Some(0.8));
        assert_eq!(row.rounds.median(), 20.0);
    }

    #[test]
    fn a_goal_is_reached_by_the_median_or_the_ratio() {
        let row = |goal| {
            Row::new("a", "ms", vec![1.0, 5.0, 9.0])
                .beside(vec![10.0; 3])
                .goal(goal)
        };
        assert_eq!(row(Goal::AtMost(5.0)).reached(), Some(true));
        assert_eq!(row(Goal::AtMost(4.9)).reached(), Some(false));
        assert_eq!(row(Goal::AtLeast(5.1)).reached(), Some(false));
        assert_eq!(row(Goal::RatioAtLeast(0.5)).reached(), Some(true));
        assert_eq!(row(Goal::None).reached(), None);
        assert!(row(Goal::AtMost(4.0)).to_string().contains("NOT reached"));
    }

    #[test]
    fn a_row_whose_checker_failed_has_no_figure() {
        let mut report = Report::new(5, String::new());
        report.add("a", vec![Row::new("a", "ms", vec![1.0])]);
        assert!(report.is_complete());
        report.add("b", vec![Row::broken("b", "an order is missing".into())]);
        assert!(!report.is_complete());
    }
}
