use super::{Expected, certificate_file, check_host_port, key_file};
use std::fmt;
use std::path::PathBuf;
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
    #[command(flatten)]
    pub kafka_tls: KafkaTlsArgs,
}

impl KafkaArgs {
    /// The properties of the client, with the files of TLS. For the client only.
    pub fn expose(&self) -> Vec<(String, String)> {
        let mut properties = self.kafka_tls.properties(&self.kafka_properties);
        properties.extend(self.kafka_properties.expose().iter().cloned());
        properties
    }
}

/// TLS to Kafka. The properties of the user count where both say something.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct KafkaTlsArgs {
    /// File with the CA of Kafka, in PEM. With it, security.protocol is ssl, or sasl_ssl with a sasl.mechanism
    #[arg(long, env = "SECKILL_KAFKA_CA_FILE", value_name = "/etc/seckill-tls/kafka/ca.crt", value_parser = certificate_file)]
    pub kafka_ca_file: Option<PathBuf>,
    /// File with the client certificate for Kafka, in PEM
    #[arg(long, env = "SECKILL_KAFKA_CERT_FILE", value_name = "/etc/seckill-tls/kafka/tls.crt", requires = "kafka_key_file",
        value_parser = certificate_file)]
    pub kafka_cert_file: Option<PathBuf>,
    /// File with the key of the client certificate, in PEM
    #[arg(long, env = "SECKILL_KAFKA_KEY_FILE", value_name = "/etc/seckill-tls/kafka/tls.key", requires = "kafka_cert_file",
        value_parser = key_file)]
    pub kafka_key_file: Option<PathBuf>,
}

impl KafkaTlsArgs {
    /// What the files mean, without what the user has set.
    fn properties(&self, of_user: &KafkaProperties) -> Vec<(String, String)> {
        let is_set = |names: &[&str]| of_user.expose().iter().any(|(name, _)| names.contains(&name.as_str()));
        let files = [
            ("ssl.ca.location", &self.kafka_ca_file),
            ("ssl.certificate.location", &self.kafka_cert_file),
            ("ssl.key.location", &self.kafka_key_file),
        ];
        let mut properties: Vec<(&str, String)> = files
            .into_iter()
            .filter_map(|(name, file)| Some((name, file.as_ref()?.display().to_string())))
            .collect();
        if !properties.is_empty() {
            let protocol = match is_set(&["sasl.mechanism", "sasl.mechanisms"]) {
                true => "sasl_ssl",
                false => "ssl",
            };
            properties.push(("security.protocol", protocol.to_owned()));
        }
        properties.retain(|(name, _)| !is_set(&[name]));
        properties
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
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
            let value = value.trim();
            if let Some((_, _, why)) = INSECURE
                .iter()
                .find(|(of, is, _)| *of == name && is.eq_ignore_ascii_case(value))
            {
                return Err(Expected::new(format!("{name} can't have this value: {why}")));
            }
            if properties.iter().any(|(known, _)| known == name) {
                // the name may be the rest of a password with a comma
                return Err(Expected::new(format!(
                    "each name once; part {} repeats one (write a comma inside a value as \\,)",
                    index + 1
                )));
            }
            properties.push((name.to_owned(), value.to_owned()));
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

/// Values that would let anybody in between read passwords and orders.
const INSECURE: &[(&str, &str, &str)] = &[
    (
        "enable.ssl.certificate.verification",
        "false",
        "anybody could pretend to be Kafka; give the CA in SECKILL_KAFKA_CA_FILE",
    ),
    (
        "ssl.endpoint.identification.algorithm",
        "none",
        "any server with a certificate of the CA could pretend to be Kafka; give the brokers certificates with their host names",
    ),
];

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

#[cfg(test)]
mod tests {
    use super::*;

    fn args(properties: &str, ca: Option<&str>) -> Vec<(String, String)> {
        KafkaArgs {
            kafka_brokers: "kafka:9092".parse().unwrap(),
            kafka_topic: "orders".parse().unwrap(),
            kafka_properties: properties.parse().unwrap(),
            kafka_tls: KafkaTlsArgs {
                kafka_ca_file: ca.map(Into::into),
                ..KafkaTlsArgs::default()
            },
        }
        .expose()
    }

    fn value<'a>(properties: &'a [(String, String)], name: &str) -> Vec<&'a str> {
        let of = properties.iter().filter(|(known, _)| known == name);
        of.map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn a_ca_file_turns_tls_on() {
        assert_eq!(args("client.id=me", None), [("client.id".to_owned(), "me".to_owned())]);
        let tls = args("", Some("/ca"));
        assert_eq!(value(&tls, "security.protocol"), ["ssl"]);
        assert_eq!(value(&tls, "ssl.ca.location"), ["/ca"]);
        let login = "sasl.mechanism=SCRAM-SHA-512,sasl.username=u,sasl.password=p";
        assert_eq!(value(&args(login, Some("/ca")), "security.protocol"), ["sasl_ssl"]);
        let own = args("security.protocol=SSL,ssl.ca.location=/own", Some("/ca"));
        assert_eq!(value(&own, "security.protocol"), ["SSL"]);
        assert_eq!(value(&own, "ssl.ca.location"), ["/own"]);
    }

    #[test]
    fn the_identity_of_a_broker_is_always_verified() {
        for insecure in [
            "enable.ssl.certificate.verification=False",
            "ssl.endpoint.identification.algorithm=none",
        ] {
            let refused = insecure.parse::<KafkaProperties>().unwrap_err().to_string();
            assert!(refused.contains("pretend to be Kafka"), "{refused}");
        }
        assert!(
            "ssl.endpoint.identification.algorithm=https"
                .parse::<KafkaProperties>()
                .is_ok()
        );
    }
}
