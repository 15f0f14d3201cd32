//! The HTTP API that buyers buy from. Read in this order:
//!
//! - [`run`]: from the arguments to a server that is ready, and its end
//! - [`routes`]: what can be asked; `routes::orders` is where a purchase comes in
//! - [`purchase`]: the whole way of a purchase
//! - `cancel`: how an order ends before it is paid for
//! - [`catalogue`]: the sales that this process knows, and the epochs of their indexes
//! - [`problem`]: everything that can be answered but success
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod api;
pub mod args;
pub mod buyer;
mod cancel;
pub mod catalogue;
mod clock;
mod in_flight;
mod input;
mod ledger_lookup;
pub mod metrics;
mod orders;
pub mod problem;
pub mod purchase;
mod remaining;
pub mod routes;
pub mod run;
pub mod server;
