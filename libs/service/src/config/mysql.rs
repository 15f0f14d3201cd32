use super::{Expected, check_url, redacted};
use std::fmt;
use std::str::FromStr;

/// MySQL: the ledger.
#[derive(Clone, Debug, clap::Args)]
pub struct MysqlArgs {
    /// URL of MySQL, which holds the ledger of sales and orders
    #[arg(
        long,
        env = "SECKILL_MYSQL_URL",
        hide_env_values = true,
        value_name = "mysql://user:password@mysql:3306/seckill"
    )]
    pub mysql_url: MysqlUrl,
}

/// The URL of a MySQL database. It is displayed without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlUrl {
    url: String,
    shown: String,
}

impl MysqlUrl {
    /// The URL with the password, for the client only.
    pub fn expose(&self) -> &str {
        &self.url
    }
}

impl FromStr for MysqlUrl {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        const WHAT: &str = "mysql://user:password@host[:port]/database";
        let url = check_url(WHAT, &["mysql"], text)?;
        if url.username().is_empty() {
            return Err(Expected::new(format!("{WHAT}; the user is missing")));
        }
        let database = url.path().trim_start_matches('/');
        if database.is_empty() || database.contains('/') {
            return Err(Expected::new(format!(
                "{WHAT}; the database is one word after the host"
            )));
        }
        Ok(Self {
            shown: redacted(&url),
            url: text.to_owned(),
        })
    }
}

impl fmt::Display for MysqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for MysqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
