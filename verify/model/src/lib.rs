//! A model of the purchase protocol, explored by a model checker: every state that a small configuration can reach. In
//! each state it checks the properties that buyers and sellers rely on ([`property`]). docs/glossary.md defines the terms.
//!
//! The transitions are the product's own decisions. The model calls the pure functions of `libs/protocol`:
//! `Acceptance::judge` and `Fold` (the log, the ledger), `Delta` and `Merge` with `write` (a rebuild), `purchase` with its fence (the script in Redis),
//! `Holding::is_durable` and `SaleCut::lets_refuse` (what an API process may answer), `install` and `apply`, `PendingAdjustment::of`
//! and `apply_adjustments` (the pending stock adjustments of the worker), `recovery::needed` (R0) and `settlement::settle`.
//! The model adds what lies between them: which process calls them when, and on which copy of the data.
//!
//! # What is covered
//!
//! - buyers with several keys, who retry at any time and at any process ([`protocol::Action::Buy`] with a key that was
//!   used before); two API processes that hold batches, publish them late and more than once, crash, and answer after the
//!   read-back
//! - Redis that is flushed, restarts or fails over, to the newest data or to any earlier copy; a replica that lags and
//!   answers; an old primary that goes on selling, also after all clients were sent back to it; explicit replication ids
//! - two coordinators that may wait or die before each of R1 to R4 and the three steps of R5, also needless rebuilds
//! - the worker: its position, the pending stock adjustments as rows of the same transaction, and its memory; MySQL that
//!   loses its tail: position, rows, `live_epoch`, terms and pending adjustments together
//! - tiers: an opening, a limit and a reserve of a tier's own, and buyers whose tokens change (`tiers`); quantities, also
//!   another one with the same key
//! - cancels, totals, suspending and resuming, the end up to the settlement
//! - two workers on one partition, and a reader that starts at the ledger's position ([`workers`])
//! - three clocks, one of them wrong, at the start and the end of a sale ([`clocks`], with `libs/planner`)
//! - FlashSales that go away, in two clusters with one ledger: deletions, mass deletions, a restore of etcd, changes of leader
//!   ([`deletion`], with the decisions of `libs/planner`)
//! - an upgrade: programs of two versions, a sale of a newer format, and MySQL that loses its tail ([`formats`])
//! - MySQL that loses the row of a sale, and operators that create the sale meanwhile ([`identity`])
//!
//! Each rule of the protocol can be broken ([`Rule`]). A broken rule passes other arguments to the product's functions or
//! undoes what they did; the product has no code for it.
//!
//! # What is left out
//!
//! Windows of sales without tiers (in the protocol's model suspending and ending are state, not time), more than one tier
//! besides general buyers, servers of Redis whose clocks differ, PAID, quarantine (a copy of an order with another content
//! violates a property instead), several sales in a partition, a log that loses acknowledged records, timeouts (a process
//! that gives up is one that crashes), the trimming of the outbox, and differences between a pure function and its script,
//! which the tests of `libs/stock` compare. The checker identifies a state by a hash of 64 bits: among ten million states a
//! collision is improbable (about one in 400,000), not impossible.
//!
//! # How to run it
//!
//! ```text
//! cargo test -p seckill-model                                      some two minutes on two cores
//! cargo test -p seckill-model --test model -- --ignored            larger configurations
//! cargo test -p seckill-model --test model -- --exact cancels      one configuration
//! cargo test -p seckill-model --test model -- mutant_              all broken rules
//! ```
//!
//! Each test prints its configuration and the number of its states in one line.
//!
//! # Reading order
//!
//! - [`configuration`]: the size of the modelled system, and the broken rules
//! - [`state`], [`log`](mod@log): a state, and the log with its folds
//! - [`protocol`]: the actions; `model` dispatches them to `buying`, `storing`, `recovering`, `ending` and `failing`
//! - `tier_plan`, `tiers`: the tier of a sale that has one, and its properties
//! - [`property`], [`properties`]: the names of the properties, and their checks
pub mod clocks;
pub mod configuration;
pub mod deletion;
pub mod formats;
pub mod identity;
pub mod log;
pub mod properties;
pub mod property;
pub mod protocol;
pub mod state;
pub mod tier_plan;
mod tiers;
pub mod workers;

mod buying;
mod ending;
mod failing;
mod model;
mod recovering;
mod storing;

pub use clocks::SaleClocks;
pub use configuration::{Configuration, Rule};
pub use deletion::Deletions;
pub use formats::Formats;
pub use identity::{Identities, IdentityConfig, IdentityRule};
pub use protocol::Protocol;
pub use tier_plan::TierPlan;
pub use workers::Workers;
