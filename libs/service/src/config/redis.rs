use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use seckill_stock::RedisConfig;
use seckill_stock::config::{Login, TlsFiles};

use super::{Expected, certificate_file, key_file};

/// Redis: the stock of running sales.
#[derive(Clone, Debug, clap::Args)]
pub struct RedisArgs {
    /// URL of Redis, which holds the stock of running sales (noeviction). Also redis+sentinel://user:password@h1:26379,h2/master
    /// and redis+cluster://h1,h2; with TLS rediss://, rediss+sentinel:// and rediss+cluster://
    #[arg(
        long,
        env = "SECKILL_REDIS_URL",
        hide_env_values = true,
        value_name = "redis://:password@redis:6379"
    )]
    pub redis_url: RedisUrl,

    /// File with the CA that signs the certificates of Redis and the Sentinels, in PEM. Without it those of the system count
    #[arg(long, env = "SECKILL_REDIS_CA_FILE", value_name = "/etc/seckill-tls/redis/ca.crt", value_parser = certificate_file)]
    pub redis_ca_file: Option<PathBuf>,

    /// File with the client certificate for Redis, in PEM
    #[arg(long, env = "SECKILL_REDIS_CERT_FILE", value_name = "/etc/seckill-tls/redis/tls.crt", requires = "redis_key_file",
        value_parser = certificate_file)]
    pub redis_cert_file: Option<PathBuf>,

    /// File with the key of the client certificate, in PEM
    #[arg(long, env = "SECKILL_REDIS_KEY_FILE", value_name = "/etc/seckill-tls/redis/tls.key", requires = "redis_cert_file",
        value_parser = key_file)]
    pub redis_key_file: Option<PathBuf>,

    /// User at the Sentinels, if they have users. The login in the URL is for the servers with the data
    #[arg(
        long,
        env = "SECKILL_REDIS_SENTINEL_USERNAME",
        value_name = "seckill",
        requires = "redis_sentinel_password"
    )]
    pub redis_sentinel_username: Option<String>,

    /// Password at the Sentinels, if they ask for one
    #[arg(
        long,
        env = "SECKILL_REDIS_SENTINEL_PASSWORD",
        hide_env_values = true,
        value_name = "password"
    )]
    pub redis_sentinel_password: Option<Secret>,
}

impl RedisArgs {
    pub fn config(&self) -> RedisConfig {
        let client = self.redis_cert_file.clone().zip(self.redis_key_file.clone());
        let ca = self.redis_ca_file.clone();
        let password = self.redis_sentinel_password.clone();
        let login = Login {
            user: self.redis_sentinel_username.clone(),
            password: password.map(|Secret(password)| password),
        };
        let servers = self.redis_url.0.clone();
        servers
            .with_tls_files(TlsFiles { ca, client })
            .with_sentinel_login(login)
    }
}

/// The URL of Redis. It is displayed without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(RedisConfig);

impl FromStr for RedisUrl {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        text.parse()
            .map(Self)
            .map_err(|invalid| Expected::new(format!("{invalid}")))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A password that is not displayed.
#[derive(Clone)]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "" => Err(Expected::new("a password, or no value at all")),
            password => Ok(Self(password.to_owned())),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
