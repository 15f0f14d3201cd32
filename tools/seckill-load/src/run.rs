//! The open loop.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::answer::Counts;
use crate::buyer::buy;
use crate::connections::Connections;
use crate::outcome::{Facts, Outcome, Tally};
use crate::places::Places;
use crate::plan::{InvalidPlan, Plan};

/// How often the progress is told.
const TICK: Duration = Duration::from_millis(200);

/// Files that a process has open besides its connections.
const OTHER_FILES: u64 = 64;

/// A run that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Plan(#[from] InvalidPlan),
    #[error(
        "{wanted} requests in flight need as many open files, and {allowed} are allowed; raise it (ulimit -n {needed}) \
         or ask for fewer in flight"
    )]
    OpenFiles { wanted: usize, allowed: u64, needed: u64 },
    #[error("the limit of open files can't be raised: {0}")]
    Limit(#[from] std::io::Error),
    #[error("histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub buyers: u64,
    pub arrived: u64,
    pub in_flight: u64,
    pub counts: Counts,
}

struct Shared {
    plan: Plan,
    connections: Connections,
    places: Places,
    arrived: AtomicU64,
    tally: Mutex<Tally>,
}

/// Lets the buyers of the plan arrive, and waits until each knows where it stands or has given up. `progress` hears
/// of it a few times a second and once at the end.
pub async fn run(plan: Plan, mut progress: impl FnMut(Progress)) -> Result<Outcome, LoadError> {
    plan.check()?;
    allow_open_files(plan.in_flight)?;
    let schedule = plan.arrival.schedule(plan.buyers, &mut rand::rng());
    let shared = Arc::new(Shared {
        connections: Connections::to(plan.target.clone()),
        places: Places::new(plan.in_flight),
        arrived: AtomicU64::new(0),
        tally: Mutex::new(Tally::new()?),
        plan,
    });

    let started_at = Timestamp::now();
    let start = Instant::now();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut arrivals = std::pin::pin!(let_arrive(&shared, schedule, start));
    loop {
        tokio::select! {
            _ = tick.tick() => progress(shared.progress()),
            () = &mut arrivals => break,
        }
    }
    let took = start.elapsed();
    progress(shared.progress());
    Ok(shared.tally().finish(Facts {
        connections: shared.connections.opened(),
        peak_in_flight: shared.places.peak() as u64,
        started_at,
        last_answer_at: Timestamp::now(),
        took,
    }))
}

/// Each buyer is a task of its own from its arrival on: none waits for another, except for a place in flight.
async fn let_arrive(shared: &Arc<Shared>, schedule: Vec<Duration>, start: Instant) {
    let mut buyers = JoinSet::new();
    for (number, after) in schedule.into_iter().enumerate() {
        let scheduled = start + after;
        if scheduled > Instant::now() {
            sleep_until(scheduled).await;
        }
        shared.arrived.fetch_add(1, Ordering::Relaxed);
        let of_buyer = Arc::clone(shared);
        buyers.spawn(async move {
            let Shared {
                plan,
                connections,
                places,
                ..
            } = &*of_buyer;
            let settled = buy(plan, connections, places, number, scheduled).await;
            of_buyer.tally().add(settled, start.elapsed());
        });
        while let Some(done) = buyers.try_join_next() {
            shared.note_lost(done);
        }
    }
    while let Some(done) = buyers.join_next().await {
        shared.note_lost(done);
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buyer whose task broke is no buyer that can be left out of the count.
    fn note_lost(&self, done: Result<(), tokio::task::JoinError>) {
        if let Err(error) = done {
            self.tally().add_lost(format!("the load generator failed: {error}"));
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            buyers: self.plan.buyers.into(),
            arrived: self.arrived.load(Ordering::Relaxed),
            in_flight: self.places.taken() as u64,
            counts: self.tally().counts,
        }
    }
}

fn allow_open_files(in_flight: usize) -> Result<(), LoadError> {
    let needed = in_flight as u64 + OTHER_FILES;
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
