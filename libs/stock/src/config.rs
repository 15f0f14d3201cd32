//! The address of Redis: one server, a primary that Sentinels name, or a Cluster, and what a login there needs.
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use redis::{IntoConnectionInfo, RedisConnectionInfo};
use url::Url;

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// The forms of the URL, for people.
pub const URL_FORMS: &str = "redis://[user][:password@]host[:port][/database], \
     redis+sentinel://[user][:password@]host[:port],host.../master[/database] or \
     redis+cluster://[user][:password@]host[:port],host...; with TLS rediss://, rediss+sentinel:// or rediss+cluster://";

/// Why a URL is invalid. It never repeats the URL, which has a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{URL_FORMS}; {0}")]
pub struct InvalidUrl(String);

/// The name or address of a server, and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One address. It may lead to another server after a failover.
    One(Server),
    Sentinel {
        sentinels: Vec<Server>,
        master: String,
    },
    /// Servers of a Redis Cluster, of which one has to answer.
    Cluster(Vec<Server>),
}

/// The files of TLS. They are read at each attempt to connect, so a renewed certificate is used within half a minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates that sign those of the servers, in PEM; without it those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate of this client and its key, in PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A user and a password, as far as there are any.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
}

/// Where Redis is and how to log in there. It is displayed without passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    pub(crate) topology: Topology,
    pub(crate) login: Login,
    pub(crate) sentinel_login: Login,
    pub(crate) database: i64,
    pub(crate) tls: bool,
    pub(crate) tls_files: TlsFiles,
    shown: String,
}

impl RedisConfig {
    /// The same servers with these files of TLS.
    #[must_use]
    pub fn with_tls_files(self, tls_files: TlsFiles) -> Self {
        RedisConfig { tls_files, ..self }
    }

    /// The same servers with this login at the Sentinels. That of the URL is for the servers with the data.
    #[must_use]
    pub fn with_sentinel_login(self, sentinel_login: Login) -> Self {
        RedisConfig { sentinel_login, ..self }
    }

    /// What is wrong with the parts together.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        let is_sentinel = matches!(self.topology, Topology::Sentinel { .. });
        if !self.tls && self.tls_files != TlsFiles::default() {
            return Some(
                "files of TLS are set, but the URL of Redis is without TLS: let it begin with rediss://, \
                 rediss+sentinel:// or rediss+cluster://, or remove the files",
            );
        }
        if !is_sentinel && self.sentinel_login != Login::default() {
            return Some("a login at the Sentinels is set, but the URL of Redis names none (redis+sentinel://)");
        }
        None
    }

    /// What is sent at the start of a connection to a server with data.
    pub(crate) fn greeting(&self) -> RedisConnectionInfo {
        greeting(&self.login).set_db(self.database)
    }

    pub(crate) fn greeting_of_sentinels(&self) -> RedisConnectionInfo {
        greeting(&self.sentinel_login)
    }
}

fn greeting(login: &Login) -> RedisConnectionInfo {
    // Redis 7.0 does not know the command, and the least account has no right to it.
    let mut greeting = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(user) = &login.user {
        greeting = greeting.set_username(user);
    }
    if let Some(password) = &login.password {
        greeting = greeting.set_password(password);
    }
    greeting
}

impl fmt::Display for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for RedisConfig {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let refuse = |why: &str| InvalidUrl(why.to_owned());
        if text.contains('#') {
            return Err(refuse(
                "#insecure would accept every certificate and is refused; in a user or password, percent-encode all \
                 characters except letters and digits (# is %23, / is %2F)",
            ));
        }
        if text.contains('?') {
            return Err(refuse(
                "there are no parameters; in a user or password, percent-encode ? as %3F",
            ));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("the scheme is missing"))?;
        let (tls, kind) = match scheme.split_once('+').unwrap_or((scheme, "")) {
            ("redis", kind @ ("" | "sentinel" | "cluster")) => (false, kind),
            ("rediss", kind @ ("" | "sentinel" | "cluster")) => (true, kind),
            _ => {
                return Err(refuse(
                    "the scheme is redis or rediss, alone or with +sentinel or +cluster",
                ));
            }
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (parse_login(login)?, hosts),
            None => (Login::default(), authority),
        };
        let default_port = if kind == "sentinel" {
            DEFAULT_SENTINEL_PORT
        } else {
            DEFAULT_PORT
        };
        let servers: Vec<Server> = hosts
            .split(',')
            .map(|host| parse_server(host, default_port))
            .collect::<Result<_, _>>()?;
        let (topology, database) = match kind {
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
                if master.is_empty() || !master.bytes().all(letters) {
                    return Err(refuse(
                        "the name of the master follows the Sentinels: letters, digits, '.', '_' or '-', as in \
                         `sentinel monitor`",
                    ));
                }
                let (sentinels, master) = (servers.clone(), master.to_owned());
                (Topology::Sentinel { sentinels, master }, database)
            }
            "cluster" if path.is_empty() => (Topology::Cluster(servers.clone()), ""),
            "cluster" => return Err(refuse("a Cluster has no databases: nothing follows its servers")),
            _ => match servers.as_slice() {
                [server] => (Topology::One(server.clone()), path),
                _ => return Err(refuse("several servers need redis+sentinel:// or redis+cluster://")),
            },
        };
        let database = match database {
            "" => 0,
            number => number.parse::<u16>().map_err(|_| refuse("the database is a number"))?,
        };
        let hosts: Vec<String> = servers.iter().map(Server::to_string).collect();
        let secret = login.password.as_ref().map_or("", |_| ":***");
        let at = if login == Login::default() { "" } else { "@" };
        let path = if path.is_empty() {
            String::new()
        } else {
            format!("/{path}")
        };
        let user = login.user.as_deref().unwrap_or_default();
        Ok(RedisConfig {
            topology,
            database: database.into(),
            tls,
            tls_files: TlsFiles::default(),
            sentinel_login: Login::default(),
            shown: format!("{scheme}://{user}{secret}{at}{}{path}", hosts.join(",")),
            login,
        })
    }
}

