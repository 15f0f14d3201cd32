//! When an operator may take the lease of its release. The rules are those of client-go, so that the Lease means to other
//! tools what they expect.
//!
//! No clock is compared with another's: a lease has expired when a candidate has observed it unchanged for its duration,
//! by the candidate's own monotonic clock. The times inside the Lease are for people.
use std::time::Duration;

/// The durations of an election; all of them follow from the duration of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionTimes {
    pub lease: Duration,
    /// A leader steps down after this time without a renewal.
    pub renew_deadline: Duration,
    pub renew_interval: Duration,
    /// Candidates check more often than leaders renew, so that a released lease is taken soon.
    pub retry_interval: Duration,
    /// Time limit for one call to the API server.
    pub call_timeout: Duration,
}

impl ElectionTimes {
    /// Of 15 seconds: renewed every 2, given up after 10, checked every second.
    pub fn of(lease: Duration) -> Self {
        ElectionTimes {
            lease,
            renew_deadline: lease * 2 / 3,
            renew_interval: lease * 2 / 15,
            retry_interval: lease / 15,
            call_timeout: lease / 3,
        }
    }
}

/// What a Lease says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLease {
    /// `None` or empty: nobody.
    pub holder: Option<String>,
    /// The duration that its holder stated.
    pub duration: Option<Duration>,
}

/// Whether a candidate may take the lease. `observed` is `None` if there is no Lease. `unchanged_for` is how long the
/// candidate has observed the Lease unchanged; `None`: this is its first observation.
pub fn may_acquire(
    observed: Option<&ObservedLease>,
    unchanged_for: Option<Duration>,
    identity: &str,
    lease: Duration,
) -> bool {
    let Some(observed) = observed else {
        // A deleted Lease had a leader, who may not know it yet.
        return unchanged_for.is_none_or(|time| time >= lease);
    };
    match observed.holder.as_deref() {
        None | Some("") => true,
        // The answer to its own write was lost, or the lease could not be renewed.
        Some(holder) if holder == identity => true,
        Some(_) => unchanged_for.is_some_and(|time| time >= observed.duration.unwrap_or(lease)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn held_by(holder: &str) -> ObservedLease {
        ObservedLease {
            holder: Some(holder.to_owned()),
            duration: Some(LEASE),
        }
    }

    fn may(observed: &ObservedLease, unchanged_for: Option<u64>) -> bool {
        may_acquire(Some(observed), unchanged_for.map(Duration::from_secs), "me", LEASE)
    }

    #[test]
    fn a_lease_expires_when_it_was_unchanged_for_its_duration() {
        let other = held_by("other");
        assert!(!may(&other, None));
        assert!(!may(&other, Some(14)));
        assert!(may(&other, Some(15)));
    }

    #[test]
    fn the_duration_is_the_one_that_its_holder_stated() {
        let mut other = held_by("other");
        other.duration = Some(Duration::from_secs(30));
        assert!(!may(&other, Some(29)));
        other.duration = Some(Duration::from_secs(1));
        assert!(may(&other, Some(1)));
        other.duration = None;
        assert!(!may(&other, Some(14)));
        assert!(may(&other, Some(15)));
    }

    #[test]
    fn a_lease_without_a_holder_or_of_ones_own_is_free_at_once() {
        for holder in ["", "me"] {
            assert!(may(&held_by(holder), None));
        }
        let nobody = ObservedLease {
            holder: None,
            duration: None,
        };
        assert!(may(&nobody, None));
    }

    #[test]
    fn a_deleted_lease_must_be_missing_for_its_duration() {
        let may = |unchanged_for: Option<u64>| may_acquire(None, unchanged_for.map(Duration::from_secs), "me", LEASE);
        assert!(may(None));
        assert!(!may(Some(0)));
        assert!(!may(Some(14)));
        assert!(may(Some(15)));
    }

    #[test]
    fn a_leader_steps_down_before_anybody_may_follow() {
        let times = ElectionTimes::of(LEASE);
        let expected = ElectionTimes {
            lease: LEASE,
            renew_deadline: Duration::from_secs(10),
            renew_interval: Duration::from_secs(2),
            retry_interval: Duration::from_secs(1),
            call_timeout: Duration::from_secs(5),
        };
        assert_eq!(times, expected);
    }
}
