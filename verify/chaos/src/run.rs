//! One run from start to end: servers and programs, sales and their buyers, the faults, the rest, the evidence.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use seckill_crds::Phase;
use seckill_protocol::SaleId;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::check::RECOVERY_TIMEOUT;
use crate::collect;
use crate::context::RunContext;
use crate::crowd::{Crowd, MAIN_SALE};
use crate::evidence::{Evidence, IndexAtRest, Promotion, Recovery};
use crate::faults::{self, Fault};
use crate::flash_sales::{FlashSales, NAMESPACE, Times};
use crate::harness::{Harness, ORDER_NO_KEYS};
use crate::history::{At, History};
use crate::members::Members;
use crate::mutants::Mutant;
use crate::setup::{Setup, Topology};
use crate::traffic::{BUYERS_PER_SECOND, Traffic};

/// The time that one fault takes on average, with everything around it.
const AVERAGE_FAULT_DURATION: Duration = Duration::from_secs(10);
/// How long the main sale could go on after the planned end of the faults.
const MAIN_SALE_MARGIN: Duration = Duration::from_secs(1800);
/// Time limit for the sales and buyers to reach a state.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// With a broken rule, or after selling did not resume, the state is usually never reached.
const SHORT_WAIT_LIMIT: Duration = Duration::from_secs(12);

pub struct Options {
    pub seed: u64,
    pub lasts: Duration,
    pub quick: bool,
    pub topology: Topology,
    pub only: Vec<&'static Fault>,
    pub mutant: Option<&'static Mutant>,
}

impl Options {
    /// The least number of faults in a run: each once, unless the run is quick or the faults are chosen.
    fn min_faults(&self, brokers: usize) -> usize {
        match self.quick || !self.only.is_empty() {
            true => 0,
            false => faults::all(self.topology, brokers).len(),
        }
    }

    fn wait_limit(&self) -> Duration {
        match self.mutant {
            Some(_) => SHORT_WAIT_LIMIT,
            None => WAIT_LIMIT,
        }
    }
}

/// A fault that was played.
#[derive(Debug, Serialize)]
pub struct PlayedFault {
    pub fault: String,
    pub did: String,
    /// The fault could not be played.
    pub failed: bool,
    pub from_ms: At,
    pub healed_ms: At,
    /// The longest time without a win around the fault.
    pub stopped_ms: At,
    /// From the repair to the next win.
    pub resumed_ms: Option<u64>,
    pub promotion: Option<Promotion>,
}

pub async fn run(setup: Setup, options: &Options) -> Result<(Evidence, Vec<PlayedFault>)> {
    let mut run = start(setup, options).await?;
    let (sales, history, crowd) = (run.sales.clone(), run.history.clone(), run.crowd.clone());
    start_main_sale(&mut run, options).await?;
    let traffic = Traffic::start(&run, &crowd, options.seed);
    run.harness.run_for(Duration::from_secs(6)).await?;

    let (played, resumed_ms) = play_faults(&mut run, options).await?;

    // The steady traffic ends, and more buyers come than units are left.
    let short_sales = traffic.stop().await?;
    let ended = match short_sales.last() {
        Some(last) => run.end_sale(last).await.map(drop),
        None => Ok(()),
    };
    buy_what_is_left(&mut run, &crowd, options).await?;
    // Somebody who repeats a request can buy a unit that another one has just returned.
    let paused = crowd.pause().await;
    let drained_ms = drain(&mut run).await?;
    let at_rest = indexes_at_rest(&run).await?;
    drop(paused);

    // All sales end and settle, and winners ask once more.
    let main_ended = sales.end_in(MAIN_SALE, Duration::from_secs(1)).await;
    let failures = ended.err().into_iter().chain(main_ended.err());
    let mut unsettled: Vec<String> = failures.map(|error| format!("{error:#}")).collect();
    for sale in short_sales.iter().map(String::as_str).chain([MAIN_SALE]) {
        if let Err(error) = run.wait_for_phase(sale, &[Phase::Settled]).await {
            unsettled.push(format!("{error:#}"));
        }
    }
    // A fault may have taken away the FlashSale of its own sale.
    for sale in run.fault_sales.clone() {
        if !run.settles_within(&sale, run.wait_limit).await? {
            unsettled.push(format!("{sale} is not settled in the ledger"));
        }
    }
    unsettled.append(&mut run.unrecovered);
    history.print("waited for all sales to settle; winners ask once more");
    sleep(Duration::from_secs(3)).await;
    crowd.stopped.send_replace(true);
    sleep(Duration::from_millis(200)).await;

    let recovery = Recovery {
        resumed_ms,
        drained_ms,
        unrecovered: unsettled,
    };
    let evidence = collect_evidence(&run, &played, at_rest, recovery).await?;
    Ok((evidence, played))
}

