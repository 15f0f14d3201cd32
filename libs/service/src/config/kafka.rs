use super::{Expected, check_host_port};
use std::fmt;
use std::str::FromStr;

/// Kafka: the order log.
#[derive(Clone, Debug, clap::Args)]
pub struct KafkaArgs {
    /// Kafka brokers to begin with, separated by commas
    #[arg(long, env = "SECKILL_KAFKA_BROKERS", value_name = "kafka-0:9092,kafka-1:9092")]
    pub kafka_brokers: Brokers,

    /// The topic of the order log
    #[arg(
        long,
        env = "SECKILL_KAFKA_TOPIC",
        default_value = "seckill-orders",
        value_name = "seckill-orders"
    )]
    pub kafka_topic: Topic,

    /// More properties of the Kafka client by their librdkafka names, such as those of TLS and SASL. In a value, \, is a comma
    #[arg(
        long,
        env = "SECKILL_KAFKA_PROPERTIES",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "security.protocol=SASL_SSL,sasl.mechanism=PLAIN,sasl.username=user,sasl.password=password"
    )]
    pub kafka_properties: KafkaProperties,
}

/// `host:port`, one or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brokers(String);

impl Brokers {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Brokers {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
        for broker in &brokers {
            check_host_port("host:port, one or more separated by commas", broker)?;
        }
        Ok(Self(brokers.join(",")))
    }
}

impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic's name, by Kafka's own rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic(String);

impl Topic {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !letters || text == "." || text == ".." || !(1..=249).contains(&text.len()) {
            return Err(Expected::new("1 to 249 letters, digits, '.', '_' or '-'"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Client properties that the reader may set. Shows the names only: values may be passwords and keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaProperties(Vec<(String, String)>);

impl KafkaProperties {
    /// With the values: for the client only.
    pub fn expose(&self) -> &[(String, String)] {
        &self.0
    }
}

impl FromStr for KafkaProperties {
    type Err = Expected;

    /// Properties are separated by commas or line ends; in a value `\,` is a comma and `\\` a backslash.
    fn from_str(text: &str) -> Result<Self, Expected> {
        const WHAT: &str = "name=value, separated by commas, names as in librdkafka's CONFIGURATION.md";
        let mut properties: Vec<(String, String)> = Vec::new();
        for (index, part) in split_unescaped(text).iter().enumerate() {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let Some((name, value)) = part.split_once('=') else {
                // the part itself may be the rest of a password with a comma in it
                return Err(Expected::new(format!(
                    "{WHAT}; part {} has no '=' (a comma inside a value is written \\,)",
                    index + 1
                )));
            };
            let name = name.trim();
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_'))
            {
                return Err(Expected::new(format!(
                    "{WHAT}; the name in part {} is not one",
                    index + 1
                )));
            }
            if let Some((_, why)) = OURS.iter().find(|(names, _)| names.contains(&name)) {
                return Err(Expected::new(format!("no {name}: {why}")));
            }
            if properties.iter().any(|(known, _)| known == name) {
                return Err(Expected::new(format!("{name} only once")));
            }
            properties.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Self(properties))
    }
}

impl fmt::Debug for KafkaProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' | '\n' => parts.push(String::new()),
            '\\' if matches!(chars.peek(), Some(',' | '\\')) => {
                parts.last_mut().into_iter().for_each(|part| part.extend(chars.next()))
            }
            other => parts.last_mut().into_iter().for_each(|part| part.push(other)),
        }
    }
    parts
}

/// What the protocol decides itself, and why another value would break it.
const OURS: &[(&[&str], &str)] = &[
    (
        &["bootstrap.servers", "metadata.broker.list"],
        "the brokers stand in SECKILL_KAFKA_BROKERS",
    ),
    (
        &[
            "acks",
            "request.required.acks",
            "topic.acks",
            "topic.request.required.acks",
        ],
        "always all, or an order that a buyer was told of could be lost with one broker",
    ),
    (
        &["enable.idempotence", "enable.gapless.guarantee"],
        "the client's order of sending is fixed, and duplicates are dropped by the protocol",
    ),
    (
        &[
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "retries",
            "message.send.max.retries",
        ],
        "the order of records is fixed",
    ),
    (&["transactional.id"], "the log is written without Kafka transactions"),
    (&["isolation.level"], "every reader must read the same records"),
    (
        &[
            "group.id",
            "group.instance.id",
            "group.protocol",
            "partition.assignment.strategy",
        ],
        "only order-worker joins a group, by SECKILL_WORKER_GROUP, and how its partitions are given out is fixed",
    ),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.offset.store",
            "offset.store.method",
        ],
        "the position in the log moves in MySQL, in the transaction that stores the orders",
    ),
    (
        &["auto.offset.reset"],
        "an offset that is gone must stop the reader, not move it",
    ),
    (&["enable.partition.eof"], "the reader's end of a partition is fixed"),
    (
        &["partitioner", "topic.partitioner"],
        "a sale's partition is fixed for its life",
    ),
    (
        &["allow.auto.create.topics"],
        "a topic made by the broker has the wrong settings: see order-worker migrate --create-topic",
    ),
    (
        &["delivery.report.only.error"],
        "an order counts only once the broker has confirmed its record",
    ),
];
