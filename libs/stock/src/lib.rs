//! The stock of a sale in Redis. It is an index of the order log that can be rebuilt at any time. Nothing in it counts
//! until the log has confirmed it.
//!
//! - `keys`: names of the keys in Redis
//! - [`config`]: the address of Redis: one server, Sentinels or a Cluster
//! - [`client`]: the handle on the servers, and script calls on the server of a sale
//! - `cluster`: which node of a Cluster has a sale
//! - `connection`: one connection, and when it is replaced
//! - `roles`: the connections to one server
//! - `connector`: opens a connection; `sentinel` finds the primary, `login` logs in and tries the fence
//! - [`purchase`]: one script call for a batch of purchases
//! - [`batcher`]: turns the callers of one sale into few script calls; `queue` has the callers that wait
//! - [`rebuild`]: writes an index, installs it, changes its terms, drops it
//! - [`probe`]: reads the state of the server and of an index
//! - [`settings`]: reads the settings of the server
//! - [`adjustment`]: applies stock adjustments to an index in force
//! - [`outbox`]: batches that were sold and may not have reached the log yet
//!
//! Terms: docs/glossary.md.
pub mod adjustment;
pub mod batcher;
pub mod client;
mod cluster;
pub mod config;
mod connection;
mod connector;
mod holdings;
mod keys;
mod login;
pub mod outbox;
pub mod probe;
pub mod purchase;
mod queue;
pub mod rebuild;
mod roles;
mod sentinel;
pub mod settings;
mod tiers;

pub use batcher::{BatchSink, Batcher, PurchaseError};
pub use client::{StockClient, StockError};
pub use config::RedisConfig;
pub use outbox::OutboxEntry;
pub use probe::Probe;
pub use rebuild::{Applied, HoldingsWriter, Install, Installed};
pub use seckill_protocol::index::IndexState;
pub use settings::{BYTES_AN_ORDER, ServerSettings};
