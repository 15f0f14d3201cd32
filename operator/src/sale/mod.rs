//! The way of one sale: reconcile, observe, (plan), act, report.
pub mod act;
pub mod identity;
pub mod observe;
pub mod rebuild;
pub mod reconcile;
pub mod status;
pub mod status_writer;
