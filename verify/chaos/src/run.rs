//! One run from start to end: servers and programs, sales and their crowds, the faults, the rest, the check.
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use seckill_crds::Phase;
use seckill_order_log::OrderLog;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::check::{Evidence, Recovery};
use crate::crowd::{Crowd, LASTING};
use crate::faults::{Fault, kinds, schedule};
use crate::history::{At, History};
use crate::load;
use crate::mutants::Mutant;
use crate::setup::Setup;
use crate::shop::Shop;
use crate::world::{ORDER_NO_KEYS, World};

pub struct Options {
    pub seed: u64,
    pub lasts: Duration,
    pub quick: bool,
    pub only: Vec<Fault>,
    pub mutant: Option<&'static Mutant>,
}

impl Options {
    /// So many faults are played in any case: each kind once.
    fn least(&self, brokers: usize) -> usize {
        match self.quick || !self.only.is_empty() {
            true => 0,
            false => kinds(brokers).len(),
        }
    }

    fn patience(&self) -> Duration {
        match self.mutant {
            Some(_) => PATIENCE_WITH_MUTANTS,
            None => PATIENCE,
        }
    }
}

/// Everything a fault may touch.
pub struct Run {
    pub world: World,
    pub shop: Arc<Shop>,
    pub history: History,
    /// The short sale that sells now, beside the one that lasts.
    pub current: Arc<Mutex<String>>,
    /// Held while a sale is made.
    pub making_sales: Arc<Mutex<()>>,
    pub suspended: Vec<(String, At, At)>,
    /// When the clock of Redis was wrong, and by how many milliseconds.
    pub stepped: Vec<(At, At, u64)>,
    /// Sales whose end was moved while they sold, and when that had surely taken effect.
    pub ended: HashMap<String, At>,
    patience: Duration,
}

/// A fault that was played.
#[derive(Debug, Serialize)]
pub struct Played {
    pub fault: String,
    pub did: String,
    /// It could not be played.
    pub failed: bool,
    pub from_ms: At,
    pub healed_ms: At,
    /// The longest time without a win around it.
    pub stopped_ms: At,
    /// From the repair to the next win.
    pub resumed_ms: Option<u64>,
}

/// Buyers a second, in all.
const CROWD: f64 = 30.0;
/// Playing one takes so long, on the average and with everything around it.
const A_FAULT: Duration = Duration::from_secs(6);
/// A short sale sells for so long, and so long after it began the next one begins.
const SHORT: Duration = Duration::from_secs(24);
const NEXT: Duration = Duration::from_secs(20);
/// How long something may take before the run gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a mutant it is known that it will not come.
const PATIENCE_WITH_MUTANTS: Duration = Duration::from_secs(12);

pub async fn run(setup: Setup, options: &Options) -> Result<(Evidence, Vec<Played>)> {
    let history = History::begin();
    let shop = Arc::new(Shop::open(&setup.kubeconfig).await?);
    let rules: Vec<&str> = options.mutant.iter().map(|mutant| mutant.name).collect();
    let begun = Instant::now();
    let world = World::start(setup, &shop.name, &rules).await?;
    say(
        &history,
        &format!("servers and programs are up ({:.1} s)", begun.elapsed().as_secs_f64()),
    );
    let mut run = Run {
        world,
        shop: shop.clone(),
        history: history.clone(),
        current: Arc::default(),
        making_sales: Arc::default(),
        suspended: Vec::new(),
        stepped: Vec::new(),
        ended: HashMap::new(),
        patience: options.patience(),
    };
    let crowd = Crowd::new(history.clone(), &shop.name, run.world.api_addresses);

    // One sale lasts, so that it comes through everything; short ones begin and end beside it.
    let lasts = options.lasts.max(A_FAULT * options.least(run.world.kafka.len()) as u32);
    let stock = (CROWD * 0.75 * lasts.as_secs_f64()) as u64 + 400;
    let forever = lasts + Duration::from_secs(1800);
    shop.apply(LASTING, stock, Duration::from_secs(2), forever).await?;
    shop.until(LASTING, &[Phase::Open], PATIENCE)
        .await
        .context("the first sale")?;
    say(&history, &format!("the sale \"main\" sells {stock} units"));
    let selling = Arc::new(AtomicBool::new(true));
    let shorts = tokio::spawn(short_sales(
        shop.clone(),
        crowd.clone(),
        run.current.clone(),
        run.making_sales.clone(),
        selling.clone(),
        options.seed,
    ));
    let steady = tokio::spawn(steady_crowd(crowd.clone(), selling.clone(), options.seed));
    run.world.pass(Duration::from_secs(6)).await?;

    let (played, resumed_ms) = run.faults(options).await?;

    // The crowd comes to its end, and what is left of the sale is bought out.
    selling.store(false, Ordering::Relaxed);
    let _ = steady.await;
    let shorts = shorts.await.context("the short sales")??;
    let last = match shorts.last() {
        Some(last) => run.ends(last).await.map(drop),
        None => Ok(()),
    };
    let (mut recovery, at_rest) = run.rests(&crowd, options).await?;
    recovery.resumed_ms = resumed_ms;
    recovery.unsettled.extend(last.err().map(|why| format!("{why:#}")));

    // The end: the sale settles, and winners hear the same number after it.
    shop.end_in(LASTING, Duration::from_secs(1)).await?;
    for sale in shorts.iter().map(String::as_str).chain([LASTING]) {
        let settled = run.until_settled(sale).await;
        if let Err(why) = settled {
            recovery.unsettled.push(format!("{why:#}"));
        }
    }
    say(&history, "all sales are settled; winners ask once more");
    sleep(Duration::from_secs(3)).await;
    crowd.over.send_replace(true);
    sleep(Duration::from_millis(200)).await;

    let log = run.world.log().await?;
    let evidence = Evidence {
        sales: load::sales(&run.world.mysql_url(), &log, &shop.name, at_rest).await?,
        history: history.all(),
        begun_at: history.begun_at,
        numbers: ORDER_NO_KEYS.parse().context("the keys of order numbers")?,
        suspended: run.suspended.clone(),
        stepped: run.stepped.clone(),
        peaks: run.world.peaks(),
        unplayed: played
            .iter()
            .filter(|p| p.failed)
            .map(|p| format!("{}: {}", p.fault, p.did))
            .collect(),
        ended: run.ended.clone(),
        recovery,
    };
    // Nothing of it is needed any more.
    let _ = shop.close().await;
    Ok((evidence, played))
}