fn parse_login(text: &str) -> Result<Login, InvalidUrl> {
    let encoding =
        || InvalidUrl("percent-encode all characters of a user or password except letters and digits".into());
    // The client library decodes the parts. The host is of no importance.
    let url = format!("redis://{text}@host");
    let parsed = Url::parse(&url).map_err(|_| encoding())?;
    if parsed.host_str() != Some("host") {
        return Err(encoding());
    }
    let info = url.into_connection_info().map_err(|_| encoding())?;
    let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let (user, password) = (info.redis_settings().username(), info.redis_settings().password());
    let login = Login {
        user: given(user),
        password: given(password),
    };
    if login.user.is_some() && login.password.is_none() {
        return Err(InvalidUrl(
            "the password is missing; a password without a user is :password@".into(),
        ));
    }
    Ok(login)
}

fn parse_server(text: &str, default_port: u16) -> Result<Server, InvalidUrl> {
    let url = Url::parse(&format!("redis://{text}")).map_err(|error| InvalidUrl(error.to_string()))?;
    let host = url.host_str().unwrap_or_default();
    if host.is_empty() || !url.username().is_empty() {
        return Err(InvalidUrl("a host is missing".into()));
    }
    match url.port() {
        Some(0) => Err(InvalidUrl("a port is a number from 1 to 65535".into())),
        port => Ok(Server {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.unwrap_or(default_port),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RedisConfig {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn server(host: &str, port: u16) -> Server {
        Server {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn a_url_names_the_topology() {
        let one = parse("redis://user:p%23ss@redis/3");
        assert!(one.topology == Topology::One(server("redis", 6379)));
        assert_eq!((one.database, one.tls), (3, false));
        assert_eq!(one.login.user.as_deref(), Some("user"));
        assert_eq!(one.login.password.as_deref(), Some("p#ss"));
        assert_eq!(one.to_string(), "redis://user:***@redis:6379/3");

        let sentinel = parse("rediss+sentinel://:secret@a,b:5000,[::1]/shop.main/2");
        let sentinels = vec![server("a", 26379), server("b", 5000), server("::1", 26379)];
        let master = "shop.main".to_owned();
        assert!(sentinel.topology == Topology::Sentinel { sentinels, master });
        assert_eq!((sentinel.database, sentinel.tls), (2, true));
        assert_eq!(
            sentinel.to_string(),
            "rediss+sentinel://:***@a:26379,b:5000,[::1]:26379/shop.main/2"
        );

        let cluster = parse("redis+cluster://a:7000,b");
        assert!(cluster.topology == Topology::Cluster(vec![server("a", 7000), server("b", 6379)]));
        assert_eq!(cluster.to_string(), "redis+cluster://a:7000,b:6379");
    }

    #[test]
    fn an_invalid_url_is_refused_without_its_password() {
        for (bad, why) in [
            ("", "scheme is missing"),
            ("redis:6379", "scheme is missing"),
            ("http://:hunter2@redis", "the scheme is redis or rediss"),
            ("redis+unix:///run/redis.sock", "the scheme is"),
            ("rediss://:hunter2@redis/#insecure", "#insecure"),
            ("redis://:p#ss@redis", "percent-encode"),
            ("redis://redis?password=hunter2", "no parameters"),
            ("redis://", "host"),
            ("redis://redis:70000", "invalid port"),
            ("redis://redis:0", "port is a number"),
            ("redis://hunter2@redis", "the password is missing"),
            ("redis://redis/stock", "the database is a number"),
            ("redis://a,b", "several servers need"),
            ("redis+sentinel://a,b", "the name of the master"),
            ("redis+sentinel://a,b/shop/x", "the database is a number"),
            ("redis+sentinel://a,,b/shop", "host"),
            ("redis+cluster://a,b/1", "a Cluster has no databases"),
        ] {
            let error = bad.parse::<RedisConfig>().expect_err(bad).to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{bad}: {error}");
        }
    }

    #[test]
    fn parts_that_contradict_each_other_are_named() {
        let files = TlsFiles {
            ca: Some("ca.pem".into()),
            client: None,
        };
        let plain = parse("redis://redis").with_tls_files(files.clone());
        assert!(plain.contradiction().is_some_and(|why| why.contains("rediss://")));
        assert_eq!(parse("rediss://redis").with_tls_files(files).contradiction(), None);
        let login = Login {
            user: None,
            password: Some("secret".into()),
        };
        let one = parse("redis://redis").with_sentinel_login(login.clone());
        assert!(one.contradiction().is_some_and(|why| why.contains("Sentinels")));
        let sentinel = parse("redis+sentinel://a/shop").with_sentinel_login(login);
        assert_eq!(sentinel.contradiction(), None);
    }
}
