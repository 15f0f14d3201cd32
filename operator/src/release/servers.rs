//! What could spoil a sale, found and said with its fix before it opens.
//!
//! The servers are looked at every ten seconds, once for all sales ([`run`]). What that means for one of them is a pure
//! function ([`check`]).
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seckill_ledger::LedgerError;
use seckill_order_log::TopicFacts;
use seckill_protocol::Offset;
use seckill_stock::{BYTES_A_UNIT, ServerSettings};
use tokio::sync::watch;

use crate::args::TopicArgs;
use crate::error::OperatorError;
use crate::facts::{Millis, Wanted};
use crate::run::Operator;
use crate::scale::Workloads;

const EVERY: Duration = Duration::from_secs(10);
/// What a server said last counts for so long when it does not answer.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Records that have been in the log for longer, and are not in the ledger, are late.
const LATE: Duration = Duration::from_secs(30);
/// The sale opens and ends by the clock of Redis, and the pods are there by ours.
const CLOCKS_APART_MS: u64 = 500;
/// The log is kept at least that long after the end of a sale: a ledger that was restored from a backup reads it again.
const KEPT_AFTER_END: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a server told; an error says why it is not known.
type Told<T> = Result<T, String>;

/// The servers as they were seen last.
#[derive(Debug, Clone, PartialEq)]
pub struct Servers {
    pub redis: Told<ServerSettings>,
    pub topic: Told<TopicFacts>,
    /// What is wrong with the ledger.
    pub ledger: Told<Option<String>>,
    /// The partitions whose records are late in the ledger.
    pub late: Told<Vec<u32>>,
    pub expected: TopicArgs,
}

/// What the preflight of a sale found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What could spoil the sale, each with its fix.
    pub problems: Vec<String>,
    /// What could not be checked, or is not in place yet, and why.
    pub unknown: Vec<String>,
    /// What is worth a thought, and spoils nothing.
    pub advice: Vec<String>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.problems.is_empty() && self.unknown.is_empty()
    }
}

/// Checks what a sale goes by, whose records are in this partition.
pub fn check(servers: &Servers, workloads: &Workloads, wanted: &Wanted, part: u32, now: Millis) -> Verdict {
    let mut verdict = Verdict::default();
    let mut known = |what: &str, why: &str| verdict.unknown.push(format!("{what} could not be checked: {why}"));
    if let Err(why) = &servers.redis {
        known("Redis", why);
    }
    if let Err(why) = &servers.topic {
        known("the order log", why);
    }
    if let Err(why) = &servers.ledger {
        known("MySQL", why);
    }
    if let Err(why) = &servers.late {
        known("whether order-worker keeps up", why);
    }
    if let Ok(redis) = &servers.redis {
        check_redis(&mut verdict, redis, wanted, now);
    }
    if let Ok(topic) = &servers.topic {
        check_topic(&mut verdict, topic, &servers.expected, wanted);
    }
    if let Ok(Some(problem)) = &servers.ledger {
        verdict.problems.push(format!("MySQL: {problem}"));
    }
    if servers.late.as_ref().is_ok_and(|late| late.contains(&part)) {
        verdict.problems.push(format!(
            "order-worker is more than {} s behind the log in partition {part}: see its pods and their log",
            LATE.as_secs()
        ));
    }
    for workload in [&workloads.api, &workloads.worker].into_iter().flatten() {
        if workload.ready > 0 || now < wanted.preheat_at() {
            continue;
        }
        let missing = format!("no pod of {} is ready: `kubectl describe pod` says why", workload.name);
        match now < wanted.starts_at() {
            // They are started in the lead time.
            true => verdict.unknown.push(missing),
            false => verdict.problems.push(missing),
        }
    }
    verdict
}

