use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::append::OrderLog;
use crate::config::LogConfig;
use crate::creation_error::creation_error;
use crate::error::LogError;
use crate::kafka::{self, QUERY_TIMEOUT, QuietContext, TopicMetadata};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    Created,
    Existed,
}

/// Settings of the topic, for checks before a sale. `None`: the brokers do not report it, because they have no such setting
/// or this client may not read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    pub partitions: u32,
    /// The lowest number of replicas of a partition.
    pub replication: u32,
    pub min_insync: Option<u32>,
    /// Minimum time that Kafka holds a record; -1 = forever.
    pub retention_ms: Option<i64>,
    /// Minimum number of bytes of a partition that Kafka holds; -1 = all.
    pub retention_bytes: Option<i64>,
    pub cleanup_policy: Option<String>,
    /// True means that the log can lose acknowledged records.
    pub unclean_election: Option<bool>,
}

/// The brokers refuse to report settings, or can't.
const NOT_REPORTED: [RDKafkaErrorCode; 3] = [
    RDKafkaErrorCode::TopicAuthorizationFailed,
    RDKafkaErrorCode::ClusterAuthorizationFailed,
    RDKafkaErrorCode::UnsupportedVersion,
];

/// Time limit for a new topic to be known to all brokers.
const TOPIC_VISIBLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Creates the topic with the settings that the log needs. An existing topic is not changed; it is an error if it can't
/// hold the log. It may have more partitions than requested, because a sale keeps its partition.
pub async fn ensure_topic(
    config: &LogConfig,
    partitions: u32,
    replication: u32,
    min_insync: u32,
) -> Result<Ensured, LogError> {
    let problem = |problem: String| LogError::Topic {
        topic: config.topic.clone(),
        problem,
    };
    if partitions == 0 || replication == 0 || min_insync == 0 || min_insync > replication {
        return Err(problem(format!(
            "{partitions} partitions, {replication} replicas, {min_insync} in-sync replicas; expected at least 1 of each, \
             and no more in-sync replicas than replicas, such as 8, 3 and 2"
        )));
    }
    let admin = admin(config)?;
    let ensured = match find(config).await {
        Ok(_) => Ensured::Existed,
        Err(LogError::NoTopic(_)) => create(&admin, config, partitions, replication, min_insync).await?,
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + TOPIC_VISIBLE_TIMEOUT;
    let found = loop {
        match find(config).await {
            Err(LogError::NoTopic(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            result => break result?,
        }
    };
    if found.partitions < partitions {
        return Err(problem(format!(
            "it has {} partitions, and {partitions} were requested; request {}, or add partitions with the tools of Kafka \
             (existing sales keep their partition)",
            found.partitions, found.partitions
        )));
    }
    let cleanup = setting(&describe(&admin, &config.topic).await?, "cleanup.policy");
    if cleanup.as_deref().is_some_and(|policy| policy.contains("compact")) {
        return Err(problem(
            "its cleanup.policy is compact, which removes orders; set it to delete, or use another topic".into(),
        ));
    }
    Ok(ensured)
}

impl OrderLog {
    pub async fn topic_facts(&self) -> Result<TopicFacts, LogError> {
        let topic = self.config().topic.clone();
        let observer = self.observer();
        let TopicMetadata {
            partitions,
            replication,
        } = kafka::blocking("reading the metadata of the topic", {
            let topic = topic.clone();
            move || kafka::find_topic(&observer, &topic)
        })
        .await?;
        let resource = match describe(&admin(self.config())?, &topic).await {
            Ok(resource) => Some(resource),
            // Selling needs no right to read the settings.
            Err(LogError::Kafka {
                error: KafkaError::AdminOp(code),
                ..
            }) if NOT_REPORTED.contains(&code) => None,
            Err(error) => return Err(error),
        };
        let read = |name: &str| setting(resource.as_ref()?, name);
        let number = |name: &str| read(name)?.parse::<i64>().ok();
        Ok(TopicFacts {
            partitions,
            replication,
            min_insync: number("min.insync.replicas").map(|least| u32::try_from(least).unwrap_or(0)),
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            cleanup_policy: read("cleanup.policy"),
            unclean_election: read("unclean.leader.election.enable").map(|enabled| enabled == "true"),
        })
    }
}

fn admin(config: &LogConfig) -> Result<AdminClient<QuietContext>, LogError> {
    let config = config.admin()?;
    config
        .create_with_context(QuietContext::default())
        .map_err(creation_error("creating an admin client", &config))
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(QUERY_TIMEOUT))
        .operation_timeout(Some(QUERY_TIMEOUT))
}

async fn find(config: &LogConfig) -> Result<TopicMetadata, LogError> {
    let (observer, topic) = (config.observer()?, config.topic.clone());
    kafka::blocking("reading the metadata of the topic", move || {
        kafka::find_topic(&kafka::consumer(&observer)?, &topic)
    })
    .await
}

async fn create(
    admin: &AdminClient<QuietContext>,
    config: &LogConfig,
    partitions: u32,
    replication: u32,
    min_insync: u32,
) -> Result<Ensured, LogError> {
    let min_insync = min_insync.to_string();
    let topic = NewTopic::new(
        &config.topic,
        partitions as i32,
        TopicReplication::Fixed(replication as i32),
    )
    .set("min.insync.replicas", &min_insync)
    .set("cleanup.policy", "delete")
    // The log is the truth. Only the owner of the cluster decides to remove old records, no default does.
    .set("retention.ms", "-1")
    .set("retention.bytes", "-1")
    .set("unclean.leader.election.enable", "false");
    let results = admin
        .create_topics([&topic], &options())
        .await
        .map_err(LogError::kafka("creating the topic"))?;
    for result in results {
        match result {
            // Another process was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                return Err(LogError::Topic {
                    topic: config.topic.clone(),
                    problem: format!(
                        "{replication} replicas were requested, and there are fewer brokers; request fewer replicas"
                    ),
                });
            }
            Err((_, code)) => {
                return Err(LogError::Kafka {
                    what: "creating the topic",
                    error: KafkaError::AdminOp(code),
                });
            }
        }
    }
    Ok(Ensured::Created)
}

async fn describe(admin: &AdminClient<QuietContext>, topic: &str) -> Result<ConfigResource, LogError> {
    const WHAT: &str = "reading the settings of the topic";
    let resources = admin
        .describe_configs([&ResourceSpecifier::Topic(topic)], &options())
        .await
        .map_err(LogError::kafka(WHAT))?;
    match resources.into_iter().next() {
        Some(Ok(resource)) => Ok(resource),
        Some(Err(code)) => Err(LogError::Kafka {
            what: WHAT,
            error: KafkaError::AdminOp(code),
        }),
        None => Err(LogError::NoTopic(topic.into())),
    }
}

fn setting(resource: &ConfigResource, name: &str) -> Option<String> {
    resource.get(name)?.value.clone()
}
