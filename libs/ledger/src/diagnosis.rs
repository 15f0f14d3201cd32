//! Finds out why connecting to MySQL timed out: the driver only says that it did.
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long each step of the diagnosis may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// The step of connecting that does not end. The text says what to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectStep {
    #[error("the host name is not resolved: check the host in the URL, and DNS")]
    Resolve,
    #[error("no TCP connection: check host and port in the URL, NetworkPolicies and firewalls")]
    Tcp,
    #[error(
        "the server accepts the connection and sends no greeting: if MySQL looks up the names of its clients and reverse \
         DNS is slow, set skip_name_resolve=ON in its configuration; also check that the address is that of MySQL, and \
         proxies and NetworkPolicies in between"
    )]
    Greeting,
    #[error(
        "the server sends its greeting, but TLS or the login does not end: check ssl-mode in the URL, proxies in between, \
         and the load of the server"
    )]
    Login,
}

/// Goes through the steps on a connection of its own, and answers the first one that does not end.
pub(crate) async fn step_that_hangs(host: &str, port: u16) -> ConnectStep {
    // A literal IPv6 address has brackets in a URL.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Ok(Ok(addresses)) = timeout(STEP_TIMEOUT, tokio::net::lookup_host((host, port))).await else {
        return ConnectStep::Resolve;
    };
    let addresses: Vec<_> = addresses.collect();
    let Ok(Ok(mut stream)) = timeout(STEP_TIMEOUT, TcpStream::connect(&addresses[..])).await else {
        return ConnectStep::Tcp;
    };
    match timeout(STEP_TIMEOUT, stream.read_u8()).await {
        Ok(Ok(_)) => ConnectStep::Login,
        _ => ConnectStep::Greeting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_without_an_address_is_not_resolved() {
        assert_eq!(
            step_that_hangs("no-such-host.invalid", 3306).await,
            ConnectStep::Resolve
        );
    }

    #[tokio::test]
    async fn a_closed_port_has_no_tcp_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        assert_eq!(step_that_hangs("127.0.0.1", port).await, ConnectStep::Tcp);
    }
}
