//! Leader election: of several operators the one that holds the release's Lease acts. The others stand by, connected.
//!
//! The election saves work; it is not needed for safety. Any number of operators at once do no harm (see
//! [`crate::sale::rebuild`]), and a leader that was paused in the middle of a write and wakes after its lease at most wastes
//! an epoch. So there are no fencing tokens; but a leader whose lease may have expired starts nothing more
//! ([`LeadershipTerm::holds`]).
//!
//! The rules are those of client-go (see [`seckill_planner::election`]). In addition:
//!
//! - Every write names the resource version that it is based on, so that one of two candidates wins.
//! - A leader that can't renew stops all its work after two thirds of the lease; the others wait for the whole of it.
//! - At a shutdown the leader finishes the work in progress, and then releases the lease.
//!
//! There are crates for this. None that works with our version of kube relies on its own monotonic clock alone.
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Resource as _};
use rand::Rng as _;
use seckill_planner::election::{ElectionTimes, ObservedLease, may_acquire};
use seckill_service::log_once::FailureLog;
use seckill_service::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::metrics::Metrics;

/// Time limit for the work in progress at a shutdown; the next leader repeats what takes longer.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1500);
/// Releasing the lease is a courtesy: without it the others wait until it expires.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a leader that stepped down does not try to lead again, in durations of the lease.
const STAND_ASIDE_LEASES: u32 = 4;

/// The time from becoming leader to losing or releasing the lease.
#[derive(Debug, Clone)]
pub struct LeadershipTerm {
    /// Cancelled at a shutdown: the work in progress is finished, nothing new is started.
    pub ending: Shutdown,
    until: watch::Receiver<Instant>,
}

impl LeadershipTerm {
    /// Whether nobody else can lead yet. This holds also after a pause of the whole process.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.until.borrow()
    }
}

/// A candidate for a Lease.
pub struct Elector {
    pub leases: Api<Lease>,
    pub name: String,
    /// Unique to this process: a restarted process is another candidate.
    pub identity: String,
    pub times: ElectionTimes,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
}

/// The Lease as a candidate observed it last; `None`: there is none.
struct Observation {
    spec: Option<LeaseSpec>,
    since: Instant,
}

/// The Lease as this leader wrote it last.
struct HeldLease {
    lease: Lease,
    /// Taken before the write was sent: every other candidate observes the write later.
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no response within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

impl CallError {
    /// Somebody else wrote the Lease first.
    fn is_conflict(&self) -> bool {
        matches!(self, CallError::Kube(kube::Error::Api(status)) if status.code == 409)
    }

    fn is_not_found(&self) -> bool {
        matches!(self, CallError::Kube(kube::Error::Api(status)) if status.code == 404)
    }
}

/// The outcome of a renewal.
enum Renewal {
    Done,
    Failed(CallError),
    /// Another candidate may lead by now.
    Lost(String),
}

impl Elector {
    /// Runs `work` whenever this process leads, until the shutdown. Work that is still running when a term ends is dropped
    /// where it stands. Work that ends by itself steps down: this process stands aside, so that another one can lead. An
    /// error means that the work panicked.
    pub async fn lead<Work>(&self, shutdown: &Shutdown, work: impl Fn(LeadershipTerm) -> Work) -> anyhow::Result<()>
    where
        Work: Future<Output = ()> + Send + 'static,
    {
        let mut seen = None;
        while let Some(mut held) = self.acquire(&mut seen, shutdown).await {
            if shutdown.is_cancelled() {
                self.release(held).await;
                break;
            }
            let (until, valid) = watch::channel(held.since + self.times.renew_deadline);
            let term = LeadershipTerm {
                ending: Shutdown::new(),
                until: valid,
            };
            self.announce(&held);
            let mut working = JoinSet::new();
            working.spawn(work(term.clone()));
            let (mut lost, mut ended) = (None, None);
            tokio::select! {
                why = self.keep_renewing(&mut held, &until) => lost = Some(why),
                finished = working.join_next() => ended = finished,
                () = shutdown.cancelled() => {}
            }
            if lost.is_none() && ended.is_none() {
                term.ending.cancel();
                // This process leads until its work has ended.
                tokio::select! {
                    why = self.keep_renewing(&mut held, &until) => lost = Some(why),
                    finished = timeout(DRAIN_TIMEOUT, working.join_next()) => if finished.is_err() {
                        tracing::warn!("draining timed out; the next leader repeats the work in progress");
                    },
                }
            }
            until.send_replace(Instant::now());
            working.shutdown().await;
            self.metrics.lost_leadership();
            match lost {
                Some(why) => {
                    tracing::warn!(
                        lease = self.name,
                        identity = self.identity,
                        reason = why,
                        "lost leadership"
                    );
                    // The present holder of the lease has all of its duration from now on.
                    seen = Some(Observation {
                        spec: held.lease.spec,
                        since: Instant::now(),
                    });
                }
                None => self.release(held).await,
            }
            if let Some(ended) = ended {
                ended?;
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = sleep(self.times.lease * STAND_ASIDE_LEASES) => {}
                }
            }
        }
        Ok(())
    }

