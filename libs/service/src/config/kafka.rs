use super::{Expected, check_host_port};
use std::fmt;
use std::str::FromStr;

/// Kafka: the order log.
#[derive(Clone, Debug, clap::Args)]
pub struct KafkaArgs {
    /// Addresses of Kafka brokers, separated by commas
    #[arg(long, env = "SECKILL_KAFKA_BROKERS", value_name = "kafka-0:9092,kafka-1:9092")]
    pub kafka_brokers: Brokers,

    /// Topic of the order log
    #[arg(
        long,
        env = "SECKILL_KAFKA_TOPIC",
        default_value = "seckill-orders",
        value_name = "seckill-orders"
    )]
    pub kafka_topic: Topic,

    /// Additional librdkafka properties of the Kafka client, such as those of TLS and SASL. In a value, write a comma
    /// as \,
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

/// The name of a topic by the rules of Kafka.
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

/// Client properties that a user may set. Debug output has only the names, because values may be passwords and keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaProperties(Vec<(String, String)>);

impl KafkaProperties {
    /// Names and values, for the client only.
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
                // do not show the part: it may be the rest of a password with a comma
                return Err(Expected::new(format!(
                    "{WHAT}; part {} has no '=' (write a comma inside a value as \\,)",
                    index + 1
                )));
            };
            let name = name.trim();
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_'))
            {
                return Err(Expected::new(format!("{WHAT}; invalid name in part {}", index + 1)));
            }
            if let Some((_, why)) = RESERVED.iter().find(|(names, _)| names.contains(&name)) {
                return Err(Expected::new(format!("{name} can't be set: {why}")));
            }
            if properties.iter().any(|(known, _)| known == name) {
                // the name may be the rest of a password with a comma
                return Err(Expected::new(format!(
                    "each name once; part {} repeats one (write a comma inside a value as \\,)",
                    index + 1
                )));
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

/// Properties that the system sets itself, and the reason.
const RESERVED: &[(&[&str], &str)] = &[
    (
        &["bootstrap.servers", "metadata.broker.list"],
        "set the brokers in SECKILL_KAFKA_BROKERS",
    ),
    (
        &[
            "acks",
            "request.required.acks",
            "topic.acks",
            "topic.request.required.acks",
        ],
        "it is always all, because otherwise the loss of one broker could lose a confirmed order",
    ),
    (
        &["enable.idempotence", "enable.gapless.guarantee"],
        "it is fixed, and the protocol drops duplicates",
    ),
    (
        &[
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "retries",
            "message.send.max.retries",
        ],
        "it is fixed, because it affects the order of records",
    ),
    (&["transactional.id"], "the log does not use Kafka transactions"),
    (
        &["isolation.level"],
        "it is fixed, because every reader must read the same records",
    ),
    (
        &[
            "group.id",
            "group.instance.id",
            "group.protocol",
            "partition.assignment.strategy",
        ],
        "only order-worker joins a group, set by SECKILL_WORKER_GROUP, and the assignment of partitions is fixed",
    ),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.offset.store",
            "offset.store.method",
        ],
        "MySQL holds the position, which moves in the transaction that stores the orders",
    ),
    (&["auto.offset.reset"], "a missing offset must stop the reader"),
    (
        &["enable.partition.eof"],
        "it is fixed, because the readers depend on it",
    ),
    (
        &["partitioner", "topic.partitioner"],
        "the partition of a sale never changes",
    ),
    (
        &["allow.auto.create.topics"],
        "an automatically created topic has the wrong settings; see order-worker migrate --create-topic",
    ),
    (
        &["delivery.report.only.error"],
        "it is fixed, because the program needs the delivery report of every record",
    ),
];
