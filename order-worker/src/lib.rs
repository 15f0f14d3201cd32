//! The order-worker, as a library so that its tests can run it.
//!
//! - [`run`]: puts the parts together, and takes them apart at the end
//! - [`consume`]: the loop that reads the log and stores it
//! - [`assignment`]: which partitions are ours
//! - [`relay`]: publishes what was sold and did not reach the log, and trims what is stored
//! - [`adjustments`]: tells the indexes what the log did to units after they were sold
//! - `passes`: how those two tell of failures
//! - [`monitor`]: how far behind we are, and whether Kafka answers
//! - [`quarantine`]: the command for a person whom a record needs
//! - [`migrate`]: the schema and the topic, before anything runs
pub mod adjustments;
pub mod args;
pub mod assignment;
pub mod consume;
pub mod metrics;
pub mod migrate;
pub mod monitor;
mod passes;
pub mod quarantine;
pub mod relay;
pub mod run;
