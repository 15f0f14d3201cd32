//! The faults of a run. [`FAULTS`] is the table of them; a new fault is one function in one of the files below, and one
//! row in the table.
//!
//! - [`processes`]: any process is killed or paused
//! - [`promotions`]: Sentinels or a Cluster promote another Redis
//! - [`redis`], [`kafka`], [`mysql`]: what only happens to that server
//! - [`failpoints`]: a program dies or stops at a named place in its code
//! - [`recovery`]: something else goes wrong while an index is lost or rebuilt
//! - [`cluster`]: FlashSales are deleted or lost, or another cluster has none
//! - [`clocks`]: a clock is an hour off
//! - [`clients`]: clients take more than their share
mod clients;
mod clocks;
mod cluster;
mod failpoints;
mod kafka;
mod mysql;
mod processes;
mod promotions;
mod recovery;
mod redis;

use std::pin::Pin;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use self::redis::RedisData;
use crate::context::RunContext;
use crate::harness::Target;
use crate::setup::Topology;

/// The number of brokers with which every fault can be played.
pub const MAX_BROKERS: usize = 3;

/// Injects the fault, undoes it, and says what it did.
type Inject = for<'a> fn(&'a mut RunContext) -> Pin<Box<dyn Future<Output = Result<String>> + 'a>>;

/// One row of the table.
pub struct Fault {
    pub name: &'static str,
    inject: Inject,
    slow: bool,
    pub three_brokers: bool,
    topologies: &'static [Topology],
    /// Why the fault is not played with the other topologies.
    not_elsewhere: &'static str,
}

impl Fault {
    /// The fault takes some 10 s. In a quick run slow faults come last, and may not be played at all.
    const fn slow(self) -> Self {
        Fault { slow: true, ..self }
    }

    /// The fault needs the servers of a run with three brokers of Kafka.
    const fn three_brokers(self) -> Self {
        Fault {
            three_brokers: true,
            ..self
        }
    }

    /// The fault is played with these topologies only, for this reason.
    const fn only(self, topologies: &'static [Topology], not_elsewhere: &'static str) -> Self {
        Fault {
            topologies,
            not_elsewhere,
            ..self
        }
    }

    /// The topology itself finds another primary.
    fn promotes(&self) -> bool {
        !self.topologies.contains(&Topology::Single)
    }

    /// Why the fault is not played with a topology.
    pub fn refused_by(&self, topology: Topology) -> Option<&'static str> {
        (!self.topologies.contains(&topology)).then_some(self.not_elsewhere)
    }

    pub async fn play(&self, run: &mut RunContext) -> Result<String> {
        run.which = run.rng.random_range(0..2);
        (self.inject)(run).await
    }
}

/// A row: the name, the function, and its arguments after the run.
macro_rules! fault {
    ($name:literal, $function:path $(, $argument:expr)*) => {
        Fault {
            name: $name,
            inject: |run| Box::pin($function(run $(, $argument)*)),
            slow: false,
            three_brokers: false,
            topologies: &[Topology::Single, Topology::Sentinel, Topology::Cluster],
            not_elsewhere: "",
        }
    };
}

const SINGLE: &[Topology] = &[Topology::Single];
const PROMOTES: &[Topology] = &[Topology::Sentinel, Topology::Cluster];
const NO_CLUSTER: &[Topology] = &[Topology::Single, Topology::Sentinel];
const NOBODY_PROMOTES: &str = "a single Redis has nobody who promotes its replica";
const CLOCKS: &str = "the nodes of a Cluster find failures by the same clock";

