//! The stock of a sale in Redis: an index of the order log that can be rebuilt at any time, and is trusted for nothing
//! that the log has not confirmed.
//!
//! - `keys`: what lies where
//! - [`client`]: connections, and how scripts are called
//! - [`purchase`]: one script call for a batch of purchases
//! - [`batcher`]: turns the callers of one sale into few script calls
//! - [`rebuild`]: writes an index, puts it in force, changes its terms, takes it away
//! - [`probe`]: what the server is and holds
//! - [`settings`]: how the server is set up
//! - [`adjustment`]: what the log does to an index that is in force
//! - [`outbox`]: what was sold and may not have reached the log yet
pub mod adjustment;
pub mod batcher;
pub mod client;
mod holdings;
mod keys;
pub mod outbox;
pub mod probe;
pub mod purchase;
pub mod rebuild;
pub mod settings;

pub use batcher::{BatchSink, Batcher, PurchaseError};
pub use client::{StockClient, StockError};
pub use outbox::OutboxEntry;
pub use probe::Probe;
pub use rebuild::{Applied, Install, Installed};
pub use seckill_protocol::index::IndexState;
pub use settings::{BYTES_A_UNIT, ServerSettings};
