use std::fmt;

use rdkafka::ClientConfig;

use crate::error::LogError;

/// Where the log is.
#[derive(Clone)]
pub struct LogConfig {
    /// `host:port,...`
    pub brokers: String,
    pub topic: String,
    /// Properties of librdkafka, for encryption and login; those that the protocol depends on can't be set.
    pub properties: Vec<(String, String)>,
}

/// Properties hold passwords: only their names are shown.
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

/// What a cluster's owner may wish to set otherwise.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "seckill"),
    // An assigned consumer needs a group's name, though it commits nothing and is nobody's member.
    ("group.id", "seckill"),
    ("socket.keepalive.enable", "true"),
    // A broker that comes back must be in use within seconds; the defaults are 60 s, 30 s and 10 s.
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "5000"),
    ("reconnect.backoff.max.ms", "1000"),
];

/// What must be so for every client, or the protocol breaks.
const ALWAYS: &[(&str, &str)] = &[
    // A log that appears by itself, with a broker's defaults, is the wrong log.
    ("allow.auto.create.topics", "false"),
    ("socket.nagle.disable", "true"),
];

const PRODUCER: &[(&str, &str)] = &[
    ("acks", "all"),
    // Duplicates and reordering are harmless by design. An idempotent producer would refuse all work for ever after
    // some errors, and would hold everything back after each time-out.
    ("enable.idempotence", "false"),
    ("linger.ms", "0"),
    // While so many requests are under way, what is appended gathers for the next: batches without a timer.
    ("max.in.flight.requests.per.connection", "5"),
    // Whoever waits has given up by then; the default keeps a record for 300 s.
    ("message.timeout.ms", "5000"),
    ("request.timeout.ms", "5000"),
    ("queue.buffering.max.messages", "10000"),
    ("queue.buffering.max.kbytes", "65536"),
];

const CONSUMER: &[(&str, &str)] = &[
    // The position is ours to know. Anything else would skip records in silence.
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    // We write no transactions; a foreign one that stays open must not stop the log. All readers must agree on this.
    ("isolation.level", "read_uncommitted"),
    ("check.crcs", "true"),
    ("fetch.min.bytes", "1"),
    ("fetch.wait.max.ms", "500"),
    // The default stalls a reader for a second each time its queue was full.
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

impl LogConfig {
    pub(crate) fn producer(&self) -> Result<ClientConfig, LogError> {
        self.client(PRODUCER)
    }

    /// The properties that every reader of the log must have. Assign the partitions at offsets of your own: a position
    /// that a group committed is not the truth.
    pub fn consumer(&self) -> Result<ClientConfig, LogError> {
        self.client(CONSUMER)
    }

    /// A client for questions (metadata, end of a partition), which joins nothing. Not one that also reads: a broker
    /// answers one connection's requests in order, so a question would wait until the reader's fetch is over.
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
                "no topic; expected its name, such as seckill-orders".into(),
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
                    "the property {name} can't be set, since the order log depends on its value; remove it"
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
