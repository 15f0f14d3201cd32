use std::fmt;

use rdkafka::ClientConfig;

use crate::error::LogError;

/// The address of the log.
#[derive(Clone)]
pub struct LogConfig {
    /// `host:port,...`
    pub brokers: String,
    pub topic: String,
    /// Properties of librdkafka, such as those of TLS and SASL. Properties that the protocol depends on can't be set.
    pub properties: Vec<(String, String)>,
}

/// Shows only the names of properties, because values may be passwords.
impl fmt::Debug for LogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.properties.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("LogConfig")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("properties", &names)
            .finish()
    }
}

/// Defaults that `properties` may override.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "seckill"),
    // A consumer needs a group id even if it only assigns partitions and commits nothing.
    ("group.id", "seckill"),
    ("socket.keepalive.enable", "true"),
    // A broker that comes back must be used within seconds. The defaults are 60 s, 30 s and 10 s.
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "5000"),
    ("reconnect.backoff.max.ms", "1000"),
];

/// Properties of every client that the protocol depends on.
const ALWAYS: &[(&str, &str)] = &[
    // An automatically created topic has the wrong settings.
    ("allow.auto.create.topics", "false"),
    ("socket.nagle.disable", "true"),
];

const PRODUCER: &[(&str, &str)] = &[
    ("acks", "all"),
    // Duplicates and reordering are harmless by design. An idempotent producer stops working after some errors, and
    // delays all records after each timeout.
    ("enable.idempotence", "false"),
    ("linger.ms", "0"),
    // Records gather for the next request while this many are in flight: batches without a timer.
    ("max.in.flight.requests.per.connection", "5"),
    // A waiting caller has given up by then. The default keeps a record for 300 s.
    ("message.timeout.ms", "5000"),
    ("request.timeout.ms", "5000"),
    ("queue.buffering.max.messages", "10000"),
    ("queue.buffering.max.kbytes", "65536"),
];

const CONSUMER: &[(&str, &str)] = &[
    // The program knows its position. Any other value would skip records silently.
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    // This system writes no transactions, and an open foreign one must not stop the log. All readers must use the same
    // value.
    ("isolation.level", "read_uncommitted"),
    ("check.crcs", "true"),
    ("fetch.min.bytes", "1"),
    ("fetch.wait.max.ms", "500"),
    // The default delays a reader by a second each time its queue was full.
    ("fetch.queue.backoff.ms", "20"),
    ("fetch.error.backoff.ms", "100"),
    ("queued.max.messages.kbytes", "16384"),
];

/// Other names of the properties above.
const ALIASES: &[&str] = &[
    "bootstrap.servers",
    "metadata.broker.list",
    "request.required.acks",
    "queue.buffering.max.ms",
    "delivery.timeout.ms",
    "max.in.flight",
    "transactional.id",
    "enable.gapless.guarantee",
];

/// Whether this program sets the property. Then its value is no secret.
pub(crate) fn is_fixed(name: &str) -> bool {
    let sets = [DEFAULTS, ALWAYS, PRODUCER, CONSUMER];
    let fixed = sets.iter().any(|set| set.iter().any(|(known, _)| *known == name));
    fixed || name == "bootstrap.servers"
}

impl LogConfig {
    pub(crate) fn producer(&self) -> Result<ClientConfig, LogError> {
        self.client(PRODUCER)
    }

    /// The properties that every reader of the log must have. Assign the partitions at your own offsets: the committed
    /// offsets of a group are not the truth.
    pub fn consumer(&self) -> Result<ClientConfig, LogError> {
        self.client(CONSUMER)
    }

    /// A client for queries (metadata, end of a partition) that joins no group. It does not read: a broker answers the
    /// requests of a connection in order, so a query would wait for the fetch of a reader.
    pub(crate) fn observer(&self) -> Result<ClientConfig, LogError> {
        let mut config = self.client(&[("isolation.level", "read_uncommitted")])?;
        config.remove("group.id");
        Ok(config)
    }

    pub(crate) fn admin(&self) -> Result<ClientConfig, LogError> {
        self.client(&[])
    }

    fn client(&self, role: &[(&str, &str)]) -> Result<ClientConfig, LogError> {
        if self.brokers.trim().is_empty() {
            return Err(LogError::Config(
                "no brokers; expected host:port,..., such as kafka-0:9092".into(),
            ));
        }
        if self.topic.is_empty() {
            return Err(LogError::Config(
                "no topic; expected a name, such as seckill-orders".into(),
            ));
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in DEFAULTS {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            let ours = [ALWAYS, PRODUCER, CONSUMER]
                .iter()
                .any(|set| set.iter().any(|(n, _)| n == name));
            if ours || ALIASES.contains(&name.as_str()) {
                return Err(LogError::Config(format!(
                    "the property {name} can't be set, because the order log depends on its value; remove it"
                )));
            }
            config.set(name, value);
        }
        for (name, value) in ALWAYS.iter().chain(role) {
            config.set(*name, *value);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(properties: &[(&str, &str)]) -> LogConfig {
        LogConfig {
            brokers: "kafka-0:9092".into(),
            topic: "orders".into(),
            properties: properties.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        }
    }

    #[test]
    fn properties_of_the_protocol_cannot_be_set() {
        for name in ["acks", "request.required.acks", "auto.offset.reset", "isolation.level"] {
            let error = config(&[(name, "1")]).producer().expect_err(name).to_string();
            assert!(error.contains(name) && error.contains("remove it"), "{error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = format!("{:?}", config(&[("sasl.password", "hunter2")]));
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn cluster_properties_reach_every_client() {
        let config = config(&[("security.protocol", "ssl"), ("socket.timeout.ms", "7000")]);
        for client in [config.producer(), config.consumer(), config.observer(), config.admin()] {
            let client = client.expect("valid");
            assert_eq!(client.get("security.protocol"), Some("ssl"));
            assert_eq!(client.get("socket.timeout.ms"), Some("7000"));
            assert_eq!(client.get("allow.auto.create.topics"), Some("false"));
        }
    }
}
