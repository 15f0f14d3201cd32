//! Which settings of the servers put a sale at risk, found before it opens, each with its fix.
//!
//! The operator reads the settings every ten seconds, once for all sales. What they mean for one sale is [`check`].
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use seckill_protocol::Offset;
use seckill_protocol::index::Millis;

use crate::clocks::ClockDifference;
use crate::demand::Workloads;
use crate::sale::DesiredSale;

/// Records that have been in the log for longer, and are not in the ledger, are late.
const WORKER_LAG_LIMIT: Duration = Duration::from_secs(30);
/// The log is kept at least this long after the end of a sale: a ledger restored from a backup reads it again.
const RETENTION_AFTER_END: Duration = Duration::from_secs(7 * 24 * 3600);

/// The settings of the servers as they were read last. An error says why they are unknown.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// One for each primary of a Redis Cluster.
    pub redis: Result<Vec<RedisSettings>, String>,
    /// The most orders that the unfinished sales of the release may still make together.
    pub orders_to_come: Result<u64, String>,
    pub topic: Result<TopicSettings, String>,
    /// What is wrong with the ledger.
    pub ledger: Result<Option<String>, String>,
    /// The partitions of which the ledger does not have what it should have.
    pub ledger_lag: Result<BTreeMap<u32, LedgerLag>, String>,
    /// `None`: it can't be read, which `ledger` says.
    pub mysql_clock: Option<ClockDifference>,
    /// `None`: unknown, which `ledger` says.
    pub mysql_connections: Option<MysqlConnections>,
    pub expected: ExpectedTopic,
    /// The issuers of tokens that the release knows, by name. `None`: the operator was not told.
    pub issuers: Option<BTreeMap<String, KnownIssuer>>,
}

/// An issuer of tokens in the configuration of seckill-api.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownIssuer {
    /// It names the claim that decides the tier of a buyer.
    pub has_tier_claim: bool,
}

/// `None`: the server does not report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// The name of the server, if there are several.
    pub server: Option<String>,
    /// `maxmemory-policy`.
    pub eviction: Option<String>,
    /// Bytes; 0 = no limit.
    pub max_memory: Option<u64>,
    pub used_memory: Option<u64>,
    /// Bytes of one order, which stay until the end of its sale.
    pub bytes_per_order: u64,
    /// The last snapshot, or the last write of the append-only file, failed.
    pub persistence_fails: Option<bool>,
    pub append_only_file: Option<bool>,
    pub clock: ClockDifference,
}

impl RedisSettings {
    fn name(&self) -> String {
        match &self.server {
            Some(server) => format!("Redis {server}"),
            None => "Redis".to_owned(),
        }
    }
}

/// `None`: the brokers do not report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    pub partitions: u32,
    /// The fewest replicas of a partition.
    pub replication: u32,
    pub min_insync: Option<u32>,
    /// -1 = for ever.
    pub retention_ms: Option<i64>,
    /// -1 = all.
    pub retention_bytes: Option<i64>,
    pub cleanup_policy: Option<String>,
    pub unclean_election: Option<bool>,
}

/// What the ledger does not have of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerLag {
    /// Records that have been in the log for some time.
    Late,
    /// Records that the log has no more: its retention is shorter than the age of the backup that MySQL was restored from.
    Expired { next_offset: Offset, oldest_offset: Offset },
}

/// How many connections MySQL allows, and how many the programs may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MysqlConnections {
    /// `max_connections`.
    pub allowed: u64,
    /// Of each pod.
    pub api: u64,
    /// Of each pod, besides one for each partition that it stores.
    pub worker: u64,
    /// Of all operators together.
    pub operators: u64,
}

impl MysqlConnections {
    /// The most that a release with so many pods opens.
    fn needed(&self, api_pods: u64, worker_pods: u64, partitions: u64) -> u64 {
        api_pods * self.api + worker_pods * self.worker + partitions + self.operators
    }
}

/// What the release expects of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedTopic {
    pub replication: u32,
    pub min_insync: u32,
}

