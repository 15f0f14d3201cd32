//! The order log in Kafka. All that changes an order or the stock is a record in it; every other store is a fold of it.
//!
//! - [`OrderLog`] appends records and reads ranges of a partition
//! - [`Tail`] follows all partitions in one process and says what became of a record: the read-back
//! - [`ensure_topic`] creates the topic as the log needs it
mod append;
mod config;
mod error;
mod kafka;
mod partition;
mod read;
mod seqs;
mod tail;
mod topic;

pub use append::OrderLog;
pub use config::LogConfig;
pub use error::LogError;
pub use read::Entry;
pub use tail::{ReadBack, Tail};
pub use topic::{Ensured, TopicFacts, ensure_topic};
