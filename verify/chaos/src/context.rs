//! What a fault may change while the run goes on, and what the checker has to know of it.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use seckill_crds::Phase;
use tokio::sync::Mutex;

use crate::evidence::{ClockStep, Suspension};
use crate::flash_sales::FlashSales;
use crate::harness::Harness;
use crate::history::{At, History};

pub struct RunContext {
    pub harness: Harness,
    pub sales: Arc<FlashSales>,
    pub history: History,
    /// Everything random in a fault comes from here, so that a seed plays the same plan again.
    pub rng: StdRng,
    /// Which of two equal processes a fault hits, 0 or 1. It is drawn anew for each fault.
    pub which: usize,
    /// The short sale that sells now, beside the main one.
    pub current_sale: Arc<Mutex<String>>,
    /// Held while a sale is created.
    pub sale_creation: Arc<Mutex<()>>,
    pub suspensions: Vec<Suspension>,
    pub clock_steps: Vec<ClockStep>,
    /// Sales whose end was moved while they sold, and when the new end had surely taken effect.
    pub ended: HashMap<String, At>,
    /// Time limit for the sales and buyers to reach a state.
    pub wait_limit: Duration,
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

    pub async fn wait_for_phase(&mut self, sale: &str, phases: &[Phase]) -> Result<()> {
        let sales = self.sales.clone();
        let reached = sales.wait_for_phase(sale, phases, self.wait_limit);
        self.harness.run_until(reached).await.map(drop)
    }
}