/// The order is part of what a seed means: the plan of a seed is a shuffle of it.
#[rustfmt::skip] // One row a line.
static FAULTS: &[Fault] = &[
    fault!("kill-api", processes::kill, Target::Api),
    fault!("stop-api", processes::pause, Target::Api).slow(),
    fault!("kill-worker", processes::kill, Target::Worker),
    fault!("stop-worker", processes::pause, Target::Worker).slow(),
    fault!("kill-operator", processes::kill, Target::Operator),
    fault!("stop-operator", processes::pause, Target::Operator).slow(),
    fault!("kill-redis", processes::kill, Target::Redis),
    fault!("stop-redis", processes::pause, Target::Redis).slow().only(SINGLE, "the primary that is paused is replaced: primary-hangs-and-returns"),
    fault!("kill-kafka", processes::kill, Target::Kafka),
    fault!("stop-kafka", processes::pause, Target::Kafka).slow(),
    fault!("kill-mysql", processes::kill, Target::Mysql),
    fault!("stop-mysql", processes::pause, Target::Mysql).slow(),
    fault!("redis-restart-aof", redis::restart, RedisData::Aof),
    fault!("redis-restart-truncatedaof", redis::restart, RedisData::TruncatedAof),
    fault!("redis-restart-nothing", redis::restart, RedisData::Nothing),
    fault!("abort-at-api.before-append", failpoints::api_aborts, "api.before-append"),
    fault!("abort-at-api.after-append", failpoints::api_aborts, "api.after-append"),
    fault!("abort-at-api.after-read-back", failpoints::api_aborts, "api.after-read-back"),
    fault!("abort-at-worker.before-transaction", failpoints::worker_aborts, "worker.before-transaction"),
    fault!("abort-at-worker.before-commit", failpoints::worker_aborts, "worker.before-commit"),
    fault!("abort-at-worker.after-commit", failpoints::worker_aborts, "worker.after-commit"),
    fault!("abort-at-relay.before-append", failpoints::relay_aborts, "relay.before-append"),
    fault!("abort-at-relay.after-append", failpoints::relay_aborts, "relay.after-append"),
    fault!("zombie-at-worker.before-transaction", failpoints::worker_outlives_its_session, "worker.before-transaction").slow(),
    fault!("zombie-at-worker.before-commit", failpoints::worker_outlives_its_session, "worker.before-commit").slow(),
    fault!("abort-at-rebuild.r1", recovery::operator_aborts, "rebuild.R1"),
    fault!("abort-at-rebuild.r2", recovery::operator_aborts, "rebuild.R2"),
    fault!("abort-at-rebuild.r3", recovery::operator_aborts, "rebuild.R3"),
    fault!("abort-at-rebuild.r4", recovery::operator_aborts, "rebuild.R4"),
    fault!("abort-at-rebuild.r5", recovery::operator_aborts, "rebuild.R5"),
    fault!("stop-at-rebuild.r1", recovery::operator_outlives_its_lease, "rebuild.R1").slow(),
    fault!("stop-at-rebuild.r2", recovery::operator_outlives_its_lease, "rebuild.R2").slow(),
    fault!("stop-at-rebuild.r3", recovery::operator_outlives_its_lease, "rebuild.R3").slow(),
    fault!("stop-at-rebuild.r4", recovery::operator_outlives_its_lease, "rebuild.R4").slow(),
    fault!("stop-at-rebuild.r5", recovery::operator_outlives_its_lease, "rebuild.R5").slow(),
    fault!("cut-redis", redis::cut_connections),
    fault!("cut-mysql", mysql::cut_connections),
    fault!("flush-all", redis::flush_all),
    fault!("script-flush", redis::flush_scripts),
    fault!("clock-step", redis::step_clock).only(NO_CLUSTER, CLOCKS),
    fault!("failover", redis::fail_over).only(SINGLE, "primary-hands-over takes its place"),
    fault!("kafka-down", kafka::all_brokers_down).slow(),
    fault!("mysql-down", mysql::down).slow(),
    fault!("mysql-killed-in-commit", mysql::killed_before_commit),
    fault!("mysql-loses-its-tail", mysql::lose_tail),
    fault!("worker-zombie", processes::worker_outlives_its_session).slow(),
    fault!("flush-before-install", recovery::flush_before_install),
    fault!("failover-before-install", recovery::failover_before_install),
    fault!("record-behind-barrier", recovery::record_behind_barrier),
    fault!("rebuild-from-log", recovery::rebuild_from_log),
    fault!("sold-and-lost", recovery::sold_and_lost),
    fault!("suspend-during-recovery", recovery::suspend_sale),
    fault!("end-during-recovery", recovery::end_sale),
    fault!("raise-during-recovery", recovery::raise_stock),
    fault!("switchover", redis::switch_over).only(SINGLE, "primary-hands-over takes its place"),
    fault!("redis-hangs-and-returns", redis::hang_and_return).only(SINGLE, "primary-hangs-and-returns takes its place"),
    fault!("redis-gone-at-the-end", redis::gone_at_the_end).slow(),
    fault!("mysql-loses-a-sale", mysql::lose_sale).slow(),
    fault!("operator-of-another-cluster", cluster::other_operator).slow(),
    fault!("flashsale-deleted", cluster::delete_one_and_create_again).slow(),
    fault!("flashsales-deleted", cluster::delete_many_and_create_again).slow(),
    fault!("etcd-restored", cluster::restore_etcd).slow(),
    fault!("operator-clock-ahead", clocks::ahead, Target::Operator).slow(),
    fault!("operator-clock-behind", clocks::behind, Target::Operator).slow(),
    fault!("redis-clock-ahead", clocks::ahead, Target::Redis).slow().only(NO_CLUSTER, CLOCKS),
    fault!("redis-clock-behind", clocks::behind, Target::Redis).slow().only(NO_CLUSTER, CLOCKS),
    fault!("api-misses-failover", recovery::api_misses_failover).slow().only(SINGLE, "one program can't be kept at the old primary"),
    fault!("barrier-lost", recovery::barrier_is_lost).slow(),
    fault!("buy-and-cancel", clients::buy_and_cancel),
    fault!("callers-hang-up", clients::hang_up).only(SINGLE, "its pause of Redis may promote another server"),
    fault!("one-key", clients::share_one_key).slow(),
    fault!("slow-clients", clients::be_slow).slow(),
    fault!("issuer-keys-rotated", clients::rotate_issuer_keys),
    fault!("issuer-away", clients::issuer_is_away).slow(),
    fault!("one-broker-down", kafka::one_broker_down).slow().three_brokers(),
    fault!("below-min-insync", kafka::one_broker_left).slow().three_brokers(),
    fault!("mysql-fails-over", mysql::fail_over).slow().three_brokers(),
    fault!("primary-killed", promotions::kill_primary).only(PROMOTES, NOBODY_PROMOTES),
    fault!("primary-hands-over", promotions::hand_over).only(PROMOTES, NOBODY_PROMOTES),
    fault!("primary-hangs-and-returns", promotions::hang_and_return).only(PROMOTES, NOBODY_PROMOTES),
    fault!("slot-moves", promotions::move_slot).only(&[Topology::Cluster], "only a Cluster has slots"),
];