    /// Waits until this process leads; `None`: shutdown.
    async fn acquire(&self, seen: &mut Option<Observation>, shutdown: &Shutdown) -> Option<HeldLease> {
        let mut failures = FailureLog::changes();
        // Never dropped between two calls: others would have to wait for a lease that a dying process took.
        while !shutdown.is_cancelled() {
            match self.try_acquire(seen).await {
                Ok(Some(held)) => return Some(held),
                Ok(None) => _ = failures.succeeded(),
                Err(error) => {
                    self.metrics.lease_failed();
                    if failures.failed(&error) {
                        tracing::warn!(lease = self.name, %error, "failed to acquire lease");
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep(jittered(self.times.retry_interval)) => {}
            }
        }
        None
    }

    async fn try_acquire(&self, seen: &mut Option<Observation>) -> Result<Option<HeldLease>, CallError> {
        let found = self.call(self.leases.get_opt(&self.name)).await?;
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let now = Instant::now();
        let since = match seen {
            Some(seen) if seen.spec == spec => seen.since,
            _ => now,
        };
        let unchanged_for = seen.is_some().then(|| now - since);
        *seen = Some(Observation {
            spec: spec.clone(),
            since,
        });
        let last = spec.as_ref().map(observed);
        if !may_acquire(last.as_ref(), unchanged_for, &self.identity, self.times.lease) {
            return Ok(None);
        }
        let since = Instant::now();
        let lease = self.with_me_as_holder(found);
        let written = if lease.metadata.resource_version.is_some() {
            self.call(self.leases.replace(&self.name, &PostParams::default(), &lease))
                .await
        } else {
            self.call(self.leases.create(&PostParams::default(), &lease)).await
        };
        match written {
            Ok(lease) => Ok(Some(HeldLease { lease, since })),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The Lease with this process as its holder.
    fn with_me_as_holder(&self, found: Option<Lease>) -> Lease {
        let Lease { metadata, spec } = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let before = spec.unwrap_or_default();
        let taken_over = before.holder_identity.as_deref() != Some(self.identity.as_str());
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(seconds(self.times.lease)),
                acquire_time: if taken_over {
                    Some(now.clone())
                } else {
                    before.acquire_time
                },
                renew_time: Some(now),
                lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(taken_over)),
                ..before
            }),
        }
    }

    /// Renews the lease as long as possible; returns why the leadership was lost.
    async fn keep_renewing(&self, held: &mut HeldLease, until: &watch::Sender<Instant>) -> String {
        loop {
            let ends = *until.borrow();
            let renewal = async {
                sleep(jittered(self.times.renew_interval)).await;
                if Instant::now() >= ends {
                    return None;
                }
                Some(self.renew(held).await)
            };
            match timeout_at(ends, renewal).await {
                Ok(Some(Renewal::Done)) => {
                    until.send_replace(held.since + self.times.renew_deadline);
                }
                Ok(Some(Renewal::Failed(error))) => {
                    self.metrics.lease_failed();
                    tracing::warn!(lease = self.name, %error, "failed to renew lease");
                }
                Ok(Some(Renewal::Lost(why))) => return why,
                Ok(None) | Err(_) => return format!("no renewal for {:?}", self.times.renew_deadline),
            }
        }
    }

