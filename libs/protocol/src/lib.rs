//! The purchase protocol as pure code: no I/O, no clock, no threads.
//!
//! The Kafka log decides, Redis is a rebuildable index of it, MySQL is a view of it. Read in this order:
//!
//! - [`ids`]: a sale, an epoch, a buyer, a key
//! - [`record`]: what can stand in the log
//! - [`acceptance`]: which of it counts, the whole safety argument
//! - [`status`]: what becomes of an order
//! - [`fold`](mod@fold): what the log says of a sale
//! - [`index`]: what a purchase decides on the index of a sale, as a plain function; the Lua script does the same
//! - [`install`](mod@install): how an index is put in force; [`adjustment`]: what the log does to it later
//! - [`recovery`]: what a sale's index needs; [`settlement`]: what its end compares
//! - [`order_no`]: the number that a buyer is given
pub mod acceptance;
pub mod adjustment;
pub mod fold;
pub mod ids;
pub mod index;
pub mod install;
pub mod order_no;
pub mod record;
pub mod recovery;
pub mod sale;
pub mod settlement;
pub mod status;

pub use acceptance::{Acceptance, RecordVerdict, SaleCut};
pub use adjustment::{AdjustmentOutcome, PendingAdjustment, StockAdjustment};
pub use fold::Fold;
pub use ids::{Buyer, Epoch, InvalidId, KeyHash, Offset, OrderId, Quantity, SaleId, Seq, Tier};
pub use order_no::{OrderNo, OrderNoError, OrderNoKeys};
pub use record::{Batch, Order, Record, RecordError};
pub use status::OrderStatus;
