//! Opens one connection: reads the files of TLS, logs in, and tries the fence. Every error names the server and the cause.
use std::fmt::Display;
use std::io;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, RedisResult, ServerErrorKind, TlsCertificates,
};
use tokio::time::timeout;

use crate::config::{Login, RedisConfig, Server};

/// For the name lookup, TCP, TLS, the login and the fence together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Data that the other host does not confirm for this time breaks the connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const TCP_KEEPALIVE_PROBES: u32 = 3;

/// What every script reads first. Without it no purchase is possible.
const FENCE: &str = "return redis.call('INFO', 'replication')";

/// A connection, and whether it leads to a primary.
pub(crate) async fn open(config: &RedisConfig, server: &Server) -> RedisResult<(MultiplexedConnection, bool)> {
    let open = async {
        let client = client(config, server, config.greeting()).await?;
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            // The time limit of a call depends on the call.
            .set_response_timeout(None);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&options)
            .await
            .map_err(|error| explain(server, &error, &config.login))?;
        let fence = try_fence(&mut connection).await;
        let is_primary = fence.map_err(|error| explain(server, &error, &config.login))?;
        Ok((connection, is_primary))
    };
    let no_answer = || {
        // A server without TLS waits for the rest of a command.
        let advice = if config.tls {
            "; without TLS on this port, use redis instead of rediss"
        } else {
            ""
        };
        let text = format!("{server}: no answer within {CONNECT_TIMEOUT:?}{advice}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    timeout(CONNECT_TIMEOUT, open)
        .await
        .unwrap_or_else(|_| Err(no_answer().into()))
}

/// A client of one server.
pub(crate) async fn client(
    config: &RedisConfig,
    server: &Server,
    greeting: RedisConnectionInfo,
) -> RedisResult<Client> {
    let (host, port) = (server.host.clone(), server.port);
    let address = match config.tls {
        false => ConnectionAddr::Tcp(host, port),
        true => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
    };
    let info = address
        .into_connection_info()?
        .set_tcp_settings(tcp_settings())
        .set_redis_settings(greeting);
    if !config.tls {
        return Client::open(info);
    }
    // It stays as it is if the program has chosen one.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let files = &config.tls_files;
    let (mut root_cert, mut client_tls) = (None, None);
    if let Some(ca) = &files.ca {
        root_cert = Some(read(ca).await?);
    }
    if let Some((certificate, key)) = &files.client {
        client_tls = Some(ClientTlsConfig {
            client_cert: read(certificate).await?,
            client_key: read(key).await?,
        });
    }
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
}

async fn read(file: &std::path::Path) -> RedisResult<Vec<u8>> {
    let content = tokio::fs::read(file).await;
    let content = content.map_err(|error| refusal(format!("{}: {error}", file.display())))?;
    let is_pem = content.windows(10).any(|window| window == b"-----BEGIN");
    match is_pem {
        true => Ok(content),
        false => Err(refusal(format!("{} is not in PEM", file.display()))),
    }
}

/// The settings that break a connection within seconds when its host is gone.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE_IDLE)
        .with_interval(TCP_KEEPALIVE_INTERVAL)
        .with_retries(TCP_KEEPALIVE_PROBES);
    // Nagle's algorithm would delay a batch until the answer to the previous one arrives.
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(TCP_USER_TIMEOUT);
    settings
}

/// Whether the server is a primary. An error if scripts can't read the fence.
pub(crate) async fn try_fence(connection: &mut impl redis::aio::ConnectionLike) -> RedisResult<bool> {
    let mut script = redis::cmd("EVAL");
    script.arg(FENCE).arg(0);
    let info: String = script.query_async(connection).await?;
    if !info.contains("role:") || !info.contains("master_replid:") {
        return Err(refusal(format!(
            "INFO in a script shows no master_replid, so this service is not supported ({} characters)",
            info.len()
        )));
    }
    Ok(info.contains("role:master"))
}

/// The error with the server and what a person can do.
pub(crate) fn explain(server: impl Display, error: &RedisError, login: &Login) -> RedisError {
    let text = error.to_string();
    let user = login.user.as_deref().unwrap_or("default");
    let advice = match error.kind() {
        ErrorKind::AuthenticationFailed => format!("the password of user {user} is wrong, or there is no such user"),
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            format!("user {user} lacks a right ({text}); examples/redis.acl has all that are needed")
        }
        _ if error.code() == Some("NOAUTH") => "it asks for a password, and the URL has none".to_owned(),
        ErrorKind::Server(ServerErrorKind::ResponseError) if is_denied_in_script(&text) => {
            format!("user {user} may not call INFO in a script: grant +info to this user")
        }
        ErrorKind::Server(ServerErrorKind::ResponseError) if text.contains("script") => {
            format!("this service refuses INFO in scripts, so it is not supported ({text})")
        }
        ErrorKind::Server(ServerErrorKind::ResponseError) if text.contains("unknown command") => {
            format!("this service has no scripts, so it is not supported ({text})")
        }
        _ if text.contains("CertificateRequired") => {
            "it asks for a client certificate; set the files with it and its key".to_owned()
        }
        _ if text.contains("NotValidForName") || text.contains("not valid for name") => {
            format!("the certificate is for another host name ({text}); use a name that the certificate has")
        }
        _ if text.contains("UnknownIssuer") || text.contains("BadSignature") => {
            format!("the certificate is not signed by a known CA ({text}); set the file with its CA")
        }
        _ => return io::Error::new(kind_of(error), format!("{server}: {text}")).into(),
    };
    refusal(format!("{server}: {advice}"))
}

/// In the words of Redis 7.0 and later.
fn is_denied_in_script(text: &str) -> bool {
    text.contains("user executing the script") || text.contains("ACL failure in script")
}

fn kind_of(error: &RedisError) -> io::ErrorKind {
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(error) => error.kind(),
        None => io::ErrorKind::Other,
    }
}

/// An error that stays until a person does something.
pub(crate) fn refusal(text: String) -> RedisError {
    io::Error::new(io::ErrorKind::PermissionDenied, text).into()
}

pub(crate) fn is_refusal(error: &RedisError) -> bool {
    error.is_io_error() && kind_of(error) == io::ErrorKind::PermissionDenied
}
