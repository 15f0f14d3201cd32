//! The HTTP API that buyers buy from. See `docs/glossary.md` for terms such as epoch, barrier, index and fold.
//!
//! The files in reading order. First the way of a purchase:
//!
//! - [`args`], [`run`]: from the arguments to a server that is ready, and its shutdown
//! - [`server`] accepts connections; `connections` limits their number, [`connection`] their time
//! - [`rate_limit`] limits the requests of an address, which `client_address` finds behind proxies, and of a buyer
//! - [`routes`]: `middleware` around every request, with [`rate_limit`] and [`client_address`]; then `purchase`
//! - `extract`: the arguments of a route, from path, headers and body; `idempotency_key` parses the key
//! - [`purchase`]: the purchase itself, with `purchase_locks`; `order_lookup`, `order_keys` and `ledger_lookup` after the end
//! - [`api`]: the state that the routes share
//! - [`catalogue`]: the sales that this process knows, and the epochs of their indexes; `find_sale` looks one up, and
//!   `unknown_sales` remembers names that no sale has
//!
//! Then the other requests:
//!
//! - `orders`, `cancel`: finding and cancelling an order, with `fold_progress`
//! - `remaining`: the number of units left; `remaining_units`: what a tier can buy of them
//!
//! Who the caller is:
//!
//! - [`identity`]: verifies a bearer token by the keys of its issuer
//! - [`buyers`]: from the identity to the buyer of a sale
//!
//! And what all of them use:
//!
//! - [`problem`]: every answer except success
//! - `routes::openapi`: the OpenAPI document, from the routes, the types and the problems
//! - `limits`, `clock`, `recent`, [`metrics`]
//! - [`traced`]: the purchases of which there are traces
//!
//! [`smoke_test`] is a command of its own, which asks a running API.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod api;
pub mod args;
pub mod buyers;
mod cancel;
pub mod catalogue;
pub mod client_address;
mod clock;
pub mod connection;
mod connections;
pub mod cors;
mod extract;
mod find_sale;
mod fold_progress;
pub mod idempotency_key;
pub mod identity;
mod ledger_lookup;
mod limits;
pub mod metrics;
mod order_keys;
mod order_lookup;
mod orders;
pub mod partitions;
pub mod problem;
pub mod purchase;
mod purchase_locks;
pub mod rate_limit;
mod recent;
mod remaining;
mod remaining_units;
pub mod routes;
pub mod run;
pub mod server;
pub mod smoke_test;
pub mod traced;
mod unknown_sales;
