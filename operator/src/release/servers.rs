//! Reads the settings of Redis, Kafka and MySQL, once for all sales. The planner says what they mean for one sale.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seckill_ledger::LedgerError;
use seckill_order_log::TopicFacts;
use seckill_planner::clocks::ClockDifference;
use seckill_planner::preflight::{
    Backlog, ExpectedTopic, LedgerLag, MysqlConnections, RedisSettings, ServerSettings, TopicSettings,
};
use seckill_protocol::Offset;
use seckill_service::clock::Clock;
use seckill_service::log_once::FailureLog;
use seckill_service::mysql_pool;
use seckill_service::periodic;
use seckill_stock::BYTES_AN_ORDER;
use tokio::sync::watch;

use crate::args::TopicArgs;
use crate::clock_reading::ClockReading;
use crate::context::{Connections, Context};
use crate::error::ReconcileError;

const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// One leads and one stands by.
const OPERATORS: u64 = 2;
/// How long the first check waits for connections.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long the last answer of a server counts while the server does not answer.
const LAST_ANSWER_VALID: Duration = Duration::from_secs(60);

/// Runs until the leadership term ends.
pub async fn run(context: Arc<Context>, observed: watch::Sender<Option<Arc<ServerSettings>>>) {
    let connections = &context.connections;
    let (mut redis, mut orders_to_come, mut topic) = (LastAnswer::new(), LastAnswer::new(), LastAnswer::new());
    let (mut ledger, mut ledger_lag) = (LastAnswer::new(), LastAnswer::new());
    let (mut mysql_clock, mut mysql_connections) = (LastAnswer::new(), LastAnswer::new());
    let mut clock_warnings = FailureLog::changes();
    let mut backlog = Backlog::default();
    // A connection that is being made says nothing about its server.
    let _ = tokio::time::timeout(CONNECT_WAIT, connections.connected()).await;
    let mut ticks = periodic(CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        let answers = read(connections, &context.clock, &context.release.class, &mut backlog).await;
        let redis = redis.or_last(answers.redis.map(|(settings, earliest)| {
            context.cache.set_clock_of_redis(earliest);
            settings
        }));
        if redis.is_err() {
            context.cache.set_clock_of_redis(None);
        }
        let mysql_clock = mysql_clock.or_last(answers.mysql_clock).ok();
        warn_of_clocks(
            &context,
            &mut clock_warnings,
            redis
                .iter()
                .flatten()
                .map(|redis| redis.clock)
                .max_by_key(|clock| clock.ahead_ms.unsigned_abs()),
            mysql_clock,
        );
        observed.send_replace(Some(Arc::new(ServerSettings {
            redis,
            orders_to_come: orders_to_come.or_last(answers.orders_to_come),
            topic: topic.or_last(answers.topic),
            ledger: ledger.or_last(answers.ledger),
            ledger_lag: ledger_lag.or_last(answers.ledger_lag),
            mysql_clock,
            mysql_connections: mysql_connections.or_last(answers.mysql_connections).ok(),
            expected: expected(&context.release.topic),
            issuers: context.release.issuers.clone(),
        })));
    }
}

/// What the servers answered to one check.
struct Answers {
    /// With the earliest of their clocks: none closes a sale before it.
    redis: Result<(Vec<RedisSettings>, Option<ClockReading>), ReconcileError>,
    orders_to_come: Result<u64, ReconcileError>,
    topic: Result<TopicSettings, ReconcileError>,
    ledger: Result<Option<String>, ReconcileError>,
    ledger_lag: Result<BTreeMap<u32, LedgerLag>, ReconcileError>,
    mysql_clock: Result<ClockDifference, ReconcileError>,
    mysql_connections: Result<MysqlConnections, ReconcileError>,
}

async fn read(connections: &Connections, clock: &Clock, class: &str, backlog: &mut Backlog) -> Answers {
    let (redis, orders_to_come, topic, ledger, ledger_lag, mysql_clock, mysql_connections) = tokio::join!(
        redis_settings(connections, clock),
        orders_to_come_in(connections, class),
        topic_settings(connections),
        ledger_problem(connections),
        lag_of_ledger(connections, backlog),
        clock_of_mysql(connections, clock),
        connections_of_mysql(connections),
    );
    Answers {
        redis,
        orders_to_come,
        topic,
        ledger,
        ledger_lag,
        mysql_clock,
        mysql_connections,
    }
}

/// Reads the settings once, for the subcommand `check`.
pub async fn read_once(connections: &Connections, class: &str, topic: &TopicArgs) -> ServerSettings {
    let answers = read(connections, &Clock::system(), class, &mut Backlog::default()).await;
    fn known<T>(answer: Result<T, ReconcileError>) -> Result<T, String> {
        answer.map_err(|error| error.to_string())
    }
    ServerSettings {
        redis: known(answers.redis.map(|(settings, _)| settings)),
        orders_to_come: known(answers.orders_to_come),
        topic: known(answers.topic),
        ledger: known(answers.ledger),
        ledger_lag: known(answers.ledger_lag),
        mysql_clock: answers.mysql_clock.ok(),
        mysql_connections: answers.mysql_connections.ok(),
        expected: expected(topic),
        issuers: None,
    }
}

fn expected(topic: &TopicArgs) -> ExpectedTopic {
    ExpectedTopic {
        replication: topic.topic_replication,
        min_insync: topic.topic_min_insync,
    }
}

