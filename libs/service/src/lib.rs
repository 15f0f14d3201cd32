//! Parts that all programs share: checked configuration, telemetry, health, connections, retries, shutdown.
//!
//! A program's `main` reads like this:
//!
//! 1. [`parse`] the arguments: an invalid value ends the process with code 2, and the error shows what was expected
//! 2. [`telemetry::init`], then [`open_files::raise_limit`]
//! 3. [`shutdown::Shutdown::on_signal`]
//! 4. create the gates of [`health::Health`], then [`admin::serve`]
//! 5. connect to the servers with [`connect`], and retry other start-up steps with [`retry::until_ok`]
//!
//! Terms: docs/glossary.md.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod admin;
pub mod args;
pub mod clock;
pub mod config;
pub mod connect;
pub mod health;
pub mod heartbeat;
pub mod log_once;
pub mod mysql_pool;
pub mod open_files;
pub mod periodic;
pub mod retry;
pub mod shutdown;
pub mod telemetry;
pub mod traces;

/// The metrics library, so that all programs register with the same version of it.
pub use prometheus_client as metrics;

pub use args::parse;
pub use clock::Clock;
pub use health::{Gate, Health};
pub use heartbeat::Heartbeats;
pub use log_once::{FailureLog, LogInterval};
pub use periodic::periodic;
pub use shutdown::Shutdown;
