//! The order-worker, as a library so that its tests can run it.
//!
//! - [`run`]: starts the parts and stops them in order
//! - [`consume`]: the loop that reads the log and stores it
//! - [`assignment`]: which partitions the consumer group has assigned to this worker
//! - [`relay`]: publishes batches that were sold and did not reach the log, and trims stored batches from the outbox
//! - [`adjustments`]: applies cancellations and raised totals to the indexes
//! - [`monitor`]: measures the lag and whether Kafka answers
//! - [`quarantine`]: the command for records that could not be folded
//! - [`migrate`]: the command that creates the schema and the topic
//!
//! Terms: docs/glossary.md.
pub mod adjustments;
pub mod args;
pub mod assignment;
pub mod consume;
pub mod metrics;
pub mod migrate;
pub mod monitor;
pub mod quarantine;
pub mod relay;
pub mod run;
