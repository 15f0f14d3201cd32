//! The purchase protocol as pure code: no I/O, no clock, no threads.
//!
//! The Kafka log decides, Redis is a rebuildable index of it, MySQL is a view of it. Read in this order:
//!
//! - [`ids`]: a sale, an epoch, a buyer, a key
//! - [`record`]: what can stand in the log
//! - [`acceptance`]: which of it counts, the whole safety argument
//! - [`index`]: what a purchase decides on the index of a sale, as a plain function; the Lua script does the same
//! - [`order_no`]: the number that a buyer is given
pub mod acceptance;
pub mod ids;
pub mod index;
pub mod order_no;
pub mod record;

pub use acceptance::{Acceptance, SaleCut, Verdict};
pub use ids::{Buyer, Epoch, InvalidId, KeyHash, Offset, OrderId, Quantity, SaleId, Seq, Tier};
pub use order_no::{OrderNo, OrderNoError, OrderNoKeys};
pub use record::{Batch, Order, Record, RecordError};
