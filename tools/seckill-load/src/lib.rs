//! A load generator for flash sales, as an open loop: buyers arrive when the plan says, not when the answers to
//! earlier buyers allow it. A closed loop would ask a slow server less, and call it fast.
//!
//! Two latencies are kept, and each figure says which it is:
//! - **from send**: the last request of a buyer, from the moment it had its place among the requests in flight (a new
//!   connection, if one was needed, included) to the whole answer;
//! - **from schedule**: from the buyer's scheduled arrival to the answer that settled it: waiting for a place and all
//!   retries included.
mod answer;
mod buyer;
pub mod check;
mod connections;
mod latency;
mod outcome;
mod places;
mod plan;
mod run;
mod target;

pub use answer::{Counts, Kind};
pub use latency::{Bucket, Latency, Quantiles};
pub use outcome::{Outcome, SLICE, Sample, Slice};
pub use plan::{Arrival, InvalidPlan, Plan, Route};
pub use run::{LoadError, Progress, run};
pub use target::{InvalidTarget, Target};
