//! A client that could not be created. What the client says may repeat the value of a property, which may be a password.
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use crate::config::is_fixed;
use crate::error::LogError;

/// The error without values of properties.
pub fn creation_error(what: &'static str, config: &ClientConfig) -> impl FnOnce(KafkaError) -> LogError {
    move |error| match error {
        KafkaError::ClientCreation(problem) => LogError::Config(without_values(&problem, config)),
        error => LogError::kafka(what)(error),
    }
}

/// Shorter words say nothing about a password.
const MIN_HIDDEN_LENGTH: usize = 4;

/// The text without the words that are part of a property's value.
fn without_values(text: &str, config: &ClientConfig) -> String {
    let properties = config.config_map();
    let values: Vec<&str> = properties
        .iter()
        .filter(|(name, _)| !is_fixed(name))
        .map(|(_, value)| *value)
        .collect();
    let hide = |word: &str| {
        let bare = word.trim_matches(|c: char| c.is_ascii_punctuation());
        bare.len() >= MIN_HIDDEN_LENGTH && values.iter().any(|value| value.contains(bare))
    };
    let words = text.split(' ').map(|word| if hide(word) { "***" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn shown_error(name: &str, value: &str) -> String {
        let mut config = ClientConfig::new();
        config.set("group.id", "seckill").set("sasl.mechanism", "OAUTHBEARER");
        config.set("security.protocol", "SASL_SSL").set(name, value);
        let consumer: Result<BaseConsumer, _> = config.create();
        let error = consumer.map_err(creation_error("creating a consumer", &config));
        // Some values are only checked when they are used.
        error.map_or_else(|error| format!("{error} {error:?}"), |_| String::new())
    }

    #[test]
    fn an_error_never_shows_the_value_of_a_property() {
        for (name, value) in [
            ("sasl.pasword", "hunter2-secret"),
            ("sasl.mechanisms.x", "hunter2-secret"),
            ("hunter2", "x"),
            ("security.protocol", "hunter2-secret"),
            ("socket.timeout.ms", "hunter2-secret"),
            ("ssl.key.pem", "hunter2-secret"),
            ("sasl.oauthbearer.config", "hunter2-secret"),
            ("ssl.ca.location", "/hunter2-secret"),
        ] {
            let error = shown_error(name, value);
            assert!(!error.contains("hunter2"), "{name}: {error}");
        }
        assert!(shown_error("sasl.pasword", "x").contains("no property sasl.pasword"));
    }
}
