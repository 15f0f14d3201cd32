//! Which of several operators acts: the one that holds the release's Lease. The others stand by, connected and ready.
//!
//! It is for quiet and speed, not for safety: any number of operators at once do no harm (see [`crate::rebuild`]), and a
//! leader that was stopped in the middle of a write and wakes after its lease at most wastes an epoch. So there are no
//! fencing tokens; but a leader whose lease may have ended begins nothing more ([`Term::holds`]).
//!
//! The rules are those of client-go, so that the Lease means to other tools what they expect:
//!
//! - No clock is compared with another's. A lease has ended when a candidate has seen it unchanged for its duration, by the
//!   candidate's own monotonic clock. The times in the Lease are for people.
//! - Every write names the version that it goes by, so that of two candidates one wins.
//! - A leader that can't renew stops all its work after two thirds of the lease; the others wait for the whole of it.
//! - A leader that is told to end finishes what is under way, and then gives the lease up.
//!
//! There are crates for this; none that works with our version of kube goes by its own clock alone.
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Resource as _};
use rand::Rng as _;
use seckill_service::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::metrics::Metrics;

/// Within this a leader that is told to end finishes what is under way; what takes longer is the next one's.
const DRAIN: Duration = Duration::from_millis(1500);
/// Giving the lease up is a courtesy: without it the others wait until it ends.
const RELEASE: Duration = Duration::from_secs(2);

/// How long what takes; all of it follows from the duration of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    lease: Duration,
    /// After that long without a renewal a leader steps down.
    deadline: Duration,
    renew_every: Duration,
    /// Candidates look more often than leaders renew: a lease that is given up is taken soon.
    look_every: Duration,
    /// For one call of the API server.
    call: Duration,
}

impl Times {
    /// 15 seconds: renewed every 2, given up after 10, looked at every second.
    pub fn of(lease: Duration) -> Self {
        Times {
            lease,
            deadline: lease * 2 / 3,
            renew_every: lease * 2 / 15,
            look_every: lease / 15,
            call: lease / 3,
        }
    }
}

/// A time of leading.
#[derive(Debug, Clone)]
pub struct Term {
    /// Begins when the leader is told to end: what is under way is finished, nothing new is begun.
    pub ending: Shutdown,
    until: watch::Receiver<Instant>,
}

impl Term {
    /// Whether nobody else can lead yet. After a pause of the whole process this is known before anything else is.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.until.borrow()
    }
}

/// A Lease, and who asks for it.
pub struct Elector {
    pub leases: Api<Lease>,
    pub name: String,
    /// Of this process and no other, ever: a process that begins anew is another candidate.
    pub identity: String,
    pub times: Times,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
}

/// The lease as a candidate knows it; `None`: there is none.
struct Seen {
    spec: Option<LeaseSpec>,
    since: Instant,
}

/// The lease as a leader wrote it last.
struct Held {
    lease: Lease,
    /// Before the write was sent: whoever saw it saw it later.
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

impl CallError {
    /// Somebody else was quicker.
    fn is_conflict(&self) -> bool {
        matches!(self, CallError::Kube(kube::Error::Api(status)) if status.code == 409)
    }

    fn is_not_found(&self) -> bool {
        matches!(self, CallError::Kube(kube::Error::Api(status)) if status.code == 404)
    }
}

/// What came of a renewal.
enum Renewal {
    Done,
    Failed(CallError),
    /// Others may lead by now.
    Deposed(String),
}

impl Elector {
    /// Does the work whenever this process leads, until it is told to end. What is still under way when a term ends is
    /// dropped where it stands. An error: the work ended by itself, which only a panic does.
    pub async fn lead<Work>(&self, shutdown: &Shutdown, work: impl Fn(Term) -> Work) -> anyhow::Result<()>
    where
        Work: Future<Output = ()> + Send + 'static,
    {
        let mut seen = None;
        while let Some(mut held) = self.acquire(&mut seen, shutdown).await {
            if shutdown.is_cancelled() {
                self.release(held).await;
                break;
            }
            let (until, valid) = watch::channel(held.since + self.times.deadline);
            let term = Term {
                ending: Shutdown::new(),
                until: valid,
            };
            self.begins(&held);
            let mut working = JoinSet::new();
            working.spawn(work(term.clone()));
            let (mut lost, mut ended) = (None, None);
            tokio::select! {
                why = self.keep(&mut held, &until) => lost = Some(why),
                finished = working.join_next() => ended = finished,
                () = shutdown.cancelled() => {}
            }
            if lost.is_none() && ended.is_none() {
                term.ending.cancel();
                // It leads until its work has ended.
                tokio::select! {
                    why = self.keep(&mut held, &until) => lost = Some(why),
                    finished = timeout(DRAIN, working.join_next()) => if finished.is_err() {
                        tracing::warn!("what is under way takes too long; the next leader begins it anew");
                    },
                }
            }
            until.send_replace(Instant::now());
            working.shutdown().await;
            self.metrics.follows();
            match lost {
                Some(why) => {
                    tracing::warn!(lease = self.name, identity = self.identity, why, "leads no more");
                    // Whoever holds it now has a whole lease from now on.
                    seen = Some(Seen {
                        spec: held.lease.spec,
                        since: Instant::now(),
                    });
                }
                None => self.release(held).await,
            }
            if let Some(ended) = ended {
                ended?;
                anyhow::bail!("the work of a leader ended by itself");
            }
        }
        Ok(())
    }