/// The result of the preflight of one sale.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preflight {
    /// What puts the sale at risk, each with its fix.
    pub problems: Vec<String>,
    /// What could not be checked, or is not ready yet, and why.
    pub unknown: Vec<String>,
    /// What puts the sale at risk, but never holds it back.
    pub warnings: Vec<String>,
    /// What is worth knowing, and puts nothing at risk.
    pub advice: Vec<String>,
}

impl Preflight {
    pub fn passed(&self) -> bool {
        self.problems.is_empty() && self.unknown.is_empty()
    }
}

/// Checks the settings that concern every sale.
pub fn check_servers(servers: &ServerSettings) -> Preflight {
    let mut preflight = Preflight::default();
    let mut unknown = |what: &str, why: &str| preflight.unknown.push(format!("{what} could not be checked: {why}"));
    if let Err(why) = &servers.redis {
        unknown("Redis", why);
    }
    if let Err(why) = &servers.topic {
        unknown("the order log", why);
    }
    if let Err(why) = &servers.ledger {
        unknown("MySQL", why);
    }
    if let Err(why) = &servers.ledger_lag {
        unknown("the lag of order-worker", why);
    }
    if let Err(why) = &servers.orders_to_come {
        unknown("the memory that the sales need", why);
    }
    let of_redis = servers.redis.iter().flatten();
    let redis_clocks = of_redis.filter_map(|redis| redis.clock.warning(&redis.name()));
    let mysql_clock = servers.mysql_clock.and_then(|clock| clock.warning("MySQL"));
    preflight.warnings.extend(redis_clocks.chain(mysql_clock));
    for redis in servers.redis.iter().flatten() {
        check_redis(&mut preflight, redis);
    }
    if let Ok(topic) = &servers.topic {
        check_topic(&mut preflight, topic, servers.expected);
    }
    if let Ok(Some(problem)) = &servers.ledger {
        preflight.problems.push(format!("MySQL: {problem}"));
    }
    preflight
}

/// Checks a sale whose records are in this partition.
pub fn check(
    servers: &ServerSettings,
    workloads: &Workloads,
    desired: &DesiredSale,
    partition: u32,
    now: Millis,
) -> Preflight {
    let mut preflight = check_servers(servers);
    // Orders use up this memory step by step, so it is checked only before the start.
    if let (Ok(orders), true) = (&servers.orders_to_come, now < desired.first_opens_at()) {
        let servers = servers.redis.iter().flatten();
        servers.for_each(|redis| check_memory(&mut preflight, redis, *orders));
    }
    if let Ok(topic) = &servers.topic {
        check_topic_for(&mut preflight, topic, desired);
    }
    if let (Some(connections), Ok(topic)) = (servers.mysql_connections, &servers.topic) {
        check_connections(&mut preflight, connections, topic, workloads);
    }
    let lag = servers.ledger_lag.as_ref().ok().and_then(|lag| lag.get(&partition));
    preflight.problems.extend(lag.map(|lag| lag.problem(partition)));
    check_pods(&mut preflight, workloads, desired, now);
    if let (Some(issuers), Some(issuer)) = (&servers.issuers, &desired.offer.issuer) {
        check_issuer(&mut preflight, issuers, issuer, desired.offer.tiers.is_some());
    }
    preflight
}

fn check_issuer(preflight: &mut Preflight, issuers: &BTreeMap<String, KnownIssuer>, issuer: &str, tiers: bool) {
    match issuers.get(issuer) {
        None => preflight.problems.push(format!(
            "spec.access.issuer is {issuer}, which this release does not know, so it accepts no token: correct the name, or add \
             the issuer to the value `issuers` of the chart"
        )),
        Some(KnownIssuer { has_tier_claim: false }) if tiers => preflight.problems.push(format!(
            "the issuer {issuer} has no tierClaim, so every buyer is a general buyer, and spec.tiers has no effect: set \
             tierClaim of the issuer in the value `issuers` of the chart"
        )),
        Some(_) => {}
    }
}

