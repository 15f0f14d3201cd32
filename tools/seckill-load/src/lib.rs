//! A load generator for flash sales with an open loop: buyers arrive at their scheduled times, however slow the answers
//! to earlier buyers are. A closed loop would send fewer requests to a slow server, and report it as fast.
//!
//! There are two latencies:
//! - **from send**: the last request of a buyer, from its permit among the requests in flight to the complete answer. It
//!   includes the time to open a connection.
//! - **from schedule**: from the scheduled arrival of the buyer to its final answer. It includes the wait for a permit and
//!   all retries.
//!
//! The files in reading order: `plan` and `target` with `tls`, `crowd`, [`run`], `buyer` with `permits`, `connections` and `answer`,
//! `outcome` with `latency`, [`check`] with `sale_times`.
mod answer;
mod buyer;
pub mod check;
mod connections;
mod crowd;
mod latency;
mod outcome;
mod permits;
mod plan;
mod run;
mod sale_times;
mod target;
mod tls;

pub use answer::{AnswerKind, Counts};
pub use crowd::{Crowd, CrowdPlan, Tier};
pub use latency::{Bucket, Latency, Quantiles};
pub use outcome::{Outcome, SLICE_LENGTH, Sample, Slice, Win};
pub use plan::{Arrival, InvalidPlan, Plan, Route};
pub use run::{LoadError, Progress, run};
pub use sale_times::{SaleTimes, UnknownTimes};
pub use target::{InvalidTarget, Target};
pub use tls::InvalidTls;
