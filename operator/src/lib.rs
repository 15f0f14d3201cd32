//! The operator: runs flash sales on time. It observes, lets [`seckill_planner`] decide, and applies what that returns.
//!
//! The way of one sale, in the order in which data flows:
//!
//! - [`sale::reconcile`]: which FlashSale is reconciled, and when again
//! - [`sale::observe`]: everything that is known of it, read at once
//! - [`mod@seckill_planner::plan`]: the next step, a pure function
//! - [`sale::act`]: carries out the step; [`sale::rebuild`] is the one step that takes several
//! - [`sale::identity`]: one sale under one name, even if MySQL loses its row
//! - [`sale::status`]: the status and the events for the FlashSale's readers; [`sale::status_writer`] writes them beside
//!
//! Loops for the whole release, which only apply what the planner decides:
//!
//! - [`release::scale`]: the replicas of the two Deployments
//! - [`release::indexes`]: which sales have changed, by one probe of all of them
//! - [`release::servers`]: the settings of Redis, Kafka and MySQL, for the preflight
//! - [`release::orphans`]: ends the sales whose FlashSale is gone
//!
//! Without an API server and beside the operator: [`emergency_stop`], the subcommands `suspend` and `resume`; [`check`],
//! what the servers lack.
//!
//! Without a cluster at all: [`folder`], FlashSales from manifests in a folder (`--sales`).
//!
//! Kubernetes is in [`cluster`]: client, watches, lease, events, conversions. One of several operators does all this: the
//! one that holds the [lease](cluster::lease). [`run`] wires the parts together and is imported by nobody.
//!
//! Terms: docs/glossary.md.
pub mod args;
pub mod check;
pub mod clock_reading;
pub mod cluster;
pub mod context;
pub mod emergency_stop;
pub mod error;
pub mod folder;
pub mod format;
pub mod manifest;
pub mod metrics;
pub mod reconcile_cache;
pub mod release;
pub mod run;
pub mod sale;
pub mod sale_changes;
pub mod status_queue;