    /// Waits until it is this process that leads; `None`: it is told to end.
    async fn acquire(&self, seen: &mut Option<Seen>, shutdown: &Shutdown) -> Option<Held> {
        let mut complaint = None;
        // Never dropped between two calls: a lease that a dying process took would have to be waited for.
        while !shutdown.is_cancelled() {
            match self.try_acquire(seen).await {
                Ok(Some(held)) => return Some(held),
                Ok(None) => complaint = None,
                Err(error) => {
                    self.metrics.lease_failed();
                    let error = error.to_string();
                    if complaint.as_ref() != Some(&error) {
                        tracing::warn!(lease = self.name, error, "the lease can't be had");
                        complaint = Some(error);
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep(jittered(self.times.look_every)) => {}
            }
        }
        None
    }

    async fn try_acquire(&self, seen: &mut Option<Seen>) -> Result<Option<Held>, CallError> {
        let found = self.call(self.leases.get_opt(&self.name)).await?;
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let now = Instant::now();
        let since = match seen {
            Some(seen) if seen.spec == spec => seen.since,
            _ => now,
        };
        let unchanged_for = seen.is_some().then(|| now - since);
        *seen = Some(Seen {
            spec: spec.clone(),
            since,
        });
        if !is_free(spec.as_ref(), unchanged_for, &self.identity, self.times.lease) {
            return Ok(None);
        }
        let since = Instant::now();
        let lease = self.mine(found);
        let written = if lease.metadata.resource_version.is_some() {
            self.call(self.leases.replace(&self.name, &PostParams::default(), &lease))
                .await
        } else {
            self.call(self.leases.create(&PostParams::default(), &lease)).await
        };
        match written {
            Ok(lease) => Ok(Some(Held { lease, since })),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The lease as it is when this process takes it.
    fn mine(&self, found: Option<Lease>) -> Lease {
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

    /// Renews the lease as long as that is possible, and says why it is not any more.
    async fn keep(&self, held: &mut Held, until: &watch::Sender<Instant>) -> String {
        loop {
            let ends = *until.borrow();
            let renewal = async {
                sleep(jittered(self.times.renew_every)).await;
                if Instant::now() >= ends {
                    return None;
                }
                Some(self.renew(held).await)
            };
            match timeout_at(ends, renewal).await {
                Ok(Some(Renewal::Done)) => {
                    until.send_replace(held.since + self.times.deadline);
                }
                Ok(Some(Renewal::Failed(error))) => {
                    self.metrics.lease_failed();
                    tracing::warn!(lease = self.name, %error, "the lease can't be renewed");
                }
                Ok(Some(Renewal::Deposed(why))) => return why,
                Ok(None) | Err(_) => return format!("no renewal for {:?}", self.times.deadline),
            }
        }
    }

    async fn renew(&self, held: &mut Held) -> Renewal {
        let since = Instant::now();
        let lease = self.mine(Some(held.lease.clone()));
        match self
            .call(self.leases.replace(&self.name, &PostParams::default(), &lease))
            .await
        {
            Ok(lease) => {
                *held = Held { lease, since };
                Renewal::Done
            }
            Err(error) if error.is_conflict() => self.look_again(held, error).await,
            Err(error) if error.is_not_found() => Renewal::Deposed("it was deleted".to_owned()),
            Err(error) => Renewal::Failed(error),
        }
    }

    /// Somebody wrote the lease: another holder, or an earlier renewal whose answer was lost, or a person a label.
    async fn look_again(&self, held: &mut Held, conflict: CallError) -> Renewal {
        match self.call(self.leases.get_opt(&self.name)).await {
            Ok(Some(lease)) => match holder(&lease) {
                Some(holder) if holder == self.identity => {
                    held.lease = lease;
                    Renewal::Failed(conflict)
                }
                Some(holder) => Renewal::Deposed(format!("{holder} holds it")),
                None => Renewal::Deposed("it was given up by somebody else".to_owned()),
            },
            Ok(None) => Renewal::Deposed("it was deleted".to_owned()),
            Err(error) => Renewal::Failed(error),
        }
    }

    /// As client-go does it: without a holder, and with a duration that nobody has to wait for.
    async fn release(&self, mut held: Held) {
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
                    // The last renewal may have been dropped before its answer came.
                    Err(error) if error.is_conflict() => match self.look_again(&mut held, error).await {
                        Renewal::Deposed(_) => return Ok(()),
                        Renewal::Done | Renewal::Failed(_) => {}
                    },
                    Err(error) => return Err(error),
                }
            }
        };
        match timeout(RELEASE, released).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, identity = self.identity, "gave the lease up"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "the lease can't be given up"),
            Err(_) => tracing::warn!(lease = self.name, "the lease can't be given up in time"),
        }
    }

