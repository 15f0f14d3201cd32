//! The order log in Kafka. Every change of an order or of the stock is a record in it. Every other store is a fold of
//! it.
//!
//! - [`OrderLog`] appends records and reads ranges of a partition
//! - [`Tail`] follows all partitions in one process and tells whether an order was accepted: the read-back
//! - [`ensure_topic`] creates the topic with the settings that the log needs
//!
//! Terms: docs/glossary.md.
mod advice;
mod append;
mod config;
mod creation_error;
mod error;
mod kafka;
mod partition;
mod read;
mod seqs;
mod tail;
mod topic;

pub use advice::advice;
pub use append::OrderLog;
pub use config::LogConfig;
pub use creation_error::creation_error;
pub use error::LogError;
pub use read::{Entry, header_values, position};
pub use tail::{ReadBack, Tail};
pub use topic::{Ensured, TopicFacts, ensure_topic};
