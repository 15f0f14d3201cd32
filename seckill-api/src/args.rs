//! The command line and the environment variables.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use seckill_protocol::OrderNoKeys;
use seckill_service::config::{
    AdminArgs, Expected, InstanceArgs, ServerArgs, TelemetryArgs, TraceArgs, listen_address,
};

use crate::cors::CorsOrigins;
use crate::rate_limit::RateLimitConfig;
use crate::server::ConnectionLimits;

/// The HTTP API that buyers buy from
#[derive(Debug, clap::Parser)]
#[command(
    name = "seckill-api",
    version,
    next_line_help = true,
    after_help = "Another command, which asks a running API as a buyer does: seckill-api smoke-test --help"
)]
pub struct Args {
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub servers: ServerArgs,
    #[command(flatten)]
    pub instance: InstanceArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
    /// One purchase in this many is traced, and up to 10 a second whose request has a sampled traceparent
    #[arg(long, env = "SECKILL_TRACES_ONE_IN", default_value_t = 1000, value_name = "1000",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub traces_one_in: u32,

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

    /// Keys of order numbers, as VERSION:KEY or VERSION:KEY@TIME, separated by commas; all keys decrypt, and the latest
    /// TIME at or before the start of a sale says which one encrypts
    #[arg(
        long,
        env = "SECKILL_ORDER_NO_KEYS",
        hide_env_values = true,
        value_name = "1:00112233445566778899aabbccddeeff"
    )]
    pub order_no_keys: OrderNoKeys,

    /// File with the key of the pseudonyms of buyers, 64 hexadecimal digits; sales with spec.access need it, and it must never
    /// change
    #[arg(long, env = "SECKILL_BUYER_KEY_FILE", value_name = "/etc/seckill-buyers/key")]
    pub buyer_key_file: Option<PathBuf>,

    /// Seconds that a connection may be idle between two requests; more than the idle time-out of the proxy in front
    #[arg(long, env = "SECKILL_IDLE_TIMEOUT_SECONDS", value_name = "3900", default_value_t = 3900,
        value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub idle_timeout_seconds: u64,

    /// Maximum number of connections from one address (IPv6: one /64 network); 0 = unlimited, as a proxy needs it
    #[arg(long, env = "SECKILL_MAX_CONNECTIONS_PER_ADDRESS", value_name = "0", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=20_000))]
    pub max_connections_per_address: u32,

    /// Requests per second of one address (IPv6: one /64 network) to this process, with bursts of ten seconds; 0 = unlimited
    #[arg(long, env = "SECKILL_REQUESTS_PER_ADDRESS", value_name = "0", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub requests_per_address: u32,

    /// Requests per second of one verified buyer to this process, with bursts of ten seconds; 0 = unlimited
    #[arg(long, env = "SECKILL_REQUESTS_PER_BUYER", value_name = "20", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub requests_per_buyer: u32,

    /// Proxies in front that append the address of their client to X-Forwarded-For; 0 = the address of the connection counts
    #[arg(long, env = "SECKILL_TRUSTED_PROXIES", value_name = "1", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(..=16))]
    pub trusted_proxies: u8,

    /// Origins of pages that may call the API from a browser, separated by commas; * = every page
    #[arg(long, env = "SECKILL_CORS_ORIGINS", value_name = "https://shop.example")]
    pub cors_origins: Option<CorsOrigins>,

    /// YAML file with the issuers of the tokens that buyers log in with; without it, no sale can ask for a token
    #[arg(long, env = "SECKILL_ISSUERS_FILE", value_name = "/etc/seckill/issuers.yaml")]
    pub issuers_file: Option<PathBuf>,

    /// Seconds after SIGTERM in which requests are still accepted, until every proxy knows that this process is not ready
    #[arg(long, env = "SECKILL_DRAIN_SECONDS", value_name = "3", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(..=600))]
    pub drain_seconds: u64,
}

impl Args {
    pub fn rate_limits(&self) -> RateLimitConfig {
        RateLimitConfig {
            per_address: self.requests_per_address,
            per_buyer: self.requests_per_buyer,
            trusted_proxies: self.trusted_proxies.into(),
        }
    }

    pub fn connection_limits(&self) -> ConnectionLimits {
        let mut limits = ConnectionLimits {
            max_per_address: self.max_connections_per_address as usize,
            ..ConnectionLimits::default()
        };
        limits.deadlines.idle = Duration::from_secs(self.idle_timeout_seconds);
        limits.drain = Duration::from_secs(self.drain_seconds);
        limits
    }
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
        if !is_dns_label(text) {
            return Err(Expected::new(
                "1 to 63 lower-case letters, digits and '-', as in spec.className of a FlashSale",
            ));
        }
        Ok(Class(text.to_owned()))
    }
}

pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
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
        let limits = args.connection_limits();
        // The idle time-out of Envoy is an hour.
        assert!(limits.deadlines.idle > Duration::from_secs(3600));
        assert_eq!(limits.max_per_address, 0);
        assert_eq!(limits.drain, ConnectionLimits::default().drain);
    }

    #[test]
    fn arguments_set_the_connection_limits() {
        let args = with(&[KEYS, "--idle-timeout-seconds=60", "--max-connections-per-address=100"]).unwrap();
        let limits = args.connection_limits();
        assert_eq!(limits.deadlines.idle, Duration::from_secs(60));
        assert_eq!(limits.max_per_address, 100);
    }

    #[test]
    fn arguments_set_the_rate_limits() {
        let default = with(&[KEYS]).unwrap().rate_limits();
        assert_eq!(
            (default.per_address, default.per_buyer, default.trusted_proxies),
            (0, 20, 0)
        );
        let set = with(&[
            KEYS,
            "--requests-per-address=50",
            "--requests-per-buyer=0",
            "--trusted-proxies=2",
        ])
        .unwrap();
        let set = set.rate_limits();
        assert_eq!((set.per_address, set.per_buyer, set.trusted_proxies), (50, 0, 2));
    }

    #[test]
    fn an_invalid_value_names_the_variable_and_an_example() {
        let cases = [
            (&["--listen=8080", KEYS][..], "SECKILL_LISTEN"),
            (&["--legacy-listen=localhost:1", KEYS], "SECKILL_LEGACY_LISTEN"),
            (&["--class=No_Label", KEYS], "SECKILL_CLASS"),
            (&["--order-no-keys=secret"], "SECKILL_ORDER_NO_KEYS"),
            (&[], "SECKILL_ORDER_NO_KEYS"),
            (&["--idle-timeout-seconds=0", KEYS], "SECKILL_IDLE_TIMEOUT_SECONDS"),
            (&["--drain-seconds=601", KEYS], "SECKILL_DRAIN_SECONDS"),
            (&["--requests-per-address=-1", KEYS], "SECKILL_REQUESTS_PER_ADDRESS"),
            (&["--requests-per-buyer=x", KEYS], "SECKILL_REQUESTS_PER_BUYER"),
            (&["--trusted-proxies=17", KEYS], "SECKILL_TRUSTED_PROXIES"),
            (
                &["--max-connections-per-address=-1", KEYS],
                "SECKILL_MAX_CONNECTIONS_PER_ADDRESS",
            ),
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