impl Run {
    /// Plays faults until the time is up. Gives when selling was back after the last one.
    async fn faults(&mut self, options: &Options) -> Result<(Vec<Played>, Option<u64>)> {
        let history = self.history.clone();
        let until = Instant::now() + options.lasts;
        let mut rng = StdRng::seed_from_u64(options.seed ^ 0xfa17);
        let mut played = Vec::new();
        let mut resumed = None;
        let least = options.least(self.world.kafka.len());
        let faults = schedule(options.seed, self.world.kafka.len(), options.quick, &options.only);
        for fault in faults {
            if Instant::now() >= until && played.len() >= least {
                break;
            }
            let from = history.now();
            let (did, failed) = match fault.play(self, &mut rng).await {
                Ok(did) => (did, false),
                Err(why) => (format!("could not be played: {why:#}"), true),
            };
            self.world
                .heal()
                .await
                .with_context(|| format!("healing {}", fault.name()))?;
            let healed = history.now();
            resumed = self.resumes(healed).await?;
            self.world
                .pass(Duration::from_millis(rng.random_range(300..1200)))
                .await?;
            let stopped = history.longest_gap(from, history.now());
            say(
                &history,
                &format!(
                    "{:>3} {:<36} {did}; selling stopped for {:.1} s, back {:.1} s after the repair",
                    played.len() + 1,
                    fault.name(),
                    stopped as f64 / 1000.0,
                    resumed.unwrap_or_default() as f64 / 1000.0
                ),
            );
            played.push(Played {
                fault: fault.name(),
                did,
                failed,
                from_ms: from,
                healed_ms: healed,
                stopped_ms: stopped,
                resumed_ms: resumed,
            });
            if resumed.is_none() {
                say(
                    &history,
                    &format!("selling did not resume within {} s", PATIENCE.as_secs()),
                );
                break;
            }
        }
        Ok((played, resumed))
    }

    /// Waits for the next buyer who wins.
    async fn resumes(&mut self, healed: At) -> Result<Option<u64>> {
        let begun = Instant::now();
        while !self.history.won_since(healed) {
            if begun.elapsed() > PATIENCE {
                return Ok(None);
            }
            self.world.pass(Duration::from_millis(20)).await?;
        }
        Ok(Some(self.history.now().saturating_sub(healed)))
    }

