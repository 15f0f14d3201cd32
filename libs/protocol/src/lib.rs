//! The purchase protocol as pure code: no I/O, no clock, no threads.
//!
//! The Kafka log decides, Redis is a rebuildable index of it, and MySQL is a view of it. Read in this order:
//!
//! - [`ids`]: a sale, an epoch, a buyer, a key
//! - [`record`]: the records of the log
//! - [`identity`]: what never changes of a sale
//! - [`acceptance`]: which records count; this is the whole safety argument
//! - [`admission`]: which sales a view of the log knows
//! - [`status`]: the status of an order
//! - [`fold`](mod@fold): the fold of the log over one sale
//! - [`index`]: decides purchases on the index of a sale, as a plain function; the Lua script does the same
//! - [`rebuild`]: the same fold for a new index, order by order
//! - [`install`](mod@install): installs an index; [`adjustment`]: applies later changes of the log to it
//! - [`recovery`]: decides what the index of a sale needs; [`settlement`]: the comparison at the end of a sale
//! - [`tiers`]: what a tier of buyers may do
//! - [`sale`]: a sale as the ledger stores it
//! - [`mod@format`]: which versions of the programs understand each other
//! - [`order_no`]: the order number of a buyer
//!
//! Terms: docs/glossary.md.
pub mod acceptance;
pub mod adjustment;
pub mod admission;
pub mod fold;
pub mod format;
pub mod identity;
pub mod ids;
pub mod index;
pub mod install;
pub mod order_no;
pub mod rebuild;
pub mod record;
pub mod recovery;
pub mod sale;
pub mod settlement;
pub mod status;
pub mod tiers;

pub use acceptance::{Acceptance, RecordVerdict, SaleCut};
pub use adjustment::{AdjustmentOutcome, PendingAdjustment, StockAdjustment};
pub use fold::Fold;
pub use format::{FORMAT, Format};
pub use identity::{Identity, InvalidIdentity};
pub use ids::{Buyer, BuyerKey, Epoch, InvalidId, KeyHash, Offset, OrderId, Quantity, SaleId, Seq, Tier};
pub use order_no::{OrderNo, OrderNoError, OrderNoKeys};
pub use record::{Batch, Order, Record, RecordError};
pub use status::OrderStatus;
pub use tiers::Tiers;
