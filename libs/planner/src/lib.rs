//! The operator's decisions, as pure functions: what is observed of a sale goes in, the next step comes out.
//!
//! Nothing here reads a clock, talks to a server or knows Kubernetes. The operator observes, calls these functions, and
//! applies what they return. Read in this order:
//!
//! - [`sale`]: the sale that a user wants, and its key
//! - [`observation`]: everything that was observed of it at one time
//! - [`clocks`]: by which clocks it opens and ends
//! - [`mod@plan`]: the next step, and the status report for its readers
//! - [`condition`]: the vocabulary of that report
//! - [`progress`]: how long a step takes before its readers hear of it
//! - [`balance`]: whether every unit is accounted for while the sale runs
//! - [`preflight`]: which settings of the servers put a sale at risk
//! - [`demand`]: how many pods the sales need together, and what one of them lacks
//! - [`ownership`]: whether a sale belongs to the operator's cluster
//! - [`orphan`]: what becomes of a sale without a FlashSale
//! - [`pacing`]: how often a status is written, and when a sale is reconciled again
//! - [`election`]: when an operator may take the lease
//!
//! Terms: docs/glossary.md.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod balance;
pub mod clocks;
pub mod condition;
pub mod demand;
pub mod election;
pub mod observation;
pub mod orphan;
pub mod ownership;
pub mod pacing;
pub mod plan;
pub mod preflight;
pub mod progress;
pub mod rebuild_pacing;
pub mod sale;

pub use clocks::Clocks;
pub use condition::{Condition, ConditionStatus, ConditionType, Phase, Progress, Reason, StatusReport};
pub use observation::{Observation, ObservedIndex};
pub use plan::{Plan, Step, plan};
pub use sale::{DesiredSale, SaleKey, Standing};
