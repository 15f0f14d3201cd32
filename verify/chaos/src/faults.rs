//! What can go wrong, one kind at a time, and that it is made good again.
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use seckill_crds::Phase;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::crowd::LASTING;
use crate::process::Process;
use crate::run::Run;
use crate::world::{LEASE, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Api,
    Worker,
    Operator,
    Redis,
    Kafka,
    Mysql,
}

const ALL: [Which; 6] = [
    Which::Api,
    Which::Worker,
    Which::Operator,
    Which::Redis,
    Which::Kafka,
    Which::Mysql,
];

/// What Redis comes back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    Aof,
    TruncatedAof,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and started again at once.
    Kill(Which),
    /// SIGSTOP for 5 s.
    Stop(Which),
    /// Connections to Redis are cut, again and again, while scripts are under way.
    CutRedis,
    CutMysql,
    RedisComesBack(Back),
    FlushAll,
    ScriptFlush,
    /// The clock of Redis's host is wrong for some seconds.
    ClockStep,
    /// The replica is promoted; the old primary goes on for those connected to it, and is then demoted. Every second one
    /// promotes a server that was demoted before.
    Failover,
    KafkaDown,
    OneBrokerDown,
    /// Two of three brokers are away.
    BelowMinInsync,
    MysqlDown,
    MysqlKilledInCommit,
    MysqlLosesItsTail,
    /// The owner of a partition stands still for longer than its session, and goes on.
    WorkerZombie,
    /// The same, at this place.
    ZombieAt(&'static str),
    /// A process dies at this place.
    AbortAt(&'static str),
    /// An operator dies at this step of a rebuild.
    RebuildAborts(&'static str),
    /// An operator stands still at this step, the other one rebuilds, and the first goes on.
    RebuildStops(&'static str),
    /// What was written is lost before it is installed.
    FlushBeforeInstall,
    FailoverBeforeInstall,
    /// An API process stands between the script and the log while the index is rebuilt: its record comes too late.
    RecordBehindBarrier,
    /// The workers stand still while the index is rebuilt: most of it comes from the log.
    RebuildFromLog,
    /// Kafka stands still; what is sold meanwhile is lost with the API process and Redis.
    SoldAndLost,
    SuspendDuringRecovery,
    EndDuringRecovery,
    RaiseDuringRecovery,
}

use Fault::*;

const AT: [&str; 8] = [
    "api.before-append",
    "api.after-append",
    "api.after-read-back",
    "worker.before-transaction",
    "worker.before-commit",
    "worker.after-commit",
    "relay.before-append",
    "relay.after-append",
];
const STEPS: [&str; 5] = ["rebuild.R1", "rebuild.R2", "rebuild.R3", "rebuild.R4", "rebuild.R5"];

/// Every kind that can be played with so many brokers.
pub fn kinds(brokers: usize) -> Vec<Fault> {
    let mut kinds: Vec<Fault> = ALL.into_iter().flat_map(|which| [Kill(which), Stop(which)]).collect();
    kinds.extend([Back::Aof, Back::TruncatedAof, Back::Nothing].map(RedisComesBack));
    kinds.extend(AT.map(AbortAt));
    kinds.extend(["worker.before-transaction", "worker.before-commit"].map(ZombieAt));
    kinds.extend(STEPS.map(RebuildAborts));
    kinds.extend(STEPS.map(RebuildStops));
    kinds.extend([
        CutRedis,
        CutMysql,
        FlushAll,
        ScriptFlush,
        ClockStep,
        Failover,
        KafkaDown,
        MysqlDown,
        MysqlKilledInCommit,
        MysqlLosesItsTail,
        WorkerZombie,
        FlushBeforeInstall,
        FailoverBeforeInstall,
        RecordBehindBarrier,
        RebuildFromLog,
        SoldAndLost,
        SuspendDuringRecovery,
        EndDuringRecovery,
        RaiseDuringRecovery,
    ]);
    if brokers == 3 {
        kinds.extend([OneBrokerDown, BelowMinInsync]);
    }
    kinds
}

/// The faults of a seed, in their order: every kind once, then every kind again, for ever.
pub fn schedule(seed: u64, brokers: usize, quick: bool, only: &[Fault]) -> impl Iterator<Item = Fault> {
    let mut rng = StdRng::seed_from_u64(seed);
    let only = only.to_vec();
    std::iter::from_fn(move || {
        let mut round = if only.is_empty() { kinds(brokers) } else { only.clone() };
        round.shuffle(&mut rng);
        if quick {
            // Stable: those that take long come last, and may not have their turn.
            round.sort_by_key(|fault| fault.is_long());
        }
        Some(round)
    })
    .flatten()
}

impl Fault {
    pub fn name(self) -> String {
        match self {
            Kill(which) => format!("kill-{which:?}"),
            Stop(which) => format!("stop-{which:?}"),
            RedisComesBack(back) => format!("redis-restart-{back:?}"),
            ZombieAt(at) => format!("zombie-at-{at}"),
            AbortAt(at) => format!("abort-at-{at}"),
            RebuildAborts(at) => format!("abort-at-{at}"),
            RebuildStops(at) => format!("stop-at-{at}"),
            other => {
                let mut name = String::new();
                for c in format!("{other:?}").chars() {
                    if c.is_uppercase() && !name.is_empty() {
                        name.push('-');
                    }
                    name.push(c);
                }
                name
            }
        }
        .to_lowercase()
    }

    fn is_long(self) -> bool {
        matches!(
            self,
            Stop(_)
                | KafkaDown
                | MysqlDown
                | WorkerZombie
                | ZombieAt(_)
                | BelowMinInsync
                | OneBrokerDown
                | RebuildStops(_)
        )
    }

    /// Plays it, makes it good again, and says what was done.
    pub async fn play(self, run: &mut Run, rng: &mut StdRng) -> Result<String> {
        let i = rng.random_range(0..2);
        let world = &mut run.world;
        Ok(match self {
            Kill(which) => {
                let process = world.process(which, i);
                process.kill()?;
                let name = process.name.clone();
                world.revive(which, i).await?;
                format!("kill -9 {name}, started again")
            }
            Stop(which) => {
                let process = world.process(which, i);
                process.stop()?;
                let name = process.name.clone();
                sleep(Duration::from_secs(5)).await;
                world.process(which, i).go_on()?;
                format!("{name} stood still for 5 s")
            }
            CutRedis => {
                for _ in 0..8 {
                    world.to_redis.cut();
                    sleep(Duration::from_millis(150)).await;
                }
                "all connections to Redis cut, 8 times".into()
            }
            CutMysql => {
                for _ in 0..8 {
                    world.to_mysql.cut();
                    sleep(Duration::from_millis(150)).await;
                }
                "all connections to MySQL cut, 8 times".into()
            }
            RedisComesBack(back) => world.redis_comes_back(back, rng).await?,
            FlushAll => {
                world.flush().await?;
                "FLUSHALL".into()
            }
            ScriptFlush => {
                world.redis(world.primary, &["SCRIPT", "FLUSH"]).await?;
                "SCRIPT FLUSH".into()
            }
            ClockStep => {
                let ms: i64 = rng.random_range(2_000..20_000);
                let ms = if rng.random() { ms } else { -ms };
                let from = run.history.now();
                world.redis_clock(ms)?;
                world.pass(Duration::from_secs(3)).await?;
                world.redis_clock(0)?;
                run.stepped.push((from, run.history.now(), ms.unsigned_abs()));
                format!("the clock of Redis was {ms} ms off for 3 s")
            }
            Failover => world.fails_over(rng).await?,
            KafkaDown => {
                for broker in &mut world.kafka {
                    broker.kill()?;
                }
                world.pass(Duration::from_secs(10)).await?;
                world.kafka_comes_back().await?;
                "Kafka down for 10 s".into()
            }
            OneBrokerDown => {
                let which = rng.random_range(0..world.kafka.len());
                world.kafka[which].kill()?;
                world.pass(Duration::from_secs(10)).await?;
                world.kafka_comes_back().await?;
                format!("{} down for 10 s", world.kafka[which].name)
            }
            BelowMinInsync => {
                let spared = rng.random_range(0..world.kafka.len());
                for (i, broker) in world.kafka.iter_mut().enumerate() {
                    if i != spared {
                        broker.kill()?;
                    }
                }
                world.pass(Duration::from_secs(10)).await?;
                world.kafka_comes_back().await?;
                format!("only {} of the brokers for 10 s", world.kafka[spared].name)
            }
            MysqlDown => {
                world.mysql.kill()?;
                world.pass(Duration::from_secs(10)).await?;
                world.mysql_comes_back().await?;
                "MySQL down for 10 s".into()
            }
            MysqlKilledInCommit => {
                let owner = world.reached_by_a_worker("worker.before-commit", "stop").await?;
                world.mysql.kill()?;
                world.worker[owner].go_on()?;
                world.mysql_comes_back().await?;
                "MySQL killed when a worker was about to commit".into()
            }
            MysqlLosesItsTail => {
                // No sale may be made in between: its name would stay, its id would be another.
                let _making = run.making_sales.lock().await;
                world.mysql_loses_its_tail(rng).await?
            }
            WorkerZombie => {
                // The session's time-out is 6 s.
                world.worker[i].stop()?;
                world.pass(Duration::from_secs(9)).await?;
                world.worker[i].go_on()?;
                format!("{} stood still for 9 s, longer than its session", world.worker[i].name)
            }
            ZombieAt(place) => {
                let owner = world.reached_by_a_worker(place, "stop").await?;
                world.pass(Duration::from_secs(9)).await?;
                world.worker[owner].go_on()?;
                format!("{} stood still for 9 s at {place}", world.worker[owner].name)
            }
            AbortAt(place) if place.starts_with("worker") => {
                let owner = world.reached_by_a_worker(place, "abort").await?;
                world.pass(Duration::from_millis(500)).await?;
                format!("{} died at {place}", world.worker[owner].name)
            }
            AbortAt(place) if place.starts_with("relay") => {
                // An API process stands still between the script and the log. If its buyers lose patience and ask again,
                // which publishes it as well, before the relay has found it, it was for nothing.
                let mut tries = 0;
                loop {
                    tries += 1;
                    world.arm(Which::Api, "api.before-append", "stop")?;
                    let who = world.reached(Which::Api, "api.before-append").await?;
                    world.arm(Which::Worker, place, "abort")?;
                    let came = world
                        .reached_within(Which::Worker, place, Duration::from_secs(10))
                        .await;
                    world.api[who].go_on()?;
                    match came {
                        Ok(died) => {
                            let (worker, api) = (&world.worker[died].name, &world.api[who].name);
                            break format!("{api} stood still before its append; {worker} died at {place}");
                        }
                        Err(_) if tries < 5 => world.pass(Duration::from_secs(1)).await?,
                        Err(why) => return Err(why),
                    }
                }
            }
            AbortAt(place) => {
                world.arm(Which::Api, place, "abort")?;
                let who = world.reached(Which::Api, place).await?;
                world.pass(Duration::from_millis(500)).await?;
                format!("{} died at {place}", world.api[who].name)
            }
            RebuildAborts(step) => {
                world.arm(Which::Operator, step, "abort")?;
                world.flush().await?;
                let who = world.reached(Which::Operator, step).await?;
                world.pass(Duration::from_millis(500)).await?;
                format!("FLUSHALL; {} died at {step}", world.operator[who].name)
            }
            RebuildStops(step) => {
                world.arm(Which::Operator, step, "stop")?;
                world.flush().await?;
                let who = world.reached(Which::Operator, step).await?;
                // The other one takes over and rebuilds; then the first wakes.
                let time = LEASE + Duration::from_secs(3);
                world.pass(time).await?;
                world.operator[who].go_on()?;
                let (name, seconds) = (&world.operator[who].name, time.as_secs());
                format!("FLUSHALL; {name} stood still for {seconds} s at {step}")
            }
            FlushBeforeInstall => {
                world.arm(Which::Operator, "rebuild.R3", "stop")?;
                world.flush().await?;
                let who = world.reached(Which::Operator, "rebuild.R3").await?;
                world.flush().await?;
                world.operator[who].go_on()?;
                "FLUSHALL, and again between writing the index and installing it".into()
            }
            FailoverBeforeInstall => {
                world.arm(Which::Operator, "rebuild.R3", "stop")?;
                world.flush().await?;
                let who = world.reached(Which::Operator, "rebuild.R3").await?;
                let what = world.fails_over(rng).await;
                world.operator[who].go_on()?;
                format!("FLUSHALL, and between writing the index and installing it: {}", what?)
            }
            RecordBehindBarrier => {
                world.arm(Which::Api, "api.before-append", "stop")?;
                let who = world.reached(Which::Api, "api.before-append").await?;
                world.flush().await?;
                world.pass(Duration::from_secs(4)).await?;
                world.api[who].go_on()?;
                format!(
                    "{} stood still before its append, and Redis was flushed",
                    world.api[who].name
                )
            }
            RebuildFromLog => {
                for worker in &world.worker {
                    worker.stop()?;
                }
                world.pass(Duration::from_secs(2)).await?;
                world.flush().await?;
                world.pass(Duration::from_secs(3)).await?;
                for worker in &world.worker {
                    worker.go_on()?;
                }
                "FLUSHALL while both workers stood still for 5 s".into()
            }
            SoldAndLost => {
                for broker in &world.kafka {
                    broker.stop()?;
                }
                sleep(Duration::from_millis(1500)).await;
                for api in &mut world.api {
                    api.kill()?;
                }
                world.flush().await?;
                for broker in &world.kafka {
                    broker.go_on()?;
                }
                world.tend()?;
                "Kafka stood still for 1.5 s; then both API processes and all of Redis were lost".into()
            }
            SuspendDuringRecovery => {
                world.flush().await?;
                run.shop.edit(LASTING, json!({"suspend": true})).await?;
                run.shop
                    .until(LASTING, &[Phase::Suspended], Duration::from_secs(45))
                    .await?;
                run.world.pass(Duration::from_millis(1500)).await?;
                let from = run.history.now();
                run.world.pass(Duration::from_secs(2)).await?;
                let to = run.history.now();
                run.shop.edit(LASTING, json!({"suspend": false})).await?;
                run.suspended.push((LASTING.into(), from, to));
                "FLUSHALL, and the sale suspended in the middle of the recovery, for some seconds".into()
            }
            EndDuringRecovery => {
                world.flush().await?;
                let sale = run.current.lock().await.clone();
                let how = if run.ends(&sale).await? {
                    "told to end"
                } else {
                    "at its end"
                };
                format!("FLUSHALL, and {sale} {how} in the middle of the recovery")
            }
            RaiseDuringRecovery => {
                let stock = run.shop.stock(LASTING).await? + 50;
                world.flush().await?;
                run.shop.edit(LASTING, json!({"stock": stock})).await?;
                format!("FLUSHALL, and the stock raised to {stock} in the middle of the recovery")
            }
        })
    }
}

impl World {
    fn process(&mut self, which: Which, i: usize) -> &mut Process {
        match which {
            Which::Api => &mut self.api[i],
            Which::Worker => &mut self.worker[i],
            Which::Operator => &mut self.operator[i],
            Which::Redis => &mut self.redis[self.primary],
            Which::Kafka => {
                let i = i % self.kafka.len();
                &mut self.kafka[i]
            }
            Which::Mysql => &mut self.mysql,
        }
    }

    async fn revive(&mut self, which: Which, i: usize) -> Result<()> {
        match which {
            Which::Redis => {
                self.redis_starts(self.primary)?;
                self.redis_answers(self.primary).await
            }
            Which::Mysql => self.mysql_comes_back().await,
            Which::Kafka => self.kafka_comes_back().await,
            _ => self.process(which, i).start(),
        }
    }

    /// Whatever a fault left behind, it is made good.
    pub async fn heal(&mut self) -> Result<()> {
        self.disarm();
        self.redis_clock(0)?;
        let programs = self.api.iter_mut().chain(&mut self.worker).chain(&mut self.operator);
        let servers = self.redis.iter_mut().chain([&mut self.mysql]).chain(&mut self.kafka);
        for process in programs.chain(servers) {
            if process.is_running() {
                process.go_on()?;
            }
        }
        self.redis_starts(0)?;
        self.redis_starts(1)?;
        self.redis_answers(self.primary).await?;
        self.mysql_comes_back().await?;
        self.kafka_comes_back().await?;
        self.tend()
    }

    async fn mysql_comes_back(&mut self) -> Result<()> {
        self.mysql.start()?;
        self.mysql_answers().await
    }

    async fn kafka_comes_back(&mut self) -> Result<()> {
        for broker in &mut self.kafka {
            broker.start()?;
        }
        self.kafka_answers().await
    }

    async fn flush(&self) -> Result<()> {
        self.redis(self.primary, &["FLUSHALL"]).await?;
        Ok(())
    }

    async fn redis_comes_back(&mut self, back: Back, rng: &mut StdRng) -> Result<String> {
        let redis = &mut self.redis[self.primary];
        redis.kill()?;
        let files = redis.spec.folder.join("appendonlydir");
        let what = match back {
            Back::Aof => "with its AOF".to_owned(),
            Back::TruncatedAof => {
                let newest = fs::read_dir(&files)?
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
                    .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
                let newest = newest.context("Redis has no append-only file")?;
                let whole = newest.metadata()?.len();
                let kept = whole - (whole / 50 + rng.random_range(100..4000)).min(whole);
                fs::File::options().write(true).open(&newest)?.set_len(kept)?;
                format!("with {kept} of {whole} bytes of its AOF")
            }
            Back::Nothing => {
                fs::remove_dir_all(&files)?;
                "with nothing".to_owned()
            }
        };
        self.redis_starts(self.primary)?;
        self.redis_answers(self.primary).await?;
        Ok(format!("redis-{} killed, came back {what}", self.primary))
    }

    async fn fails_over(&mut self, rng: &mut StdRng) -> Result<String> {
        self.replica_follows().await?;
        let (old, new) = (self.primary, 1 - self.primary);
        self.redis(new, &["REPLICAOF", "NO", "ONE"]).await?;
        // Half of the world still talks to the old one.
        self.to_redis.turn_to(self.redis_address(new));
        let apart = Duration::from_millis(rng.random_range(0..3000));
        sleep(apart).await;
        self.to_redis.cut();
        self.primary = new;
        let address = self.redis_address(new);
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        self.redis(old, &["REPLICAOF", &host, &port]).await?;
        let ms = apart.as_millis();
        Ok(format!(
            "redis-{new} promoted, redis-{old} took purchases for {ms} ms more and was demoted"
        ))
    }

    async fn mysql_loses_its_tail(&mut self, rng: &mut StdRng) -> Result<String> {
        let data = self.mysql.spec.folder.join("data");
        let copy = self.mysql.spec.folder.join("copy");
        let copies = |from: &std::path::Path, to: &std::path::Path| -> Result<()> {
            if !Command::new("cp").arg("-a").arg(from).arg(to).status()?.success() {
                bail!("the folder of MySQL can't be copied");
            }
            Ok(())
        };
        // All files as of one instant, as after a power failure.
        self.mysql.stop()?;
        let copied = copies(&data, &copy);
        self.mysql.go_on()?;
        copied?;
        let lost = Duration::from_millis(rng.random_range(1500..4000));
        self.pass(lost).await?;
        self.mysql.kill()?;
        fs::remove_dir_all(&data)?;
        fs::rename(&copy, &data)?;
        self.mysql_comes_back().await?;
        Ok(format!("MySQL came back as it was {} ms ago", lost.as_millis()))
    }

    fn pair(&self, which: Which) -> &[Process; 2] {
        match which {
            Which::Api => &self.api,
            Which::Operator => &self.operator,
            _ => &self.worker,
        }
    }

    /// Both of them do it at that place; who comes first.
    fn arm(&self, which: Which, place: &str, what: &str) -> Result<()> {
        for process in self.pair(which) {
            let _ = fs::remove_file(process.spec.folder.join(format!("{place}.reached")));
            fs::write(process.spec.folder.join(place), what)?;
        }
        Ok(())
    }

    /// Waits until one of the two came to the place, and lets the other one pass it.
    async fn reached(&mut self, which: Which, place: &str) -> Result<usize> {
        self.reached_within(which, place, Duration::from_secs(40)).await
    }

    async fn reached_within(&mut self, which: Which, place: &str, limit: Duration) -> Result<usize> {
        let begun = Instant::now();
        loop {
            for i in 0..2 {
                let folder = self.pair(which)[i].spec.folder.clone();
                if folder.join(format!("{place}.reached")).exists() {
                    self.disarm();
                    return Ok(i);
                }
            }
            if begun.elapsed() > limit {
                self.disarm();
                bail!("nobody came to {place}");
            }
            sleep(Duration::from_millis(5)).await;
            if begun.elapsed().as_millis() % 200 < 10 {
                self.tend()?;
            }
        }
    }

    async fn reached_by_a_worker(&mut self, place: &str, what: &str) -> Result<usize> {
        self.arm(Which::Worker, place, what)?;
        self.reached(Which::Worker, place).await
    }

    fn disarm(&self) {
        for which in [Which::Api, Which::Worker, Which::Operator] {
            for process in self.pair(which) {
                for place in AT.iter().chain(&STEPS) {
                    let _ = fs::remove_file(process.spec.folder.join(place));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_says_which_faults_come_and_in_which_order() {
        let of = |seed| {
            schedule(seed, 1, false, &[])
                .take(60)
                .map(Fault::name)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let kinds = kinds(1).len();
        let first: HashSet<String> = schedule(7, 1, false, &[]).take(kinds).map(Fault::name).collect();
        assert_eq!(first.len(), kinds, "every kind once before any comes again");
    }

    #[test]
    fn names_are_unique_and_readable() {
        let names: HashSet<String> = kinds(3).into_iter().map(Fault::name).collect();
        assert_eq!(names.len(), kinds(3).len());
        for name in [
            "kill-api",
            "mysql-loses-its-tail",
            "stop-at-rebuild.r4",
            "redis-restart-truncatedaof",
        ] {
            assert!(names.contains(name), "{name} of {names:?}");
        }
    }
}