/// Starts the servers and programs.
async fn start(setup: Setup, options: &Options) -> Result<RunContext> {
    let history = History::start();
    let rules: Vec<&str> = options.mutant.iter().map(|mutant| mutant.name).collect();
    let started = Instant::now();
    let members = Members::start(&setup.address).await?;
    let mut harness = Harness::start_servers(setup, options.topology, NAMESPACE, &rules, &members).await?;
    let sales = Arc::new(FlashSales::prepare(harness.kubeconfig()).await?);
    harness.start_programs().await?;
    let seconds = started.elapsed().as_secs_f64();
    history.print(&format!("servers and programs are up ({seconds:.1} s)"));
    Ok(RunContext {
        crowd: Crowd::new(history.clone(), harness.api_addresses, members),
        harness,
        sales,
        history,
        rng: StdRng::seed_from_u64(options.seed ^ 0xfa17),
        which: 0,
        fault_sales: Vec::new(),
        current_sale: Arc::default(),
        sale_creation: Arc::default(),
        suspensions: Vec::new(),
        clock_steps: Vec::new(),
        ended: HashMap::new(),
        unrecovered: Vec::new(),
        taken: Vec::new(),
        promotion: None,
        max_orders: HashMap::new(),
        wait_limit: options.wait_limit(),
    })
}

/// The main sale lasts through all faults; short ones begin and end beside it.
async fn start_main_sale(run: &mut RunContext, options: &Options) -> Result<()> {
    let min_faults = options.min_faults(run.harness.kafka.len()) as u32;
    let lasts = options.lasts.max(AVERAGE_FAULT_DURATION * min_faults);
    let stock = (BUYERS_PER_SECOND * 0.75 * lasts.as_secs_f64()) as u64 + 400;
    let times = Times {
        starts_in: Duration::from_secs(2),
        lasts: lasts + MAIN_SALE_MARGIN,
    };
    run.sales.create(MAIN_SALE, stock, times).await?;
    run.sales
        .wait_for_phase(MAIN_SALE, &[Phase::Open], WAIT_LIMIT)
        .await
        .context("the main sale did not open")?;
    let ledger = run.harness.ledger().await?;
    let sale = ledger.sale_by_name(NAMESPACE, NAMESPACE, MAIN_SALE).await?;
    run.harness.main_sale = sale.map(|sale| sale.id);
    run.history
        .print(&format!("the sale \"{MAIN_SALE}\" sells {stock} units"));
    Ok(())
}

/// Plays faults until the time is up. Also returns how long selling took to resume after the last one.
async fn play_faults(run: &mut RunContext, options: &Options) -> Result<(Vec<PlayedFault>, Option<u64>)> {
    let until = Instant::now() + options.lasts;
    let brokers = run.harness.kafka.len();
    let min_faults = options.min_faults(brokers);
    let mut played = Vec::new();
    let mut resumed_ms = None;
    for fault in faults::schedule(options.seed, options.topology, brokers, options.quick, &options.only) {
        if Instant::now() >= until && played.len() >= min_faults {
            break;
        }
        let fault = play_fault(run, fault, played.len() + 1).await?;
        resumed_ms = fault.resumed_ms;
        played.push(fault);
        if resumed_ms.is_none() {
            run.wait_limit = SHORT_WAIT_LIMIT;
            run.history
                .print(&format!("selling did not resume within {} s", WAIT_LIMIT.as_secs()));
            break;
        }
    }
    Ok((played, resumed_ms))
}

