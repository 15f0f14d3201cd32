//! A model of the purchase protocol that a machine explores: every state that a small world can reach, and in each of
//! them the properties that buyers and sellers rely on ([`properties`]).
//!
//! The transitions are the product's own decisions, the pure functions of `libs/protocol`, called and not copied:
//! `Acceptance::judge` and `Fold` (the log, the ledger, a rebuild), `purchase` with its fence (the script in Redis),
//! `Holding::is_durable` and `SaleCut::lets_refuse` (what an API process may answer), `install` and `apply`, `PendingAdjustment::of`
//! and `apply_adjustment` (what the worker owes to the index), `recovery::needed` (R0) and `settlement::settle`. What is
//! modelled is what lies between them: who calls them when, and on which copy of the data.
//!
//! # What is covered
//!
//! - buyers with several keys, who retry at any time and at any process ([`protocol::Action::Buy`] for a key that was
//!   used before); two API processes that hold batches, publish them late and more than once, crash, and answer after the
//!   read-back
//! - Redis that is flushed, restarts or fails over, to what was there last or to any earlier copy; a replica that lags and
//!   answers; an old primary that goes on selling, with everybody sent back to it; replication ids are explicit
//! - two coordinators that may rest or die before each of R1 to R4 and the three steps of R5, also needless ones
//! - the worker: its position, the effects that it owes as rows of the same transaction, and what it merely remembers;
//!   MySQL that loses its tail: position, rows, `live_epoch`, terms and owed effects together
//! - cancels, totals, suspending and resuming, the end up to the settlement
//! - two workers on one partition, and a reader that starts where the ledger stands ([`workers`])
//!
//! Each rule of the protocol can be broken ([`Rule`]): a switch of the model, which passes other arguments to the
//! product's functions or undoes what they did. Nothing in the product knows of it.
//!
//! # What is left out
//!
//! Quantities above one, tiers, clocks and windows (suspending and ending are state, not time), PAID, quarantine, several
//! sales in a partition, a log that loses what it acknowledged, time-outs (a process that gives up is one that crashes),
//! the trimming of the outbox, and all that lies between a pure function and its script, which the tests of `libs/stock`
//! compare. A state is remembered by a hash of 64 bits: that two of ten million are taken for one is improbable (about
//! one in 400,000), not impossible.
//!
//! # How to run it
//!
//! ```text
//! cargo test -p seckill-model                                      what is below two minutes on two cores
//! cargo test -p seckill-model --test model -- --ignored            larger worlds
//! cargo test -p seckill-model --test model -- --exact cancels      one world
//! cargo test -p seckill-model --test model -- mutant_              all broken rules
//! ```
//!
//! Each test says in a line how large its world was and how many states it has.
//!
//! # Where to read
//!
//! [`configuration`] says how large a world is; [`state`] what it remembers; [`protocol`] what can happen, with the steps
//! in `buying`, `storing`, `recovering`, `ending` and `failing`; [`log`](mod@log) is the log with its folds.
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
