//! An issuer of tokens for tests and crowds: [`Key`] signs any claims, and [`TestIssuer`] publishes keys over HTTP as an
//! OpenID Connect provider does. Nobody logs in.
//!
//! What can fail only by a fault of the machine panics: the test has failed then.
//!
//! Terms: docs/glossary.md.
mod issuer;
mod keys;

pub use issuer::TestIssuer;
pub use keys::{InvalidKey, Key, token};