fn check_redis(verdict: &mut Verdict, redis: &ServerSettings, wanted: &Wanted, now: Millis) {
    if redis.eviction != "noeviction" {
        verdict.problems.push(format!(
            "Redis has maxmemory-policy {}, and would drop stock when its memory is full: set it to noeviction",
            redis.eviction
        ));
    }
    let units = u64::try_from(wanted.spec.stock).unwrap_or_default();
    let needed = units.saturating_mul(BYTES_A_UNIT);
    let free = redis.max_memory.saturating_sub(redis.used_memory);
    // What is sold takes its memory by and by.
    if redis.max_memory > 0 && free < needed && now < wanted.starts_at() {
        verdict.problems.push(format!(
            "Redis has less memory free than {units} orders take (about {} MiB): raise its maxmemory, or offer less",
            needed.div_ceil(1 << 20)
        ));
    }
    if redis.persistence_fails {
        verdict.problems.push(
            "Redis could not write its snapshot or append-only file, and by default refuses writes then: make room on \
             its disk, or switch persistence off (`save \"\"`, `appendonly no`), for the index is rebuilt from the log"
                .to_owned(),
        );
    }
    if redis.append_only_file {
        verdict.advice.push(
            "Redis keeps an append-only file, which it reads before it answers after a restart; without it the index is \
             back sooner, from the log (`appendonly no`)"
                .to_owned(),
        );
    }
    // By as much as the round trip took it may be a mistake.
    let apart = redis.clock_ahead_ms.unsigned_abs();
    if apart > CLOCKS_APART_MS + redis.round_trip_ms {
        let (seconds, side) = (
            apart.div_ceil(1000),
            if redis.clock_ahead_ms > 0 { "ahead of" } else { "behind" },
        );
        verdict.problems.push(format!(
            "the clock of Redis, by which sales open and end, is up to {seconds} s {side} the operator's: let NTP set \
             both"
        ));
    }
}

fn check_topic(verdict: &mut Verdict, topic: &TopicFacts, expected: &TopicArgs, wanted: &Wanted) {
    let mut problem = |problem: String| verdict.problems.push(problem);
    if topic.replication < expected.topic_replication {
        problem(format!(
            "a partition of the order log has {} replicas, and the release expects {}: reassign its partitions \
             (kafka-reassign-partitions.sh)",
            topic.replication, expected.topic_replication
        ));
    }
    if topic.min_insync < expected.topic_min_insync {
        problem(format!(
            "the order log has min.insync.replicas={}, and the release expects {}: orders that were answered could be \
             lost with a broker; set it with kafka-configs.sh",
            topic.min_insync, expected.topic_min_insync
        ));
    }
    if topic.min_insync > topic.replication {
        problem(format!(
            "the order log has min.insync.replicas={} and {} replicas, so nothing can be written: lower the first or \
             add replicas",
            topic.min_insync, topic.replication
        ));
    }
    if topic.cleanup_policy.contains("compact") {
        problem("the order log has cleanup.policy=compact, which removes orders: set it to delete".to_owned());
    }
    if topic.unclean_election {
        problem(
            "the order log has unclean.leader.election.enable=true, by which orders that were answered can be lost: set \
             it to false"
                .to_owned(),
        );
    }
    let lasts = wanted.ends_at().saturating_sub(wanted.preheat_at());
    let kept = Duration::from_millis(lasts) + KEPT_AFTER_END;
    if u64::try_from(topic.retention_ms).is_ok_and(|ms| u128::from(ms) < kept.as_millis()) {
        problem(format!(
            "the order log keeps records for retention.ms={}, and this sale wants them for {} days, until {} days \
             after its end: set it to -1, or to more",
            topic.retention_ms,
            kept.as_secs().div_ceil(24 * 3600),
            KEPT_AFTER_END.as_secs() / (24 * 3600)
        ));
    }
    if topic.retention_bytes >= 0 {
        problem(format!(
            "the order log has retention.bytes={}, and would drop orders when a partition outgrows it: set it to -1",
            topic.retention_bytes
        ));
    }
    if topic.replication == 1 && expected.topic_replication == 1 {
        verdict
            .advice
            .push("the order log has one replica: when that broker's disk is lost, so are the orders".to_owned());
    } else if topic.min_insync == topic.replication {
        verdict.advice.push(
            "the order log needs all its replicas to be there: selling stops while one broker is down".to_owned(),
        );
    }
    let workers = wanted.spec.demand.as_ref().and_then(|demand| demand.worker_replicas);
    let workers = u32::try_from(workers.unwrap_or_default()).unwrap_or_default();
    if workers > topic.partitions {
        verdict.advice.push(format!(
            "spec.demand.workerReplicas is {workers}, and the order log has {} partitions: more workers than those have \
             nothing to do",
            topic.partitions
        ));
    }
}