async fn redis_settings(
    connections: &Connections,
    clock: &Clock,
) -> Result<(Vec<RedisSettings>, Option<ClockReading>), ReconcileError> {
    let settings = connections.stock()?.settings().await?;
    let earliest = settings.iter().map(|server| server.clock).min();
    let mut servers: Vec<_> = settings.into_iter().map(|server| settings_of(clock, server)).collect();
    servers.sort_by(|a, b| a.server.cmp(&b.server));
    Ok((servers, earliest.map(ClockReading::of)))
}

fn settings_of(clock: &Clock, settings: seckill_stock::ServerSettings) -> RedisSettings {
    RedisSettings {
        server: settings.server,
        eviction: settings.eviction,
        max_memory: settings.max_memory,
        used_memory: settings.used_memory,
        bytes_per_order: BYTES_AN_ORDER,
        persistence_fails: settings.persistence_fails,
        append_only_file: settings.append_only_file,
        clock: ClockDifference {
            ahead_ms: settings.clock.cast_signed() - clock.now().cast_signed(),
            round_trip_ms: settings.round_trip.as_millis() as u64,
        },
    }
}

async fn orders_to_come_in(connections: &Connections, class: &str) -> Result<u64, ReconcileError> {
    Ok(connections.ledger()?.orders_to_come(class).await?)
}

async fn topic_settings(connections: &Connections) -> Result<TopicSettings, ReconcileError> {
    let TopicFacts {
        partitions,
        replication,
        min_insync,
        retention_ms,
        retention_bytes,
        cleanup_policy,
        unclean_election,
    } = connections.log()?.topic_facts().await?;
    Ok(TopicSettings {
        partitions,
        replication,
        min_insync,
        retention_ms,
        retention_bytes,
        cleanup_policy,
        unclean_election,
    })
}

async fn ledger_problem(connections: &Connections) -> Result<Option<String>, ReconcileError> {
    let ledger = connections.ledger()?;
    for checked in [ledger.check_schema().await, ledger.check_writable().await] {
        match checked {
            Ok(()) => {}
            Err(problem @ LedgerError::SchemaBehind { .. }) => return Ok(Some(problem.to_string())),
            Err(LedgerError::NotWritable(why)) => {
                return Ok(Some(format!(
                    "it accepts no writes ({why}): point --mysql-url to the primary, switch read_only off, or grant the \
                     privilege"
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

async fn clock_of_mysql(connections: &Connections, clock: &Clock) -> Result<ClockDifference, ReconcileError> {
    let asked = clock.now();
    let theirs = connections.ledger()?.clock().await?;
    Ok(ClockDifference::of(theirs, asked, clock.now()))
}

async fn connections_of_mysql(connections: &Connections) -> Result<MysqlConnections, ReconcileError> {
    Ok(MysqlConnections {
        allowed: connections.ledger()?.max_connections().await?,
        api: mysql_pool::API.into(),
        worker: mysql_pool::WORKER.into(),
        operators: u64::from(mysql_pool::OPERATOR) * OPERATORS,
    })
}

/// Says in the log and in the metrics how far the clocks differ.
fn warn_of_clocks(
    context: &Context,
    warnings: &mut FailureLog,
    redis: Option<ClockDifference>,
    mysql: Option<ClockDifference>,
) {
    let mut texts = Vec::new();
    for (label, server, difference) in [("redis", "Redis", redis), ("mysql", "MySQL", mysql)] {
        context.metrics.clock_difference(label, difference);
        texts.extend(difference.and_then(|difference| difference.warning(server)));
    }
    if texts.is_empty() {
        warnings.succeeded();
    } else if warnings.failed(&texts.join("; ")) {
        tracing::warn!(clocks = texts.join("; "), "clocks differ");
    }
}

async fn lag_of_ledger(
    connections: &Connections,
    backlog: &mut Backlog,
) -> Result<BTreeMap<u32, LedgerLag>, ReconcileError> {
    let (log, mut ranges) = (connections.log()?, Vec::new());
    for partition in 0..log.refresh_partitions().await? {
        ranges.push((partition, log.offsets(partition).await?));
    }
    let positions: HashMap<u32, Offset> = connections.ledger()?.positions().await?.into_iter().collect();
    let now = Instant::now();
    let lag = ranges.into_iter().filter_map(|(partition, range)| {
        let position = positions.get(&partition).copied().unwrap_or_default();
        Some((partition, backlog.lag(partition, position, range, now)?))
    });
    Ok(lag.collect())
}

/// The last answer of a server, for as long as it counts.
struct LastAnswer<T>(Option<(T, Instant)>);

impl<T: Clone> LastAnswer<T> {
    fn new() -> Self {
        LastAnswer(None)
    }

    fn or_last(&mut self, answer: Result<T, ReconcileError>) -> Result<T, String> {
        match answer {
            Ok(answer) => {
                self.0 = Some((answer.clone(), Instant::now()));
                Ok(answer)
            }
            Err(error) => match &self.0 {
                Some((last, at)) if at.elapsed() < LAST_ANSWER_VALID => Ok(last.clone()),
                _ => Err(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts_while_a_server_is_silent() {
        let refused = || Err(ReconcileError::Ledger(LedgerError::NotWritable("refused".into())));
        let mut last = LastAnswer::new();
        assert!(last.or_last(refused()).is_err());
        assert_eq!(last.or_last(Ok(1)), Ok(1));
        assert_eq!(last.or_last(refused()), Ok(1));
        let Some((_, at)) = &mut last.0 else {
            unreachable!("there was an answer")
        };
        *at -= LAST_ANSWER_VALID;
        assert!(last.or_last(refused()).is_err());
    }
}
