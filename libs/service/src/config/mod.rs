//! One `Args` struct per subsystem. A program flattens those that it needs. Every value is checked here.
mod instance;
mod kafka;
mod mysql;
mod redis;
mod servers;
mod tls;
mod traces;

pub use instance::{FormatArgs, InstanceArgs, NewSalesArgs, ObjectName};
pub use kafka::{Brokers, KafkaArgs, KafkaProperties, KafkaTlsArgs, Topic};
pub use mysql::{MysqlArgs, MysqlTlsArgs, MysqlUrl};
pub use redis::{RedisArgs, RedisUrl};
pub use servers::ServerArgs;
pub use tls::{certificate_file, key_file};
pub use traces::TraceArgs;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use tracing_subscriber::EnvFilter;
use url::Url;

/// The expected form of an invalid value. It never repeats the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Expected(pub String);

impl Expected {
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Logging.
#[derive(Clone, Debug, clap::Args)]
pub struct TelemetryArgs {
    /// Log level (error, warn, info, debug, trace), or a filter by module
    #[arg(
        long,
        env = "SECKILL_LOG",
        default_value = "info",
        value_name = "info,seckill_order_worker=debug"
    )]
    pub log: LogFilter,

    /// Format of the log: json for machines, text for people
    #[arg(long, env = "SECKILL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json, value_name = "json")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

/// A valid tracing filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if text.trim().is_empty() {
            return Err(Expected::new(
                "a level (error, warn, info, debug, trace, off) or a filter by module",
            ));
        }
        EnvFilter::try_new(text).map_err(|error| {
            Expected::new(format!(
                "a level (error, warn, info, debug, trace, off) or a filter by module; {error}"
            ))
        })?;
        Ok(Self(text.to_owned()))
    }
}

/// The address for probes and metrics.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct AdminArgs {
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "SECKILL_ADMIN_LISTEN", default_value = "0.0.0.0:9090", value_name = "0.0.0.0:9090",
        value_parser = listen_address)]
    pub admin_listen: SocketAddr,
}

/// Parses an address to listen on, for clap.
pub fn listen_address(text: &str) -> Result<SocketAddr, Expected> {
    text.parse()
        .map_err(|_| Expected::new("an IP address and a port, address:port; an IPv6 address is in brackets"))
}

/// The address to listen on instead, after an attempt failed: a node without IPv6 has only IPv4. `[::]` is every address of
/// both otherwise.
pub fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let has_none = error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT);
    let every = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    (every && has_none).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
}

/// The address family is not supported.
const EAFNOSUPPORT: i32 = 97;

/// Checks `host:port`, where the host is a DNS name or an address. The error starts with `what`.
fn check_host_port(what: &str, text: &str) -> Result<(), Expected> {
    let refuse = |why: &str| Err(Expected::new(format!("{what}; {why}")));
    let Some((host, port)) = text.rsplit_once(':') else {
        return refuse("a port is missing");
    };
    if !matches!(port.parse::<u16>(), Ok(1..)) {
        return refuse("a port is a number from 1 to 65535");
    }
    if url::Host::parse(host).is_err() {
        return refuse("a host is a DNS name or an address; an IPv6 address is in brackets");
    }
    Ok(())
}

/// Checks the parts that the URLs of all servers have in common. The error starts with `what`.
fn check_url(what: &str, schemes: &[&str], text: &str) -> Result<Url, Expected> {
    let refuse = |why: &str| Expected::new(format!("{what}; {why}"));
    let url = Url::parse(text).map_err(|error| {
        refuse(&format!(
            "{error}; in a user or password, percent-encode all characters except letters and digits (# is %23, / is %2F)"
        ))
    })?;
    if !schemes.contains(&url.scheme()) {
        return Err(refuse(&format!("the scheme is {}", schemes.join(" or "))));
    }
    if !url.has_host() || url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("the host is missing"));
    }
    if url.port() == Some(0) {
        return Err(refuse("a port is a number from 1 to 65535"));
    }
    Ok(url)
}

/// The URL without its secrets, for a log line: no password, no query.
fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // These can't fail, because `check_url` has checked the host.
    let _ = shown.set_password(url.password().map(|_| "***"));
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_that_of_ipv4_on_a_node_without_ipv6() {
        let instead = |address: &str, errno| {
            let error = io::Error::from_raw_os_error(errno);
            without_ipv6(address.parse().unwrap(), &error).map(|address| address.to_string())
        };
        assert_eq!(instead("[::]:8080", EAFNOSUPPORT).as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(instead("[::]:8080", 99).as_deref(), Some("0.0.0.0:8080")); // EADDRNOTAVAIL
        assert_eq!(instead("[::]:8080", 98), None); // EADDRINUSE
        assert_eq!(instead("[::1]:8080", 99), None);
        assert_eq!(instead("0.0.0.0:8080", 99), None);
    }
}