/// Since when the ledger has had records before it that it has not read, by partition.
#[derive(Debug, Default)]
struct Backlog(HashMap<u32, (Offset, Instant)>);

impl Backlog {
    /// Whether records that were in the log [`LATE`] ago are not in the ledger.
    fn is_late(&mut self, part: u32, position: Offset, end: Offset, now: Instant) -> bool {
        let (waited_for, since) = *self.0.entry(part).or_insert((end, now));
        if position >= waited_for {
            self.0.insert(part, (end, now));
            return false;
        }
        now.saturating_duration_since(since) > LATE
    }
}

/// A server's last answer, for as long as it counts.
struct Last<T>(Option<(T, Instant)>);

impl<T: Clone> Last<T> {
    fn told(&mut self, answer: Result<T, OperatorError>) -> Told<T> {
        match answer {
            Ok(told) => {
                self.0 = Some((told.clone(), Instant::now()));
                Ok(told)
            }
            Err(error) => match &self.0 {
                Some((told, at)) if at.elapsed() < REMEMBERED => Ok(told.clone()),
                _ => Err(error.to_string()),
            },
        }
    }
}

/// Runs until the term ends.
pub async fn run(operator: Arc<Operator>, seen: watch::Sender<Option<Arc<Servers>>>) {
    let (mut redis, mut topic, mut ledger, mut late) = (Last(None), Last(None), Last(None), Last(None));
    let mut backlog = Backlog::default();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let answers = tokio::join!(
            async { Ok(operator.stock.settings().await?) },
            async { Ok(operator.log.topic_facts().await?) },
            operator.ledger_problem(),
            operator.late_partitions(&mut backlog),
        );
        let servers = Servers {
            redis: redis.told(answers.0),
            topic: topic.told(answers.1),
            ledger: ledger.told(answers.2),
            late: late.told(answers.3),
            expected: operator.topic.clone(),
        };
        seen.send_replace(Some(Arc::new(servers)));
    }
}