    /// More buyers than units, and then nobody: everything comes to rest.
    async fn rests(
        &mut self,
        crowd: &Arc<Crowd>,
        options: &Options,
    ) -> Result<(Recovery, HashMap<seckill_protocol::SaleId, crate::check::Rest>)> {
        let (mysql, redis) = (self.world.mysql_url(), self.world.redis_url(self.world.primary));
        let log = self.world.log().await?;
        let left = units_left(&mysql, &log, &redis).await?;
        say(
            &self.history,
            &format!("faults are over; {left} units are left, and more buyers than that come"),
        );
        let buyers = left as usize + 60;
        let within = Duration::from_secs((buyers as u64 / 200).max(5));
        let coming = tokio::spawn(crowd.clone().comes(LASTING.into(), buyers, within, options.seed ^ 0xf1));
        let begun = Instant::now();
        while !coming.is_finished() || (self.history.waiting() > 0 && begun.elapsed() < self.patience) {
            self.world.pass(Duration::from_millis(100)).await?;
        }
        say(
            &self.history,
            &format!("{} buyers still wait for their answer", self.history.waiting()),
        );

        let begun = Instant::now();
        let mut drained_ms = None;
        while drained_ms.is_none() && begun.elapsed() < self.patience {
            if let Ok(0) = load::under_way(&mysql, &log, &redis).await {
                drained_ms = Some(begun.elapsed().as_millis() as u64);
            }
            self.world.pass(Duration::from_millis(100)).await?;
        }
        let recovery = Recovery {
            drained_ms,
            ..Recovery::default()
        };
        Ok((recovery, load::rest(&mysql, &log, &redis).await?))
    }

    /// Ends a sale before its time, unless it has ended by itself.
    pub async fn ends(&mut self, sale: &str) -> Result<bool> {
        // A sale can't end before it starts: one that is about to is told a moment later.
        let mut told = false;
        for _ in 0..10 {
            told = self.shop.end_in(sale, Duration::from_secs(2)).await.is_ok();
            let phase = self.shop.status(sale).await?.phase;
            if told || matches!(phase, Some(Phase::Ended | Phase::Settled)) {
                break;
            }
            self.world.pass(Duration::from_secs(1)).await?;
        }
        let shop = self.shop.clone();
        let over = shop.until(sale, &[Phase::Ended, Phase::Settled], self.patience);
        tokio::pin!(over);
        loop {
            tokio::select! {
                over = &mut over => break drop(over?),
                passed = self.world.pass(Duration::from_millis(200)) => passed?,
            }
        }
        self.ended.insert(sale.to_owned(), self.history.now());
        Ok(told)
    }

    async fn until_settled(&mut self, sale: &str) -> Result<()> {
        let shop = self.shop.clone();
        let settled = shop.until(sale, &[Phase::Settled], self.patience);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                settled = &mut settled => return settled.map(drop),
                passed = self.world.pass(Duration::from_millis(200)) => passed?,
            }
        }
    }
}

async fn units_left(mysql: &str, log: &OrderLog, redis: &str) -> Result<u64> {
    let rests = load::rest(mysql, log, redis).await?;
    Ok(rests.values().map(|rest| rest.left).sum())
}

async fn steady_crowd(crowd: Arc<Crowd>, selling: Arc<AtomicBool>, seed: u64) {
    let second = Duration::from_secs(1);
    let mut n = 0;
    while selling.load(Ordering::Relaxed) {
        n += 1;
        let buyers = (CROWD / 2.0) as usize;
        crowd
            .clone()
            .comes(LASTING.into(), buyers, second, seed.wrapping_mul(1009) + n)
            .await;
    }
}

/// One short sale after the other. Gives their names.
async fn short_sales(
    shop: Arc<Shop>,
    crowd: Arc<Crowd>,
    current: Arc<Mutex<String>>,
    making: Arc<Mutex<()>>,
    selling: Arc<AtomicBool>,
    seed: u64,
) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while selling.load(Ordering::Relaxed) {
        let name = format!("short-{}", names.len() + 1);
        // Rather more than its stock will come.
        let buyers = (CROWD / 2.0 * SHORT.as_secs_f64()) as usize;
        let stock = buyers as u64;
        {
            let _making = making.lock().await;
            shop.apply(&name, stock, Duration::from_secs(6), SHORT).await?;
        }
        names.push(name.clone());
        // Buyers come when it is shown; some of them too early.
        while shop.status(&name).await?.phase.is_none() {
            sleep(Duration::from_millis(200)).await;
        }
        sleep(Duration::from_secs(4)).await;
        *current.lock().await = name.clone();
        let crowd = crowd
            .clone()
            .comes(name, buyers, SHORT, seed.wrapping_mul(7919) + names.len() as u64);
        let coming = tokio::spawn(crowd);
        let next = Instant::now() + NEXT;
        while selling.load(Ordering::Relaxed) && Instant::now() < next {
            sleep(Duration::from_millis(100)).await;
        }
        if !selling.load(Ordering::Relaxed) {
            coming.abort();
        }
    }
    Ok(names)
}

pub fn say(history: &History, line: &str) {
    println!("[{:>6.1} s] {line}", history.now() as f64 / 1000.0);
}
