use super::{Expected, check_url, redacted};
use std::fmt;
use std::str::FromStr;

/// Redis: the stock of running sales.
#[derive(Clone, Debug, clap::Args)]
pub struct RedisArgs {
    /// URL of Redis, which holds the stock of running sales (noeviction, appendonly)
    #[arg(
        long,
        env = "SECKILL_REDIS_URL",
        hide_env_values = true,
        value_name = "redis://:password@redis:6379"
    )]
    pub redis_url: RedisUrl,
}

/// The URL of a Redis server. It is displayed without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    url: String,
    shown: String,
}

impl RedisUrl {
    /// The URL with the password, for the client only.
    pub fn expose(&self) -> &str {
        &self.url
    }
}

impl FromStr for RedisUrl {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        const WHAT: &str = "redis://[user][:password@]host[:port][/database], or rediss:// for TLS";
        let url = check_url(WHAT, &["redis", "rediss"], text)?;
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u16>().is_err() {
            return Err(Expected::new(format!("{WHAT}; the database is a number")));
        }
        Ok(Self {
            shown: redacted(&url),
            url: text.to_owned(),
        })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
