use super::{Expected, certificate_file, check_url, key_file, redacted};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use url::Url;

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
    #[command(flatten)]
    pub mysql_tls: MysqlTlsArgs,
}

impl MysqlArgs {
    /// The URL with the password and the files of TLS, for the client only.
    pub fn expose(&self) -> String {
        self.mysql_tls.applied_to(&self.mysql_url)
    }
}

/// TLS to MySQL. The client reads the files again for each connection.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MysqlTlsArgs {
    /// File with the CA of MySQL, in PEM. With it, certificate and host name are verified; the URL needs no ssl-mode
    #[arg(long, env = "SECKILL_MYSQL_CA_FILE", value_name = "/etc/seckill-tls/mysql/ca.crt", value_parser = certificate_file)]
    pub mysql_ca_file: Option<PathBuf>,
    /// File with the client certificate for MySQL, in PEM
    #[arg(long, env = "SECKILL_MYSQL_CERT_FILE", value_name = "/etc/seckill-tls/mysql/tls.crt", requires = "mysql_key_file",
        value_parser = certificate_file)]
    pub mysql_cert_file: Option<PathBuf>,
    /// File with the key of the client certificate, in PEM
    #[arg(long, env = "SECKILL_MYSQL_KEY_FILE", value_name = "/etc/seckill-tls/mysql/tls.key", requires = "mysql_cert_file",
        value_parser = key_file)]
    pub mysql_key_file: Option<PathBuf>,
}

impl MysqlTlsArgs {
    /// The URL with the files, for the client only. What the URL says itself comes later, and counts.
    pub fn applied_to(&self, url: &MysqlUrl) -> String {
        // It was parsed before.
        let Ok(mut with_files) = Url::parse(&url.url) else {
            return url.url.clone();
        };
        let own: Vec<(String, String)> = with_files.query_pairs().into_owned().collect();
        let mode = self
            .mysql_ca_file
            .is_some()
            .then(|| ("ssl-mode", "VERIFY_IDENTITY".to_owned()));
        let files = [
            ("ssl-ca", &self.mysql_ca_file),
            ("ssl-cert", &self.mysql_cert_file),
            ("ssl-key", &self.mysql_key_file),
        ];
        let files = files
            .into_iter()
            .filter_map(|(name, file)| Some((name, file.as_ref()?.display().to_string())));
        let added: Vec<(&str, String)> = mode.into_iter().chain(files).collect();
        if added.is_empty() {
            return url.url.clone();
        }
        with_files
            .query_pairs_mut()
            .clear()
            .extend_pairs(added)
            .extend_pairs(own);
        with_files.into()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_tls_are_added_to_the_url() {
        let url: MysqlUrl = "mysql://user:p%40ss@db:3307/seckill?charset=utf8mb4".parse().unwrap();
        assert_eq!(MysqlTlsArgs::default().applied_to(&url), url.expose());
        let ca = MysqlTlsArgs {
            mysql_ca_file: Some("/tls/my ca.crt".into()),
            ..MysqlTlsArgs::default()
        };
        assert_eq!(
            ca.applied_to(&url),
            "mysql://user:p%40ss@db:3307/seckill?ssl-mode=VERIFY_IDENTITY&ssl-ca=%2Ftls%2Fmy+ca.crt&charset=utf8mb4"
        );
        let client = MysqlTlsArgs {
            mysql_cert_file: Some("/c".into()),
            mysql_key_file: Some("/k".into()),
            ..ca
        };
        // A weaker mode is a person's decision.
        let url: MysqlUrl = "mysql://user@db/seckill?ssl-mode=VERIFY_CA".parse().unwrap();
        let applied = client.applied_to(&url);
        assert!(
            applied.ends_with("&ssl-cert=%2Fc&ssl-key=%2Fk&ssl-mode=VERIFY_CA"),
            "{applied}"
        );
    }
}