impl LedgerLag {
    pub fn problem(self, partition: u32) -> String {
        match self {
            LedgerLag::Late => format!(
                "order-worker is more than {} s behind the log in partition {partition}: check its pods and their log",
                WORKER_LAG_LIMIT.as_secs()
            ),
            LedgerLag::Expired {
                next_offset,
                oldest_offset,
            } => format!(
                "MySQL needs the records of partition {partition} from offset {next_offset}, and the oldest that Kafka still \
                 has is {oldest_offset}: restore a newer backup of MySQL, and keep the log longer than backups are old \
                 (retention.ms)"
            ),
        }
    }
}

/// MySQL refuses what exceeds the limit, of whichever program comes last.
fn check_connections(
    preflight: &mut Preflight,
    connections: MysqlConnections,
    topic: &TopicSettings,
    workloads: &Workloads,
) {
    let (Ok(api), Ok(worker)) = (&workloads.api, &workloads.worker) else {
        return;
    };
    let [api, worker] = [api, worker].map(|workload| u64::try_from(workload.bounds.ceiling).unwrap_or_default());
    let needed = connections.needed(api, worker, topic.partitions.into());
    if needed > connections.allowed {
        preflight.advice.push(format!(
            "MySQL has max_connections={}, and this release may open {needed}: {api} pods of seckill-api with {} each, \
             {worker} of order-worker with {} each and one for each partition, {} of the operators; raise max_connections, or \
             lower api.maxReplicas",
            connections.allowed, connections.api, connections.worker, connections.operators
        ));
    }
}

fn check_pods(preflight: &mut Preflight, workloads: &Workloads, desired: &DesiredSale, now: Millis) {
    if now < desired.preheat_at() {
        return;
    }
    for workload in [&workloads.api, &workloads.worker].into_iter().flatten() {
        if workload.ready > 0 {
            continue;
        }
        let why = workload
            .blocked
            .as_deref()
            .unwrap_or("`kubectl describe pod` shows why");
        let missing = format!("no pod of {} is ready: {why}", workload.name);
        // They start during the lead time.
        match now < desired.first_opens_at() {
            true => preflight.unknown.push(missing),
            false => preflight.problems.push(missing),
        }
    }
}

/// All sales of a server share its memory, and the first that finds it full stops all of them: Redis then refuses every
/// purchase. In a Cluster each server may get all of them, since the ids of sales are random.
fn check_memory(preflight: &mut Preflight, redis: &RedisSettings, orders: u64) {
    let (Some(most), Some(used)) = (redis.max_memory, redis.used_memory) else {
        return;
    };
    let needed = orders.saturating_mul(redis.bytes_per_order);
    let free = most.saturating_sub(used);
    if most > 0 && free < needed {
        preflight.problems.push(format!(
            "{} has {} MiB of free memory, and the sales of this release that have not ended may need {} MiB for {orders} \
             more orders, including cancelled ones: raise maxmemory, or lower spec.ordersEverMax",
            redis.name(),
            free >> 20,
            needed.div_ceil(1 << 20)
        ));
    }
}

fn check_redis(preflight: &mut Preflight, redis: &RedisSettings) {
    let unreported = [
        ("maxmemory-policy", redis.eviction.is_none()),
        ("maxmemory", redis.max_memory.is_none()),
        ("used memory", redis.used_memory.is_none()),
        ("whether its persistence works", redis.persistence_fails.is_none()),
    ];
    let name = redis.name();
    advise_unreported(preflight, &format!("{name} does"), unreported);
    if let Some(eviction) = redis.eviction.as_deref().filter(|policy| *policy != "noeviction") {
        preflight.problems.push(format!(
            "{name} has maxmemory-policy {eviction} and would drop stock when its memory is full: set it to noeviction"
        ));
    }
    if redis.persistence_fails == Some(true) {
        preflight.problems.push(format!(
            "{name} failed to write its snapshot or append-only file, and by default refuses writes then: free disk space, \
             or switch persistence off (`save \"\"`, `appendonly no`): the index is rebuilt from the log"
        ));
    }
    if redis.append_only_file == Some(true) {
        preflight.advice.push(format!(
            "{name} reads its append-only file before it answers after a restart; without the file (`appendonly no`) the \
             index is rebuilt from the log sooner"
        ));
    }
}

