//! The ledger in MySQL: a view of the order log, and the only place that remembers what a sale was meant to be.
//!
//! - [`store`]: the transaction that folds records of the log into tables, exactly once
//! - `fold`: what it writes, as plain code
//! - [`position`]: up to where the log was folded, and where readers of it start
//! - [`adjustments`]: what the indexes have still to be told of it
//! - [`quarantine`]: what could not be folded, and how it is once the cause is gone
//! - [`orders`], [`sales`]: what can be asked and, of a sale, changed
//! - [`schema`]: migrations, and the check that they were applied
//! - [`connection`]: the pool, time limits, snapshots
pub mod adjustments;
pub mod connection;
mod error;
mod fold;
pub mod orders;
pub mod position;
pub mod quarantine;
mod rows;
pub mod sales;
pub mod schema;
pub mod store;

pub use adjustments::StoredAdjustment;
pub use connection::Ledger;
pub use error::{LedgerError, StoreError};
pub use fold::{LogEntry, Stored};
pub use orders::StoredOrder;
pub use position::FoldStart;
pub use quarantine::{QuarantinedRecord, ReplayError};
pub use schema::migrate;
pub use seckill_protocol::OrderStatus;
pub use seckill_protocol::sale::{LedgerUnits, NewSale, Offer, Sale, SaleTerms};