    async fn renew(&self, held: &mut HeldLease) -> Renewal {
        let since = Instant::now();
        let lease = self.with_me_as_holder(Some(held.lease.clone()));
        match self
            .call(self.leases.replace(&self.name, &PostParams::default(), &lease))
            .await
        {
            Ok(lease) => {
                *held = HeldLease { lease, since };
                Renewal::Done
            }
            Err(error) if error.is_conflict() => self.resolve_conflict(held, error).await,
            Err(error) if error.is_not_found() => Renewal::Lost("the Lease was deleted".to_owned()),
            Err(error) => Renewal::Failed(error),
        }
    }

    /// Somebody wrote the Lease: another holder, an earlier renewal whose response was lost, or a person who added a label.
    async fn resolve_conflict(&self, held: &mut HeldLease, conflict: CallError) -> Renewal {
        match self.call(self.leases.get_opt(&self.name)).await {
            Ok(Some(lease)) => match holder(&lease) {
                Some(holder) if holder == self.identity => {
                    held.lease = lease;
                    Renewal::Failed(conflict)
                }
                Some(holder) => Renewal::Lost(format!("{holder} holds the Lease")),
                None => Renewal::Lost("somebody else released the Lease".to_owned()),
            },
            Ok(None) => Renewal::Lost("the Lease was deleted".to_owned()),
            Err(error) => Renewal::Failed(error),
        }
    }

    /// As client-go does it: no holder, and a duration of one second, so that nobody has to wait.
    async fn release(&self, mut held: HeldLease) {
        let released = async {
            loop {
                let mut lease = held.lease.clone();
                let spec = lease.spec.get_or_insert_default();
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(Timestamp::now()));
                match self
                    .call(self.leases.replace(&self.name, &PostParams::default(), &lease))
                    .await
                {
                    Ok(_) => return Ok(()),
                    // The last renewal may have been dropped before its response arrived.
                    Err(error) if error.is_conflict() => match self.resolve_conflict(&mut held, error).await {
                        Renewal::Lost(_) => return Ok(()),
                        Renewal::Done | Renewal::Failed(_) => {}
                    },
                    Err(error) => return Err(error),
                }
            }
        };
        match timeout(RELEASE_TIMEOUT, released).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, identity = self.identity, "released lease"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "failed to release lease"),
            Err(_) => tracing::warn!(lease = self.name, "timed out releasing lease"),
        }
    }

    /// Announces the leadership by the log, a metric, and an event of the Lease.
    fn announce(&self, held: &HeldLease) {
        let transitions = held.lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        tracing::info!(
            lease = self.name,
            identity = self.identity,
            transitions,
            "became leader"
        );
        self.metrics.became_leader();
        let event = Event {
            type_: EventType::Normal,
            reason: "Leads".to_owned(),
            note: Some(format!("{} became leader", self.identity)),
            action: "Leads".to_owned(),
            secondary: None,
        };
        let (recorder, lease) = (self.recorder.clone(), held.lease.object_ref(&()));
        // Nothing waits for it.
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &lease).await {
                tracing::warn!(%error, "failed to write an event of the Lease");
            }
        });
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
        match timeout(self.times.call_timeout, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(CallError::Timeout(self.times.call_timeout)),
        }
    }
}

/// The part of a Lease that a candidate decides by.
fn observed(spec: &LeaseSpec) -> ObservedLease {
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
    ObservedLease {
        holder: spec.holder_identity.clone(),
        duration: seconds.map(Duration::from_secs),
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1)
}

/// A fifth more or less, so that processes that started together do not stay in step.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_inside_a_lease_do_not_count() {
        let mut spec = LeaseSpec {
            holder_identity: Some("other".to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        for at in ["1970-01-01T00:00:00Z", "9000-01-01T00:00:00Z"] {
            spec.renew_time = Some(MicroTime(at.parse().expect("a time")));
            let may = |seconds| {
                let unchanged_for = Some(Duration::from_secs(seconds));
                may_acquire(Some(&observed(&spec)), unchanged_for, "me", Duration::from_secs(30))
            };
            assert!(!may(14));
            assert!(may(15));
        }
    }
}