/// What can't be known holds no sale back: nobody could correct it. A person has to check it once.
fn advise_unreported<const N: usize>(preflight: &mut Preflight, who: &str, settings: [(&str, bool); N]) {
    let missing = settings
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name));
    let missing: Vec<&str> = missing.collect();
    if !missing.is_empty() {
        preflight.advice.push(format!(
            "not checked, because {who} not report it: {}; compare it once with the requirements in docs/installation.md",
            missing.join(", ")
        ));
    }
}

fn check_topic(preflight: &mut Preflight, topic: &TopicSettings, expected: ExpectedTopic) {
    let unreported = [
        ("min.insync.replicas", topic.min_insync.is_none()),
        ("cleanup.policy", topic.cleanup_policy.is_none()),
        ("unclean.leader.election.enable", topic.unclean_election.is_none()),
        ("retention.ms", topic.retention_ms.is_none()),
        ("retention.bytes", topic.retention_bytes.is_none()),
    ];
    advise_unreported(preflight, "the brokers do", unreported);
    let mut problem = |problem: String| preflight.problems.push(problem);
    if topic.replication < expected.replication {
        problem(format!(
            "a partition of the order log has {} replicas, and the release expects {}: reassign its partitions \
             (kafka-reassign-partitions.sh)",
            topic.replication, expected.replication
        ));
    }
    if let Some(least) = topic.min_insync.filter(|least| *least < expected.min_insync) {
        problem(format!(
            "the order log has min.insync.replicas={least}, and the release expects {}: confirmed orders could be \
             lost with a broker; set it with kafka-configs.sh",
            expected.min_insync
        ));
    }
    if let Some(least) = topic.min_insync.filter(|least| *least > topic.replication) {
        problem(format!(
            "the order log has min.insync.replicas={least} and {} replicas, so nothing can be written: lower the first or \
             add replicas",
            topic.replication
        ));
    }
    if topic
        .cleanup_policy
        .as_deref()
        .is_some_and(|policy| policy.contains("compact"))
    {
        problem("the order log has cleanup.policy=compact, which removes orders: set it to delete".to_owned());
    }
    if topic.unclean_election == Some(true) {
        problem(
            "the order log has unclean.leader.election.enable=true, so confirmed orders can be lost: set it to \
             false"
                .to_owned(),
        );
    }
    if let Some(bytes) = topic.retention_bytes.filter(|bytes| *bytes >= 0) {
        problem(format!(
            "the order log has retention.bytes={bytes}, and would drop orders when a partition outgrows it: set it to -1"
        ));
    }
    if topic.replication == 1 && expected.replication == 1 {
        preflight
            .advice
            .push("the order log has one replica: if that broker loses its disk, the orders are lost".to_owned());
    } else if topic.min_insync == Some(topic.replication) {
        preflight
            .advice
            .push("the order log needs all its replicas in sync: selling stops while one broker is down".to_owned());
    }
}

/// What a sale needs of the topic.
fn check_topic_for(preflight: &mut Preflight, topic: &TopicSettings, desired: &DesiredSale) {
    let lasts = desired.ends_at.saturating_sub(desired.preheat_at());
    let kept = Duration::from_millis(lasts) + RETENTION_AFTER_END;
    let too_short = |ms: &i64| u64::try_from(*ms).is_ok_and(|ms| u128::from(ms) < kept.as_millis());
    if let Some(ms) = topic.retention_ms.filter(too_short) {
        preflight.problems.push(format!(
            "the order log has retention.ms={ms}, and this sale needs its records for {} days, until {} days after its end: \
             set it to -1, or to more",
            kept.as_secs().div_ceil(24 * 3600),
            RETENTION_AFTER_END.as_secs() / (24 * 3600)
        ));
    }
    let workers = desired.demand.worker_replicas.unwrap_or_default();
    let workers = u32::try_from(workers).unwrap_or_default();
    if workers > topic.partitions {
        preflight.advice.push(format!(
            "spec.demand.workerReplicas is {workers}, and the order log has {} partitions: more workers than partitions \
             have nothing to do",
            topic.partitions
        ));
    }
}

