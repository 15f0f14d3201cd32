//! A model of the purchase protocol.
pub mod configuration;
pub mod log;
pub mod properties;
pub mod protocol;
pub mod state;
pub mod workers;

mod buying;
mod ending;
mod failing;
mod recovering;
mod storing;

pub use configuration::{Configuration, Rule};
pub use protocol::Protocol;
pub use workers::Workers;