/// Every fault that can be played with this topology and number of brokers.
pub fn all(topology: Topology, brokers: usize) -> Vec<&'static Fault> {
    let playable =
        |fault: &&Fault| fault.refused_by(topology).is_none() && (!fault.three_brokers || brokers == MAX_BROKERS);
    FAULTS.iter().filter(playable).collect()
}

/// The faults that are not played with this topology, with the reasons.
pub fn left_out(topology: Topology) -> impl Iterator<Item = (&'static str, &'static str)> {
    let refused = move |fault: &'static Fault| Some((fault.name, fault.refused_by(topology)?));
    FAULTS.iter().filter_map(refused)
}

pub fn find(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.name == name)
}

/// The faults of a seed in their order, without end: every fault once, then every fault again. If `only` is not empty,
/// only those. A quick run begins with promotions.
pub fn schedule(
    seed: u64,
    topology: Topology,
    brokers: usize,
    quick: bool,
    only: &[&'static Fault],
) -> impl Iterator<Item = &'static Fault> + use<> {
    let mut rng = StdRng::seed_from_u64(seed);
    let faults = if only.is_empty() {
        all(topology, brokers)
    } else {
        only.to_vec()
    };
    std::iter::from_fn(move || {
        let mut round = faults.clone();
        round.shuffle(&mut rng);
        if quick {
            // The sort is stable.
            round.sort_by_key(|fault| (!fault.promotes(), fault.slow));
        }
        Some(round)
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::ValueEnum as _;

    use super::*;

    fn names(seed: u64, count: usize) -> Vec<&'static str> {
        schedule(seed, Topology::Single, 1, false, &[])
            .take(count)
            .map(|fault| fault.name)
            .collect()
    }

    #[test]
    fn a_seed_decides_the_faults_and_their_order() {
        assert_eq!(names(7, 60), names(7, 60));
        assert_ne!(names(7, 60), names(8, 60));
        let count = all(Topology::Single, 1).len();
        let first: HashSet<_> = names(7, count).into_iter().collect();
        assert_eq!(first.len(), count, "every fault once before any comes again");
    }

    /// A seed that found an error must find it again after the table was edited.
    #[test]
    fn seed_1_plays_the_same_plan_as_ever() {
        let expected = [
            "kill-api",
            "abort-at-rebuild.r3",
            "redis-gone-at-the-end",
            "abort-at-relay.before-append",
            "failover",
            "kill-worker",
        ];
        assert_eq!(names(1, expected.len()), expected);
    }

    #[test]
    fn slow_faults_come_last_in_a_quick_run() {
        let count = all(Topology::Single, 3).len();
        let round: Vec<_> = schedule(1, Topology::Single, 3, true, &[]).take(count).collect();
        assert!(round.is_sorted_by_key(|fault| fault.slow));
    }

    #[test]
    fn promotions_come_first_in_a_quick_run() {
        let mut first: Vec<_> = schedule(1, Topology::Cluster, 1, true, &[])
            .take(4)
            .map(|fault| fault.name)
            .collect();
        first.sort_unstable();
        let expected = [
            "primary-hands-over",
            "primary-hangs-and-returns",
            "primary-killed",
            "slot-moves",
        ];
        assert_eq!(first, expected);
    }

    #[test]
    fn a_fault_that_is_left_out_has_a_reason() {
        for fault in FAULTS {
            for topology in Topology::value_variants() {
                assert_ne!(fault.refused_by(*topology), Some(""), "{}", fault.name);
            }
        }
    }

    #[test]
    fn fault_names_are_unique() {
        let names: HashSet<_> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), FAULTS.len());
    }
}