/// By partition, the end of the log that the ledger has to reach, and since when.
#[derive(Debug, Default)]
pub struct Backlog(HashMap<u32, (Offset, Instant)>);

impl Backlog {
    /// What the ledger, whose next record is at `position`, lacks of a log with the offsets `range`.
    pub fn lag(&mut self, partition: u32, position: Offset, range: Range<Offset>, now: Instant) -> Option<LedgerLag> {
        let late = self.is_late(partition, position, range.end, now);
        let expired = LedgerLag::Expired {
            next_offset: position,
            oldest_offset: range.start,
        };
        match position < range.start {
            true => Some(expired),
            false => late.then_some(LedgerLag::Late),
        }
    }

    /// Whether records that were in the log `WORKER_LAG_LIMIT` ago are not in the ledger.
    fn is_late(&mut self, partition: u32, position: Offset, end: Offset, now: Instant) -> bool {
        let (waited_for, since) = *self.0.entry(partition).or_insert((end, now));
        if position >= waited_for {
            self.0.insert(partition, (end, now));
            return false;
        }
        now.saturating_duration_since(since) > WORKER_LAG_LIMIT
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::demand::{Needs, ReplicaBounds, Workload};
    use crate::sale::SaleKey;

    const DAY_MS: i64 = 24 * 3600 * 1000;

    /// ServerSettings of which nothing is to be said.
    pub fn right() -> ServerSettings {
        ServerSettings {
            issuers: None,
            redis: Ok(vec![RedisSettings {
                server: None,
                eviction: Some("noeviction".into()),
                max_memory: Some(0),
                used_memory: Some(1 << 20),
                bytes_per_order: 320,
                persistence_fails: Some(false),
                append_only_file: Some(false),
                clock: ClockDifference {
                    ahead_ms: -3,
                    round_trip_ms: 1,
                },
            }]),
            orders_to_come: Ok(20_000_000),
            topic: Ok(TopicSettings {
                partitions: 8,
                replication: 3,
                min_insync: Some(2),
                retention_ms: Some(-1),
                retention_bytes: Some(-1),
                cleanup_policy: Some("delete".into()),
                unclean_election: Some(false),
            }),
            ledger: Ok(None),
            ledger_lag: Ok(BTreeMap::new()),
            mysql_clock: Some(ClockDifference {
                ahead_ms: 2,
                round_trip_ms: 1,
            }),
            mysql_connections: Some(MysqlConnections {
                allowed: 151,
                api: 5,
                worker: 2,
                operators: 16,
            }),
            expected: ExpectedTopic {
                replication: 3,
                min_insync: 2,
            },
        }
    }

    const START: Millis = 1_795_860_000_000;

    fn desired() -> DesiredSale {
        let mut desired = crate::sale::tests::desired();
        desired.offer.offered = 1_000_000;
        (desired.starts_at, desired.ends_at) = (START, START + 2 * 3600 * 1000);
        desired.lead_time_seconds = 600;
        desired.demand.worker_replicas = Some(8);
        desired
    }

    fn pods(ready: i32) -> Workloads {
        let workload = |name: &str| {
            Ok(Workload {
                name: name.into(),
                bounds: ReplicaBounds { floor: 0, ceiling: 8 },
                ready,
                autoscaler: None,
                blocked: None,
            })
        };
        Workloads {
            are_managed: true,
            api: workload("seckill-api"),
            worker: workload("seckill-worker"),
            needs: [(SaleKey::new("shop", "sale"), Needs { api: 1, worker: 1 })].into(),
        }
    }

    /// In partition 5, when its lead time begins.
    fn check_of(change: impl FnOnce(&mut ServerSettings)) -> Preflight {
        let (mut servers, desired) = (right(), desired());
        change(&mut servers);
        check(&servers, &pods(1), &desired, 5, desired.preheat_at())
    }

    #[test]
    fn an_issuer_is_known_and_names_the_claim_of_tiers() {
        let tiers = seckill_protocol::tiers::Tiers {
            tiers: Vec::new(),
            reserved_for_general: 0,
        };
        let problems = |known: Option<&[(&str, bool)]>, tiers: Option<_>| {
            let (mut servers, mut desired) = (right(), desired());
            let issuer = |&(name, has_tier_claim): &(&str, bool)| (name.to_owned(), KnownIssuer { has_tier_claim });
            servers.issuers = known.map(|known| known.iter().map(issuer).collect());
            (desired.offer.issuer, desired.offer.tiers) = (Some("main".into()), tiers);
            check(&servers, &pods(1), &desired, 5, desired.preheat_at()).problems
        };
        let [unknown] = &problems(Some(&[("staff", true)]), None)[..] else {
            panic!("one problem")
        };
        assert!(
            unknown.contains("spec.access.issuer is main") && unknown.contains("`issuers`"),
            "{unknown}"
        );
        let [without] = &problems(Some(&[("main", false)]), Some(tiers.clone()))[..] else {
            panic!("one problem")
        };
        assert!(
            without.contains("no tierClaim") && without.contains("spec.tiers"),
            "{without}"
        );
        for right in [Some(&[("main", true)][..]), None] {
            assert_eq!(problems(right, Some(tiers.clone())), [""; 0]);
        }
        assert_eq!(problems(Some(&[("main", false)]), None), [""; 0]);
        let mut servers = right();
        servers.issuers = Some(BTreeMap::new());
        let anonymous = check(&servers, &pods(1), &desired(), 5, desired().preheat_at());
        assert!(anonymous.passed(), "{anonymous:?}");
    }

    #[test]
    fn a_missing_pod_is_explained_by_what_blocks_it() {
        let desired = desired();
        let mut workloads = pods(1);
        let worker = workloads.worker.as_mut().expect("observed");
        (worker.ready, worker.blocked) = (0, Some("pods can't be created: exceeded quota".to_owned()));
        let preflight = check(&right(), &workloads, &desired, 5, desired.starts_at);
        let expected = "no pod of seckill-worker is ready: pods can't be created: exceeded quota";
        assert_eq!(preflight.problems, [expected]);
    }

    /// Whatever is wrong is the one thing that is said, and it names the fix.
    fn assert_problem(names: &[&str], change: impl FnOnce(&mut ServerSettings)) {
        let preflight = check_of(change);
        let [problem] = preflight.problems.as_slice() else {
            panic!("{preflight:?}")
        };
        assert!(
            names.iter().all(|name| problem.contains(name)),
            "{names:?} in {problem}"
        );
        assert!(!preflight.passed() && preflight.unknown.is_empty(), "{preflight:?}");
    }

    fn redis(servers: &mut ServerSettings) -> &mut RedisSettings {
        &mut servers.redis.as_mut().expect("known")[0]
    }

    fn topic(servers: &mut ServerSettings) -> &mut TopicSettings {
        servers.topic.as_mut().expect("known")
    }

    #[test]
    fn too_few_connections_of_mysql_get_an_advice() {
        let allowing = |allowed| {
            check_of(|s| {
                let connections = s.mysql_connections.as_mut().expect("known");
                connections.allowed = allowed;
            })
        };
        // 8 pods of each, 8 partitions: 40 + 16 + 8 + 16.
        assert_eq!(allowing(80), Preflight::default());
        let preflight = allowing(79);
        let [advice] = preflight.advice.as_slice() else {
            panic!("{preflight:?}")
        };
        assert!(
            preflight.passed() && advice.contains("max_connections=79") && advice.contains("open 80"),
            "{advice}"
        );
        assert_eq!(check_of(|s| s.mysql_connections = None), Preflight::default());
    }

    #[test]
    fn correct_settings_pass() {
        assert_eq!(check_of(|_| {}), Preflight::default());
    }

    #[test]
    fn a_risky_redis_setting_is_named_with_its_fix() {
        assert_problem(&["maxmemory-policy volatile-lru", "noeviction"], |s| {
            redis(s).eviction = Some("volatile-lru".into());
        });
        assert_problem(
            &["20000000 more orders", "6104 MiB", "maxmemory", "spec.ordersEverMax"],
            |s| redis(s).max_memory = Some(5 << 30),
        );
        assert_problem(&["appendonly no"], |s| redis(s).persistence_fails = Some(true));
        let enough = (1 << 20) + 20_000_000 * 320;
        assert!(check_of(|s| redis(s).max_memory = Some(enough)).passed());
        assert!(!check_of(|s| redis(s).max_memory = Some(enough - 1)).passed());
    }

    #[test]
    fn a_difference_between_clocks_is_a_warning_that_passes() {
        let hour = ClockDifference {
            ahead_ms: 3_600_000,
            round_trip_ms: 1,
        };
        let redis = check_of(|s| redis(s).clock = hour);
        let mysql = check_of(|s| s.mysql_clock = Some(hour));
        for (server, preflight) in [("Redis", redis), ("MySQL", mysql)] {
            assert!(preflight.passed(), "{preflight:?}");
            assert!(matches!(preflight.warnings.as_slice(), [warning] if warning.contains(server)));
        }
        assert_eq!(check_of(|s| s.mysql_clock = None).warnings, [""; 0]);
    }

    #[test]
    fn a_risky_topic_setting_is_named_with_its_fix() {
        assert_problem(&["2 replicas", "expects 3", "reassign"], |s| topic(s).replication = 2);
        assert_problem(&["min.insync.replicas=1", "expects 2"], |s| {
            topic(s).min_insync = Some(1)
        });
        assert_problem(&["min.insync.replicas=4", "nothing can be written"], |s| {
            topic(s).min_insync = Some(4)
        });
        assert_problem(&["cleanup.policy=compact"], |s| {
            topic(s).cleanup_policy = Some("compact,delete".into())
        });
        assert_problem(&["unclean.leader.election.enable=true"], |s| {
            topic(s).unclean_election = Some(true)
        });
        assert_problem(&["retention.ms=604800000", "8 days"], |s| {
            topic(s).retention_ms = Some(7 * DAY_MS)
        });
        // From the lead time on: ten minutes, two hours, seven days.
        let kept = 7 * DAY_MS + 130 * 60 * 1000;
        assert!(check_of(|s| topic(s).retention_ms = Some(kept)).passed());
        assert!(!check_of(|s| topic(s).retention_ms = Some(kept - 1)).passed());
        assert_problem(&["retention.bytes=1000"], |s| topic(s).retention_bytes = Some(1000));
    }

    #[test]
    fn a_read_only_ledger_and_a_late_worker_are_named() {
        assert_problem(&["MySQL: waiting for migration 3"], |s| {
            s.ledger = Ok(Some(
                "waiting for migration 3, found 2: run order-worker migrate".into(),
            ));
        });
        let late = |partitions: &[u32]| Ok(partitions.iter().map(|part| (*part, LedgerLag::Late)).collect());
        assert_problem(&["order-worker", "partition 5"], |s| s.ledger_lag = late(&[1, 5]));
        assert!(check_of(|s| s.ledger_lag = late(&[1])).passed());
    }

    #[test]
    fn a_silent_server_is_unknown_and_does_not_pass() {
        let preflight = check_of(|s| {
            s.redis = Err("refused".into());
            s.orders_to_come = Err("refused".into());
            s.topic = Err("refused".into());
            s.ledger = Err("refused".into());
            s.ledger_lag = Err("refused".into());
        });
        assert_eq!(
            (preflight.problems.len(), preflight.unknown.len()),
            (0, 5),
            "{preflight:?}"
        );
        assert!(!preflight.passed());
    }

    #[test]
    fn a_risky_server_of_a_cluster_is_named() {
        assert_problem(&["Redis redis-1:6379 has maxmemory-policy"], |s| {
            let known = redis(s).clone();
            let node = |name: &str, eviction: &str| RedisSettings {
                server: Some(name.to_owned()),
                eviction: Some(eviction.to_owned()),
                ..known.clone()
            };
            s.redis = Ok(vec![
                node("redis-0:6379", "noeviction"),
                node("redis-1:6379", "allkeys-lru"),
            ]);
        });
    }

    #[test]
    fn settings_that_no_server_reports_are_named_and_hold_nothing_back() {
        let preflight = check_of(|s| {
            let known = redis(s).clone();
            *redis(s) = RedisSettings {
                eviction: None,
                max_memory: None,
                used_memory: None,
                persistence_fails: None,
                append_only_file: None,
                ..known
            };
            let known = topic(s).clone();
            *topic(s) = TopicSettings {
                min_insync: None,
                retention_ms: None,
                retention_bytes: None,
                cleanup_policy: None,
                unclean_election: None,
                ..known
            };
        });
        assert!(preflight.passed(), "{preflight:?}");
        let [redis, topic] = preflight.advice.as_slice() else {
            panic!("{preflight:?}")
        };
        assert!(
            redis.contains("Redis does not report it: maxmemory-policy, maxmemory, used memory"),
            "{redis}"
        );
        let names =
            "min.insync.replicas, cleanup.policy, unclean.leader.election.enable, retention.ms, retention.bytes";
        assert!(topic.contains(names), "{topic}");
        // What is reported counts all the same.
        assert_problem(&["3 replicas", "expects 5"], |s| {
            topic_without_settings(s);
            s.expected.replication = 5;
        });
    }

    fn topic_without_settings(servers: &mut ServerSettings) {
        let topic = topic(servers);
        (topic.min_insync, topic.cleanup_policy) = (None, None);
    }

    #[test]
    fn missing_pods_are_unknown_before_the_start_and_a_problem_after() {
        let (servers, desired) = (right(), desired());
        let check = |now| check(&servers, &pods(0), &desired, 5, now);
        assert!(check(desired.preheat_at() - 1).passed());
        let due = check(desired.preheat_at());
        assert!(due.problems.is_empty() && due.unknown.len() == 2, "{due:?}");
        let late = check(desired.starts_at).problems;
        assert!(late.len() == 2 && late[0].contains("no pod of seckill-api"), "{late:?}");
    }

    #[test]
    fn memory_is_checked_only_before_the_start() {
        let (mut servers, desired) = (right(), desired());
        redis(&mut servers).max_memory = Some(200 << 20);
        let passed = |now| check(&servers, &pods(1), &desired, 5, now).passed();
        assert!(!passed(desired.starts_at - 1));
        assert!(passed(desired.starts_at));
    }

    #[test]
    fn harmless_findings_are_advice() {
        let advice = |change: fn(&mut ServerSettings)| {
            let preflight = check_of(change);
            assert!(preflight.passed() && preflight.advice.len() == 1, "{preflight:?}");
            preflight.advice[0].clone()
        };
        assert!(advice(|s| redis(s).append_only_file = Some(true)).contains("appendonly no"));
        assert!(advice(|s| topic(s).partitions = 4).contains("workerReplicas is 8"));
        assert!(advice(|s| topic(s).min_insync = Some(3)).contains("one broker is down"));
        let one = advice(|s| {
            (topic(s).replication, topic(s).min_insync) = (1, Some(1));
            (s.expected.replication, s.expected.min_insync) = (1, 1);
        });
        assert!(one.contains("one replica"), "{one}");
        // More replicas than the release expects are no reason for advice.
        let more = check_of(|s| (s.expected.replication, s.expected.min_insync) = (1, 1));
        assert_eq!(more, Preflight::default());
    }

    #[test]
    fn records_that_the_log_has_no_more_are_a_problem_of_their_partition() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        assert_eq!(backlog.lag(5, 7, 7..20, now), None);
        let lag = backlog.lag(5, 6, 7..20, now);
        let expired = LedgerLag::Expired {
            next_offset: 6,
            oldest_offset: 7,
        };
        assert_eq!(lag, Some(expired));
        let of = |partition| move |s: &mut ServerSettings| s.ledger_lag = Ok([(partition, expired)].into());
        assert_problem(&["partition 5 from offset 6", "has is 7", "newer backup"], of(5));
        assert!(check_of(of(1)).passed());
    }

    #[test]
    fn unread_records_are_late_and_a_progressing_worker_is_not() {
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
}
