//! The command line and the environment variables.
use std::net::SocketAddr;
use std::str::FromStr;

use seckill_protocol::OrderNoKeys;
use seckill_service::config::{AdminArgs, Expected, KafkaArgs, MysqlArgs, RedisArgs, TelemetryArgs, listen_address};

/// The HTTP API that buyers buy from
#[derive(Debug, clap::Parser)]
#[command(name = "seckill-api", version)]
pub struct Args {
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub mysql: MysqlArgs,

    /// Address of the /v1 routes
    #[arg(long, env = "SECKILL_LISTEN", default_value = "0.0.0.0:8080", value_name = "0.0.0.0:8080",
        value_parser = listen_address)]
    pub listen: SocketAddr,

    /// Address of the old demo's routes, which are off by default
    #[arg(long, env = "SECKILL_LEGACY_LISTEN", value_name = "0.0.0.0:8888", value_parser = listen_address)]
    pub legacy_listen: Option<SocketAddr>,

    /// Class of the sales to sell: spec.className of a FlashSale
    #[arg(long, env = "SECKILL_CLASS", default_value = "default", value_name = "default")]
    pub class: Class,

    /// Keys of order numbers, as VERSION:KEY; the first key encrypts, all keys decrypt
    #[arg(
        long,
        env = "SECKILL_ORDER_NO_KEYS",
        hide_env_values = true,
        value_name = "1:00112233445566778899aabbccddeeff"
    )]
    pub order_no_keys: OrderNoKeys,
}

/// A class of sales, which is a DNS label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class(String);

impl Class {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Class {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label =
            (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
        if !is_label {
            return Err(Expected::new(
                "1 to 63 lower-case letters, digits and '-', as in spec.className of a FlashSale",
            ));
        }
        Ok(Class(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_service::args::parse_from;

    const REQUIRED: &[&str] = &[
        "seckill-api",
        "--redis-url=redis://redis:6379",
        "--kafka-brokers=kafka-0:9092",
        "--mysql-url=mysql://user:password@mysql:3306/seckill",
    ];
    const KEYS: &str = "--order-no-keys=1:00112233445566778899aabbccddeeff";

    fn with(more: &[&str]) -> Result<Args, String> {
        parse_from::<Args>(REQUIRED.iter().chain(more)).map_err(|refused| refused.to_string())
    }

    #[test]
    fn the_required_arguments_are_enough() {
        let args = with(&[KEYS]).unwrap();
        assert_eq!(args.listen.port(), 8080);
        assert_eq!(args.legacy_listen, None);
        assert_eq!(args.class.as_str(), "default");
    }

    #[test]
    fn an_invalid_value_names_the_variable_and_an_example() {
        let cases = [
            (&["--listen=8080", KEYS][..], "SECKILL_LISTEN"),
            (&["--legacy-listen=localhost:1", KEYS], "SECKILL_LEGACY_LISTEN"),
            (&["--class=No_Label", KEYS], "SECKILL_CLASS"),
            (&["--order-no-keys=secret"], "SECKILL_ORDER_NO_KEYS"),
            (&[], "SECKILL_ORDER_NO_KEYS"),
        ];
        for (more, variable) in cases {
            let error = with(more).unwrap_err();
            assert!(
                error.contains(variable) && error.contains("example"),
                "{more:?}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
