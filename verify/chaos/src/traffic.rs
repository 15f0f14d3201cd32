//! The steady traffic during the faults: buyers of the main sale, and short sales that begin and end beside it.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::context::RunContext;
use crate::crowd::{Crowd, MAIN_SALE};
use crate::flash_sales::{FlashSales, Times};
use crate::members;

/// Half of the buyers come to the main sale, half to the short one.
pub const BUYERS_PER_SECOND: f64 = 30.0;
/// How long a short sale sells.
const SHORT_SALE_DURATION: Duration = Duration::from_secs(24);
/// From the beginning of a short sale to the beginning of the next one.
const SHORT_SALE_INTERVAL: Duration = Duration::from_secs(20);

pub struct Traffic {
    selling: Arc<AtomicBool>,
    main_sale: JoinHandle<()>,
    short_sales: JoinHandle<Result<Vec<String>>>,
}

impl Traffic {
    pub fn start(run: &RunContext, crowd: &Arc<Crowd>, seed: u64) -> Self {
        let selling = Arc::new(AtomicBool::new(true));
        let short_sales = ShortSales {
            sales: run.sales.clone(),
            crowd: crowd.clone(),
            current: run.current_sale.clone(),
            creation: run.sale_creation.clone(),
            selling: selling.clone(),
            seed,
        };
        Traffic {
            short_sales: tokio::spawn(short_sales.run()),
            main_sale: tokio::spawn(buy_from_main_sale(crowd.clone(), selling.clone(), seed)),
            selling,
        }
    }

    /// Waits until no more buyers start. Returns the names of the short sales.
    pub async fn stop(self) -> Result<Vec<String>> {
        self.selling.store(false, Ordering::Relaxed);
        let _ = self.main_sale.await;
        self.short_sales.await.context("the task of the short sales failed")?
    }
}

async fn buy_from_main_sale(crowd: Arc<Crowd>, selling: Arc<AtomicBool>, seed: u64) {
    let second = Duration::from_secs(1);
    let mut n = 0;
    while selling.load(Ordering::Relaxed) {
        n += 1;
        let buyers = (BUYERS_PER_SECOND / 2.0) as usize;
        let seed = seed.wrapping_mul(1009) + n;
        crowd.clone().start_buyers(MAIN_SALE.into(), buyers, second, seed).await;
    }
}

struct ShortSales {
    sales: Arc<FlashSales>,
    crowd: Arc<Crowd>,
    /// The name of the sale that sells now.
    current: Arc<Mutex<String>>,
    /// Held while a sale is created.
    creation: Arc<Mutex<()>>,
    selling: Arc<AtomicBool>,
    seed: u64,
}

impl ShortSales {
    /// Creates one short sale after the other. Returns their names.
    async fn run(self) -> Result<Vec<String>> {
        // As many buyers as units: some want several, so the sale sells out.
        let buyers = (BUYERS_PER_SECOND / 2.0 * SHORT_SALE_DURATION.as_secs_f64()) as usize;
        let mut names = Vec::new();
        while self.selling.load(Ordering::Relaxed) {
            let name = format!("short-{}", names.len() + 1);
            // The first one and every second one after it are for members.
            let is_for_members = names.len() % 2 == 0;
            self.create(&name, buyers as u64, is_for_members).await?;
            names.push(name.clone());
            // Buyers come from shortly before the start, so some are too early.
            sleep(Duration::from_secs(4)).await;
            *self.current.lock().await = name.clone();
            let seed = self.seed.wrapping_mul(7919) + names.len() as u64;
            let crowd = self.crowd.clone();
            let coming = match is_for_members {
                true => tokio::spawn(crowd.start_members(name, buyers, SHORT_SALE_DURATION, seed)),
                false => tokio::spawn(crowd.start_buyers(name, buyers, SHORT_SALE_DURATION, seed)),
            };
            let next = Instant::now() + SHORT_SALE_INTERVAL;
            while self.selling.load(Ordering::Relaxed) && Instant::now() < next {
                sleep(Duration::from_millis(100)).await;
            }
            if !self.selling.load(Ordering::Relaxed) {
                coming.abort();
            }
        }
        Ok(names)
    }

    /// Creates a sale and waits until the ledger has it: until then the API rightly says that there is no such sale.
    async fn create(&self, name: &str, stock: u64, is_for_members: bool) -> Result<()> {
        let _creation = self.creation.lock().await;
        let times = Times {
            starts_in: Duration::from_secs(6),
            lasts: SHORT_SALE_DURATION,
        };
        let fields = match is_for_members {
            true => members::tiered(stock),
            false => json!({}),
        };
        self.sales.create_with(name, stock, times, fields).await?;
        self.sales.wait_until_accepted(name).await
    }
}
