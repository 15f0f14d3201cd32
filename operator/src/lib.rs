//! Runs flash sales on time. Read in the order in which data flows:
//!
//! - [`watch`]: the FlashSales that are watched
//! - [`controller`]: which sale is looked at, and when again
//! - [`facts`]: everything that is known of it, read at once
//! - [`plan`]: what is to be done about it, a pure function
//! - [`balance`]: whether every unit is accounted for while a sale runs
//! - [`preflight`]: what could spoil a sale before it opens
//! - [`act`]: does it; [`rebuild`] is the one step that takes several
//! - [`status`]: what the FlashSale's readers are told
//!
//! Beside that, [`scale`] keeps the two Deployments at what the sales ask for, and [`orphans`] ends the sales whose
//! FlashSale is gone. Of several operators one does all this: the one that holds the [`lease`].
pub mod act;
pub mod args;
pub mod balance;
pub mod controller;
pub mod error;
pub mod facts;
pub mod lease;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod orphans;
pub mod plan;
pub mod preflight;
pub mod rebuild;
pub mod run;
pub mod scale;
pub mod status;
pub mod watch;
