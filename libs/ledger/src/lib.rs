//! The ledger in MySQL: a view of the order log, and the only store of the desired state of a sale.
//!
//! - [`store`]: the transaction that folds records of the log into tables, exactly once
//! - `fold`: decides the rows that it writes, as plain code
//! - `identity`: rows that MySQL has lost, and what the log fixes of a row
//! - [`position`]: the offset up to which the log was folded, and where readers of the log start
//! - [`snapshot`]: one sale at one instant, for a rebuild of its index
//! - [`adjustments`]: pending stock adjustments for the indexes
//! - [`quarantine`]: records that could not be folded, and their replay
//! - [`orders`], [`sales`]: queries, and updates of a sale
//! - [`format`](mod@format): which versions of the programs may act, and their heartbeats
//! - [`schema`]: migrations, and the check that they were applied
//! - [`connection`]: the pool, time limits, snapshots
//! - `diagnosis`: why connecting timed out
//!
//! Terms: docs/glossary.md.
pub mod adjustments;
pub mod connection;
mod diagnosis;
mod error;
mod fold;
pub mod format;
mod identity;
pub mod orders;
pub mod position;
pub mod quarantine;
mod rows;
pub mod sales;
pub mod schema;
pub mod snapshot;
pub mod store;

pub use adjustments::SaleWithAdjustments;
pub use connection::Ledger;
pub use diagnosis::ConnectStep;
pub use error::{LedgerError, StoreError};
pub use fold::{LogEntry, Stored};
pub use format::Formats;
pub use orders::{AllKeys, MAX_KEYS, OrderLookup, StoredOrder};
pub use quarantine::{QuarantinedRecord, ReplayError};
pub use sales::CataloguePage;
pub use schema::migrate;
pub use seckill_protocol::format::{Heartbeat, NotSpoken};
pub use seckill_protocol::sale::{LedgerUnits, NewSale, Offer, Sale, SaleTerms};
pub use seckill_protocol::{FORMAT, Format, OrderStatus};
pub use snapshot::SaleSnapshot;
