//! The open loop: starts each buyer at its scheduled time.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::answer::Counts;
use crate::buyer::buy;
use crate::connections::Connections;
use crate::latency::Quantiles;
use crate::outcome::{Outcome, RunTotals, Tally};
use crate::permits::Permits;
use crate::plan::{InvalidPlan, Plan};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Open files besides the connections.
const OTHER_OPEN_FILES: u64 = 64;

/// A run that could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Plan(#[from] InvalidPlan),
    #[error(
        "{wanted} requests in flight need {needed} open files, but only {allowed} are allowed; raise the limit (ulimit -n \
         {needed}) or use a smaller --in-flight"
    )]
    OpenFiles { wanted: usize, allowed: u64, needed: u64 },
    #[error("failed to raise the limit of open files: {0}")]
    Limit(#[from] std::io::Error),
    #[error("histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
}

/// The progress of a run.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub buyers: u64,
    pub arrived: u64,
    pub in_flight: u64,
    pub counts: Counts,
    /// The time from sending to the answer, of the answers since the last progress. All zero: there were none.
    pub recent: Quantiles,
}

struct RunState {
    plan: Plan,
    connections: Connections,
    permits: Permits,
    arrived: AtomicU64,
    tally: Mutex<Tally>,
}

/// Runs the plan until each buyer has a final answer or gave up. `progress` is called a few times per second and once at
/// the end.
pub async fn run(plan: Plan, mut progress: impl FnMut(Progress)) -> Result<Outcome, LoadError> {
    plan.validate()?;
    raise_open_file_limit(plan.in_flight)?;
    let schedule = plan.arrival.schedule(plan.buyers, &mut rand::rng());
    let state = Arc::new(RunState {
        connections: Connections::to(plan.target.clone()),
        permits: Permits::new(plan.in_flight),
        arrived: AtomicU64::new(0),
        tally: Mutex::new(Tally::new()?),
        plan,
    });

    let started_at = Timestamp::now();
    let start = Instant::now();
    let mut tick = interval(PROGRESS_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut arrivals = std::pin::pin!(spawn_buyers(&state, schedule, start));
    loop {
        tokio::select! {
            _ = tick.tick() => progress(state.progress()),
            () = &mut arrivals => break,
        }
    }
    let took = start.elapsed();
    progress(state.progress());
    Ok(state.tally().finish(RunTotals {
        connections: state.connections.opened(),
        peak_in_flight: state.permits.peak() as u64,
        started_at,
        last_answer_at: Timestamp::now(),
        took,
    }))
}

/// Each buyer is a task from its arrival on. Buyers wait for each other only for a permit.
async fn spawn_buyers(state: &Arc<RunState>, schedule: Vec<Duration>, start: Instant) {
    let mut buyers = JoinSet::new();
    for (number, after) in schedule.into_iter().enumerate() {
        let scheduled = start + after;
        if scheduled > Instant::now() {
            sleep_until(scheduled).await;
        }
        state.arrived.fetch_add(1, Ordering::Relaxed);
        let buyer_state = Arc::clone(state);
        buyers.spawn(async move {
            let RunState {
                plan,
                connections,
                permits,
                ..
            } = &*buyer_state;
            let result = buy(plan, connections, permits, number, scheduled).await;
            buyer_state.tally().add(result, start.elapsed());
        });
        while let Some(done) = buyers.try_join_next() {
            state.count_failed_task(done);
        }
    }
    while let Some(done) = buyers.join_next().await {
        state.count_failed_task(done);
    }
}

impl RunState {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buyer whose task failed still counts as a buyer.
    fn count_failed_task(&self, done: Result<(), tokio::task::JoinError>) {
        if let Err(error) = done {
            self.tally().add_failed(format!("the load generator failed: {error}"));
        }
    }

    fn progress(&self) -> Progress {
        let mut tally = self.tally();
        Progress {
            buyers: self.plan.buyers.into(),
            arrived: self.arrived.load(Ordering::Relaxed),
            in_flight: self.permits.in_use() as u64,
            counts: tally.counts,
            recent: tally.recent().from_send,
        }
    }
}

fn raise_open_file_limit(in_flight: usize) -> Result<(), LoadError> {
    let needed = in_flight as u64 + OTHER_OPEN_FILES;
    let (allowed, _) = rlimit::Resource::NOFILE.get()?;
    if allowed >= needed {
        return Ok(());
    }
    match rlimit::increase_nofile_limit(needed)? {
        raised if raised >= needed => Ok(()),
        raised => Err(LoadError::OpenFiles {
            wanted: in_flight,
            allowed: raised,
            needed,
        }),
    }
}
