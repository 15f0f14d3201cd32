//! The subcommands `suspend --all` and `resume --all`: the emergency stop of a release. They need MySQL and Redis only, so
//! they work while the API server of Kubernetes is away and no operator leads.
//!
//! The stop is a row of the ledger, and every sale is read together with it: see [`Sale::state_in_force`]. So an operator
//! that runs applies the stop too, also to the indexes of new sales, and never undoes it. The transaction that changes the
//! row gives all sales a newer version, and their indexes take the change like any other change of terms.
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use seckill_ledger::{Ledger, LedgerError, Sale};
use seckill_planner::observation::cannot_install;
use seckill_planner::plan::index_need;
use seckill_protocol::index::SaleState;
use seckill_protocol::install::{InstallRefused, takes_an_index};
use seckill_protocol::recovery::Need;
use seckill_stock::{StockClient, StockError};

use crate::args::EmergencyStopArgs;

const RETRY_INTERVAL: Duration = Duration::from_millis(200);
const MAX_CONCURRENT_INDEXES: usize = 64;
const MYSQL_CONNECTIONS: u32 = 4;

/// The change is in the ledger, and an index does not have it yet.
#[derive(Debug, thiserror::Error)]
enum NotApplied {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error("{}", cannot_install(*.0))]
    NoServer(InstallRefused),
    #[error("sale {0} changes at the same time")]
    Changing(seckill_protocol::SaleId),
}

/// The sales that have not ended.
#[derive(Debug, Default)]
struct Counts {
    running: usize,
    with_index: usize,
}

/// Begins or ends the stop, and returns when every index has the change, with a text that says what was done.
pub async fn set(args: &EmergencyStopArgs, active: bool) -> anyhow::Result<String> {
    let begun = Instant::now();
    let limit = Duration::from_secs(args.timeout_seconds);
    let mut failure = "no answer".to_owned();
    let Ok(counts) = tokio::time::timeout(limit, set_until_done(args, active, &mut failure)).await else {
        anyhow::bail!(
            "not finished after {} s: {failure}; run the command again, it is safe to repeat",
            args.timeout_seconds
        );
    };
    let Counts { running, with_index } = counts?;
    let (class, seconds) = (&args.class, begun.elapsed().as_secs_f64());
    let done = match active {
        true => "no sale of this class sells until `operator resume --all`",
        false => "the emergency stop has ended, and the sales go on as their FlashSales say",
    };
    Ok(format!(
        "class {class}: {done} ({running} running sales, {with_index} with an index, {seconds:.2} s)"
    ))
}

async fn set_until_done(args: &EmergencyStopArgs, active: bool, failure: &mut String) -> anyhow::Result<Counts> {
    let ledger = loop {
        match set_in_ledger(args, active).await {
            Ok(ledger) => break ledger,
            Err(LedgerError::NotSpoken(too_old)) => anyhow::bail!("{too_old}"),
            Err(error) => *failure = format!("nothing is changed, because the ledger can't be written: {error}"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    };
    loop {
        match apply(args, &ledger).await {
            Ok(counts) => return Ok(counts),
            Err(error) => *failure = format!("the ledger is changed, but not every index: {error}"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn set_in_ledger(args: &EmergencyStopArgs, active: bool) -> Result<Ledger, LedgerError> {
    let ledger = Ledger::connect(&args.mysql.expose(), MYSQL_CONNECTIONS).await?;
    let ledger = ledger.speaking(args.format.spoken_format);
    ledger.set_emergency_stop(&args.class, active).await?;
    Ok(ledger)
}

async fn apply(args: &EmergencyStopArgs, ledger: &Ledger) -> Result<Counts, NotApplied> {
    let stock = StockClient::connect_to(&args.redis.config()).await?;
    let mut running = ledger.unfinished_sales(&args.class).await?;
    running.retain(|sale| sale.state != SaleState::Closed && sale.settled_at_ms.is_none());
    let mut counts = Counts {
        running: running.len(),
        with_index: 0,
    };
    let mut applied = futures::stream::iter(running)
        .map(|sale| apply_to_index(ledger, &stock, sale))
        .buffer_unordered(MAX_CONCURRENT_INDEXES);
    // One that fails holds up no other one.
    let mut failed = None;
    while let Some(applied) = applied.next().await {
        match applied {
            Ok(has_index) => counts.with_index += usize::from(has_index),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(counts), Err)
}

/// Applies the terms of the ledger. False: no index is in force, and one that is built later gets them before it is
/// published.
async fn apply_to_index(ledger: &Ledger, stock: &StockClient, sale: Sale) -> Result<bool, NotApplied> {
    let probe = stock.probe(sale.id).await?;
    takes_an_index(&probe.server).map_err(NotApplied::NoServer)?;
    let Some(index) = probe.valid() else { return Ok(false) };
    match index_need(index, &sale) {
        Need::Rebuild => return Ok(false),
        Need::Nothing | Need::Publish(_) => return Ok(true),
        Need::Apply if stock.apply(sale.id, index.epoch, &sale.terms()).await?.is_in_force() => return Ok(true),
        Need::Apply => {}
        // The ledger has lost its tail, or the sale was created at this moment.
        Need::Renumber(version) => {
            ledger.renumber_terms(sale.id, sale.version, version).await?;
        }
    }
    Err(NotApplied::Changing(sale.id))
}