/// Plays one fault, repairs what it left behind, and waits for the next win.
async fn play_fault(run: &mut RunContext, fault: &Fault, number: usize) -> Result<PlayedFault> {
    run.harness.find_primary().await?;
    let from_ms = run.history.now();
    let (did, failed) = match fault.play(run).await {
        Ok(did) => (did, false),
        Err(error) => (format!("could not be played: {error:#}"), true),
    };
    run.harness
        .repair()
        .await
        .with_context(|| format!("failed to repair {}", fault.name))?;
    let healed_ms = run.history.now();
    let resumed_ms = run.win_within(WAIT_LIMIT).await?;
    if resumed_ms.is_none_or(|took| took > RECOVERY_TIMEOUT.as_millis() as u64) {
        run.unrecovered
            .push(format!("selling did not resume in time after {}", fault.name));
    }
    let pause = Duration::from_millis(run.rng.random_range(300..1200));
    run.harness.run_for(pause).await?;
    let stopped_ms = run.history.longest_gap(from_ms, run.history.now());
    run.history.print(&format!(
        "{number:>3} {:<36} {did}; no win for {:.1} s, first win {:.1} s after the repair",
        fault.name,
        stopped_ms as f64 / 1000.0,
        resumed_ms.unwrap_or_default() as f64 / 1000.0
    ));
    Ok(PlayedFault {
        fault: fault.name.to_owned(),
        did,
        failed,
        from_ms,
        healed_ms,
        stopped_ms,
        resumed_ms,
        promotion: run.promotion.take(),
    })
}

/// Sends more buyers than units are left, and waits until all have their answer.
async fn buy_what_is_left(run: &mut RunContext, crowd: &Arc<Crowd>, options: &Options) -> Result<()> {
    let left: u64 = indexes_at_rest(run).await?.values().map(|index| index.left).sum();
    run.history.print(&format!(
        "faults are over; {left} units are left, and more buyers than that come"
    ));
    let buyers = left as usize + 60;
    let within = Duration::from_secs((buyers as u64 / 200).max(5));
    let seed = options.seed ^ 0xf1;
    let coming = tokio::spawn(crowd.clone().start_buyers(MAIN_SALE.into(), buyers, within, seed));
    let started = Instant::now();
    while !coming.is_finished() || (run.history.waiting() > 0 && started.elapsed() < run.wait_limit) {
        run.harness.run_for(Duration::from_millis(100)).await?;
    }
    run.history
        .print(&format!("{} buyers still wait for their answer", run.history.waiting()));
    Ok(())
}

/// Waits until nothing is in flight. Returns how long that took.
async fn drain(run: &mut RunContext) -> Result<Option<u64>> {
    let log = run.harness.log().await?;
    let started = Instant::now();
    let mut drained_ms = None;
    while drained_ms.is_none() && started.elapsed() < run.wait_limit {
        if let Ok(0) = collect::in_flight(&run.harness, &log).await {
            drained_ms = Some(started.elapsed().as_millis() as u64);
        }
        run.harness.run_for(Duration::from_millis(100)).await?;
    }
    Ok(drained_ms)
}

async fn indexes_at_rest(run: &RunContext) -> Result<HashMap<SaleId, IndexAtRest>> {
    collect::indexes_at_rest(&run.harness, &run.harness.log().await?).await
}

async fn collect_evidence(
    run: &RunContext,
    played: &[PlayedFault],
    at_rest: HashMap<SaleId, IndexAtRest>,
    recovery: Recovery,
) -> Result<Evidence> {
    let log = run.harness.log().await?;
    let failed = played.iter().filter(|played| played.failed);
    let (sales, unknown_sales) = collect::sales(&run.harness.mysql_url(), &log, NAMESPACE, at_rest).await?;
    Ok(Evidence {
        sales,
        unknown_sales,
        history: run.history.snapshot(),
        started_at: run.history.started_at,
        order_no_keys: ORDER_NO_KEYS.parse().context("invalid keys of order numbers")?,
        suspensions: run.suspensions.clone(),
        clock_steps: run.clock_steps.clone(),
        peak_memory: run.harness.peak_memory(),
        failed_faults: failed.map(|p| format!("{}: {}", p.fault, p.did)).collect(),
        ended: run.ended.clone(),
        ends: run.sales.ends(),
        max_orders: run.max_orders.clone(),
        taken: run.taken.clone(),
        recovery,
    })
}