    /// Tells it to people: by the log, a metric, and an event of the Lease.
    fn begins(&self, held: &Held) {
        let transitions = held.lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        tracing::info!(lease = self.name, identity = self.identity, transitions, "leads");
        self.metrics.leads();
        let event = Event {
            type_: EventType::Normal,
            reason: "Leads".to_owned(),
            note: Some(format!("{} leads", self.identity)),
            action: "Leads".to_owned(),
            secondary: None,
        };
        let (recorder, lease) = (self.recorder.clone(), held.lease.object_ref(&()));
        // Nothing waits for it.
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &lease).await {
                tracing::warn!(%error, "an event of the lease could not be written");
            }
        });
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
        match timeout(self.times.call, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(CallError::Late(self.times.call)),
        }
    }
}

/// Whether a candidate may take the lease, which it has seen unchanged for so long; `None`: it looks for the first time.
fn is_free(spec: Option<&LeaseSpec>, unchanged_for: Option<Duration>, identity: &str, lease: Duration) -> bool {
    let Some(spec) = spec else {
        // One that was deleted had a leader, who may not know it yet.
        return unchanged_for.is_none_or(|time| time >= lease);
    };
    match spec.holder_identity.as_deref() {
        None | Some("") => true,
        // Its answer was lost when it was taken, or it could not be renewed.
        Some(holder) if holder == identity => true,
        Some(_) => {
            let stated = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
            let duration = stated.map_or(lease, Duration::from_secs);
            unchanged_for.is_some_and(|time| time >= duration)
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1)
}

/// A fifth more or less: processes that began together do not ask together for ever.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    fn free(spec: &LeaseSpec, unchanged_for: Option<u64>) -> bool {
        is_free(Some(spec), unchanged_for.map(Duration::from_secs), "me", LEASE)
    }

    #[test]
    fn a_lease_is_free_when_it_was_seen_unchanged_for_its_duration() {
        let other = held_by("other");
        assert!(!free(&other, None));
        assert!(!free(&other, Some(14)));
        assert!(free(&other, Some(15)));
    }

    #[test]
    fn the_duration_is_the_one_that_its_holder_promised() {
        let mut other = held_by("other");
        other.lease_duration_seconds = Some(30);
        assert!(!free(&other, Some(29)));
        other.lease_duration_seconds = Some(1);
        assert!(free(&other, Some(1)));
        other.lease_duration_seconds = None;
        assert!(!free(&other, Some(14)));
        assert!(free(&other, Some(15)));
    }

    #[test]
    fn the_times_that_stand_in_it_do_not_count() {
        let mut other = held_by("other");
        for at in ["1970-01-01T00:00:00Z", "9000-01-01T00:00:00Z"] {
            other.renew_time = Some(MicroTime(at.parse().expect("a time")));
            assert!(!free(&other, Some(14)));
            assert!(free(&other, Some(15)));
        }
    }

    #[test]
    fn a_lease_without_a_holder_or_of_ones_own_is_free_at_once() {
        for holder in ["", "me"] {
            assert!(free(&held_by(holder), None));
        }
        assert!(free(&LeaseSpec::default(), None));
    }

    #[test]
    fn a_lease_that_was_deleted_is_missing_for_a_while_before_it_is_made_anew() {
        let free = |unchanged_for: Option<u64>| is_free(None, unchanged_for.map(Duration::from_secs), "me", LEASE);
        assert!(free(None));
        assert!(!free(Some(0)));
        assert!(!free(Some(14)));
        assert!(free(Some(15)));
    }

    #[test]
    fn a_leader_gives_up_before_anybody_may_follow() {
        let times = Times::of(LEASE);
        assert_eq!(
            times,
            Times {
                lease: LEASE,
                deadline: Duration::from_secs(10),
                renew_every: Duration::from_secs(2),
                look_every: Duration::from_secs(1),
                call: Duration::from_secs(5),
            }
        );
    }
}
