//! What a fault may change while the run goes on, and what the checker has to know of it.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;
use rand::rngs::StdRng;
use seckill_crds::Phase;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::crowd::Crowd;
use crate::evidence::{ClockStep, Promotion, Suspension};
use crate::flash_sales::{FlashSales, NAMESPACE, Times};
use crate::harness::Harness;
use crate::history::{At, History};

pub struct RunContext {
    pub harness: Harness,
    pub sales: Arc<FlashSales>,
    pub history: History,
    pub crowd: Arc<Crowd>,
    /// Everything random in a fault comes from here, so that a seed plays the same plan again.
    pub rng: StdRng,
    /// Which of two equal processes a fault hits, 0 or 1. It is drawn anew for each fault.
    pub which: usize,
    /// Sales that faults opened. Each sells for some seconds.
    pub fault_sales: Vec<String>,
    /// The short sale that sells now, beside the main one.
    pub current_sale: Arc<Mutex<String>>,
    /// Held while a sale is created.
    pub sale_creation: Arc<Mutex<()>>,
    pub suspensions: Vec<Suspension>,
    pub clock_steps: Vec<ClockStep>,
    /// Sales whose end was moved while they sold, and when the new end had surely taken effect.
    pub ended: HashMap<String, At>,
    /// What should have recovered by itself and did not.
    pub unrecovered: Vec<String>,
    /// What clients took from others.
    pub taken: Vec<String>,
    /// Of the fault that is played.
    pub promotion: Option<Promotion>,
    /// The bound on the orders of a sale, cancelled ones included.
    pub max_orders: HashMap<String, u64>,
    /// Time limit for the sales and buyers to reach a state.
    pub wait_limit: Duration,
}

/// A sale that a fault opens.
#[derive(Debug, Clone, Copy)]
pub struct FaultSale {
    pub stock: u64,
    pub buyers: usize,
    pub times: Times,
    /// `spec.ordersEverMax`
    pub max_orders: Option<u64>,
}

impl FaultSale {
    /// A sale that opens as soon as it is preheated, with fewer buyers than units.
    pub fn lasting(seconds: u64) -> Self {
        FaultSale {
            stock: 200,
            buyers: 5 * seconds as usize,
            times: Times {
                starts_in: Duration::from_secs(2),
                lasts: Duration::from_secs(seconds),
            },
            max_orders: None,
        }
    }
}

impl RunContext {
    /// Ends a sale early. Returns false if the sale had already ended by itself.
    pub async fn end_sale(&mut self, sale: &str) -> Result<bool> {
        // A sale can't end before it starts: if it is about to start, try again a moment later.
        let mut moved = false;
        for _ in 0..10 {
            moved = self.sales.end_in(sale, Duration::from_secs(2)).await.is_ok();
            let phase = self.sales.status(sale).await?.phase;
            if moved || matches!(phase, Some(Phase::Ended | Phase::Settled)) {
                break;
            }
            self.harness.run_for(Duration::from_secs(1)).await?;
        }
        self.wait_for_phase(sale, &[Phase::Ended, Phase::Settled]).await?;
        self.ended.insert(sale.to_owned(), self.history.now());
        Ok(moved)
    }

    /// Opens a sale for this fault, and starts its buyers. Hold [`RunContext::sale_creation`] if the fault loses what was
    /// created meanwhile.
    pub async fn open_sale(&mut self, kind: &str, sale: FaultSale) -> Result<String> {
        let name = self.create_sale(kind, &sale).await?;
        self.wait_for_phase(&name, &[Phase::Open, Phase::SoldOut]).await?;
        self.start_buyers(&name, &sale);
        Ok(name)
    }

    pub async fn create_sale(&mut self, kind: &str, sale: &FaultSale) -> Result<String> {
        let name = format!("{kind}-{}", self.fault_sales.len() + 1);
        let fields = sale.max_orders.map_or(json!({}), |max| json!({"ordersEverMax": max}));
        self.sales.create_with(&name, sale.stock, sale.times, fields).await?;
        self.fault_sales.push(name.clone());
        self.max_orders.extend(sale.max_orders.map(|max| (name.clone(), max)));
        Ok(name)
    }

    pub fn start_buyers(&mut self, name: &str, sale: &FaultSale) {
        let seed = self.rng.random();
        let buyers = self
            .crowd
            .clone()
            .start_buyers(name.to_owned(), sale.buyers, sale.times.lasts, seed);
        tokio::spawn(buyers);
    }

    /// Returns whether the ledger has the result of a sale within this time.
    pub async fn settles_within(&mut self, sale: &str, limit: Duration) -> Result<bool> {
        let ledger = self.harness.ledger().await?;
        let started = Instant::now();
        while started.elapsed() < limit {
            // MySQL may not answer for a moment.
            let found = ledger.sale_by_name(NAMESPACE, NAMESPACE, sale).await;
            if let Ok(Some(sale)) = found
                && sale.settled_at_ms.is_some()
            {
                return Ok(true);
            }
            self.harness.run_for(Duration::from_millis(200)).await?;
        }
        Ok(false)
    }

    /// Waits for the next buyer of the main sale who wins. Returns how long that took; `None`: longer than the limit.
    pub async fn win_within(&mut self, limit: Duration) -> Result<Option<u64>> {
        let since = self.history.now();
        let started = Instant::now();
        while !self.history.won_since(since) {
            if started.elapsed() > limit {
                return Ok(None);
            }
            self.harness.run_for(Duration::from_millis(20)).await?;
        }
        Ok(Some(self.history.now().saturating_sub(since)))
    }

    pub async fn wait_for_phase(&mut self, sale: &str, phases: &[Phase]) -> Result<()> {
        let sales = self.sales.clone();
        let reached = sales.wait_for_phase(sale, phases, self.wait_limit);
        self.harness.run_until(reached).await.map(drop)
    }
}