impl Operator {
    async fn ledger_problem(&self) -> Result<Option<String>, OperatorError> {
        for checked in [self.ledger.check_schema().await, self.ledger.check_writable().await] {
            match checked {
                Ok(()) => {}
                Err(problem @ LedgerError::SchemaBehind { .. }) => return Ok(Some(problem.to_string())),
                Err(LedgerError::NotWritable(why)) => {
                    return Ok(Some(format!(
                        "it takes no writes ({why}): lead --mysql-url to the primary, end read_only, or grant the right"
                    )));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    async fn late_partitions(&self, backlog: &mut Backlog) -> Result<Vec<u32>, OperatorError> {
        let mut ends = Vec::new();
        for part in 0..self.log.partitions() {
            ends.push((part, self.log.end_offset(part).await?));
        }
        let positions: HashMap<u32, Offset> = self.ledger.positions().await?.into_iter().collect();
        let now = Instant::now();
        ends.retain(|(part, end)| {
            let position = positions.get(part).copied().unwrap_or_default();
            backlog.is_late(*part, position, *end, now)
        });
        Ok(ends.into_iter().map(|(part, _)| part).collect())
    }
}

#[cfg(test)]
pub mod tests {
    use seckill_crds::FlashSaleSpec;

    use super::*;
    use crate::memory::Key;
    use crate::scale::{Needs, Workload};

    const DAY_MS: i64 = 24 * 3600 * 1000;

    /// Servers of which nothing is to be said.
    pub fn right() -> Servers {
        Servers {
            redis: Ok(ServerSettings {
                eviction: "noeviction".into(),
                max_memory: 0,
                used_memory: 1 << 20,
                persistence_fails: false,
                append_only_file: false,
                clock_ahead_ms: -3,
                round_trip_ms: 1,
            }),
            topic: Ok(TopicFacts {
                partitions: 8,
                replication: 3,
                min_insync: 2,
                retention_ms: -1,
                retention_bytes: -1,
                cleanup_policy: "delete".into(),
                unclean_election: false,
            }),
            ledger: Ok(None),
            late: Ok(Vec::new()),
            expected: TopicArgs {
                topic_replication: 3,
                topic_min_insync: 2,
            },
        }
    }

    fn wanted() -> Wanted {
        let spec: FlashSaleSpec = serde_json::from_value(serde_json::json!({
            "item": {"sku": "s", "name": "n", "price": "1.00", "currency": "EUR"},
            "stock": 1_000_000,
            "startsAt": "2026-11-28T10:00:00Z",
            "endsAt": "2026-11-28T12:00:00Z",
            "leadTimeSeconds": 600,
            "demand": {"workerReplicas": 8},
        }))
        .expect("a spec");
        Wanted {
            uid: "u".into(),
            created_at: 0,
            spec,
            suspended: false,
        }
    }

    fn pods(ready: i32) -> Workloads {
        let workload = |name: &str| {
            Ok(Workload {
                name: name.into(),
                ceiling: 8,
                floor: 0,
                ready,
                autoscaler: None,
                unschedulable: None,
            })
        };
        Workloads {
            api: workload("seckill-api"),
            worker: workload("seckill-worker"),
            needs: [(Key::new("shop", "sale"), Needs { api: 1, worker: 1 })].into(),
        }
    }

    /// In partition 5, when its lead time begins.
    fn check_of(change: impl FnOnce(&mut Servers)) -> Verdict {
        let (mut servers, wanted) = (right(), wanted());
        change(&mut servers);
        check(&servers, &pods(1), &wanted, 5, wanted.preheat_at())
    }

    /// Whatever is wrong is the one thing that is said, and it names the fix.
    fn assert_problem(names: &[&str], change: impl FnOnce(&mut Servers)) {
        let verdict = check_of(change);
        let [problem] = verdict.problems.as_slice() else {
            panic!("{verdict:?}")
        };
        assert!(
            names.iter().all(|name| problem.contains(name)),
            "{names:?} in {problem}"
        );
        assert!(!verdict.passed() && verdict.unknown.is_empty(), "{verdict:?}");
    }

    fn redis(servers: &mut Servers) -> &mut ServerSettings {
        servers.redis.as_mut().expect("known")
    }

    fn topic(servers: &mut Servers) -> &mut TopicFacts {
        servers.topic.as_mut().expect("known")
    }

    #[test]
    fn servers_that_are_as_they_should_be_pass() {
        assert_eq!(check_of(|_| {}), Verdict::default());
    }

    #[test]
    fn a_redis_that_could_spoil_a_sale_is_told_with_its_fix() {
        assert_problem(&["maxmemory-policy volatile-lru", "noeviction"], |s| {
            redis(s).eviction = "volatile-lru".into();
        });
        assert_problem(&["1000000 orders", "maxmemory"], |s| redis(s).max_memory = 200 << 20);
        assert_problem(&["appendonly no"], |s| redis(s).persistence_fails = true);
        assert_problem(&["up to 2 s ahead", "NTP"], |s| redis(s).clock_ahead_ms = 1300);
        assert_problem(&["up to 1 s behind"], |s| redis(s).clock_ahead_ms = -600);
        // Within what the measurement may be mistaken by.
        let slow = check_of(|s| (redis(s).clock_ahead_ms, redis(s).round_trip_ms) = (600, 150));
        assert!(slow.passed(), "{slow:?}");
        let roomy = check_of(|s| redis(s).max_memory = 1 << 30);
        assert!(roomy.passed(), "{roomy:?}");
    }

    #[test]
    fn an_order_log_that_could_lose_orders_is_told_with_its_fix() {
        assert_problem(&["2 replicas", "expects 3", "reassign"], |s| topic(s).replication = 2);
        assert_problem(&["min.insync.replicas=1", "expects 2"], |s| topic(s).min_insync = 1);
        assert_problem(&["min.insync.replicas=4", "nothing can be written"], |s| {
            topic(s).min_insync = 4
        });
        assert_problem(&["cleanup.policy=compact"], |s| {
            topic(s).cleanup_policy = "compact,delete".into()
        });
        assert_problem(&["unclean.leader.election.enable=true"], |s| {
            topic(s).unclean_election = true
        });
        assert_problem(&["retention.ms=604800000", "8 days"], |s| {
            topic(s).retention_ms = 7 * DAY_MS
        });
        assert!(check_of(|s| topic(s).retention_ms = 8 * DAY_MS).passed());
        assert_problem(&["retention.bytes=1000"], |s| topic(s).retention_bytes = 1000);
    }

    #[test]
    fn a_ledger_that_takes_no_orders_and_a_worker_that_is_late_are_told() {
        assert_problem(&["MySQL: waiting for migration 3"], |s| {
            s.ledger = Ok(Some(
                "waiting for migration 3, found 2: run order-worker migrate".into(),
            ));
        });
        assert_problem(&["order-worker", "partition 5"], |s| s.late = Ok(vec![1, 5]));
        assert!(check_of(|s| s.late = Ok(vec![1])).passed());
    }

    #[test]
    fn a_server_that_does_not_answer_is_unknown_and_not_passed() {
        let verdict = check_of(|s| {
            s.redis = Err("refused".into());
            s.topic = Err("refused".into());
            s.ledger = Err("refused".into());
            s.late = Err("refused".into());
        });
        assert_eq!((verdict.problems.len(), verdict.unknown.len()), (0, 4), "{verdict:?}");
        assert!(!verdict.passed());
    }

    #[test]
    fn pods_are_waited_for_from_the_lead_time_on_and_missed_from_the_start_on() {
        let (servers, wanted) = (right(), wanted());
        let check = |now| check(&servers, &pods(0), &wanted, 5, now);
        assert!(check(wanted.preheat_at() - 1).passed());
        let due = check(wanted.preheat_at());
        assert!(due.problems.is_empty() && due.unknown.len() == 2, "{due:?}");
        let late = check(wanted.starts_at()).problems;
        assert!(late.len() == 2 && late[0].contains("no pod of seckill-api"), "{late:?}");
    }

    #[test]
    fn memory_is_asked_for_before_the_start_and_not_while_it_fills_up() {
        let (mut servers, wanted) = (right(), wanted());
        redis(&mut servers).max_memory = 200 << 20;
        let passed = |now| check(&servers, &pods(1), &wanted, 5, now).passed();
        assert!(!passed(wanted.starts_at() - 1));
        assert!(passed(wanted.starts_at()));
    }

    #[test]
    fn what_spoils_nothing_is_advice() {
        let advice = |change: fn(&mut Servers)| {
            let verdict = check_of(change);
            assert!(verdict.passed() && verdict.advice.len() == 1, "{verdict:?}");
            verdict.advice[0].clone()
        };
        assert!(advice(|s| redis(s).append_only_file = true).contains("appendonly no"));
        assert!(advice(|s| topic(s).partitions = 4).contains("workerReplicas is 8"));
        assert!(advice(|s| topic(s).min_insync = 3).contains("one broker is down"));
        let one = advice(|s| {
            (topic(s).replication, topic(s).min_insync) = (1, 1);
            (s.expected.topic_replication, s.expected.topic_min_insync) = (1, 1);
        });
        assert!(one.contains("one replica"), "{one}");
    }

    #[test]
    fn records_that_stay_in_the_log_are_late_and_a_worker_that_gets_on_is_not() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut backlog = Backlog::default();
        assert!(!backlog.is_late(0, 10, 10, at(0)));
        assert!(!backlog.is_late(0, 10, 15, at(10)));
        // The log goes on growing, and the worker with it.
        assert!(!backlog.is_late(0, 15, 30, at(30)));
        assert!(!backlog.is_late(0, 29, 60, at(40)));
        assert!(!backlog.is_late(0, 29, 60, at(60)));
        assert!(backlog.is_late(0, 29, 60, at(61)));
        assert!(!backlog.is_late(0, 30, 60, at(62)));
    }

    #[test]
    fn what_a_server_said_last_counts_while_it_is_silent_for_a_moment() {
        let refused = || Err(OperatorError::Ledger(LedgerError::NotWritable("refused".into())));
        let mut last = Last(None);
        assert!(last.told(refused()).is_err());
        assert_eq!(last.told(Ok(1)), Ok(1));
        assert_eq!(last.told(refused()), Ok(1));
        let Some((_, at)) = &mut last.0 else {
            unreachable!("it was told")
        };
        *at -= REMEMBERED;
        assert!(last.told(refused()).is_err());
    }
}
