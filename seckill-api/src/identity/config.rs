//! The issuers of a release, from a YAML file.
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonwebtoken::Algorithm;
use serde::Deserialize;
use url::Url;

use crate::args::is_dns_label;

/// Clocks of issuers and of this machine differ by so many seconds.
const DEFAULT_LEEWAY: u64 = 30;
/// A longer leeway would keep tokens valid long after their end.
const MAX_LEEWAY: u64 = 300;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IssuerConfig {
    /// The name that sales use.
    pub name: String,
    /// The claim `iss`, exactly.
    pub url: String,
    /// A token is accepted if `aud` has one of these.
    pub audiences: Vec<String>,
    #[serde(default = "all_algorithms")]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Where the values for tiers are in the claims of a token, as a JSON pointer (RFC 6901) such as `/realm_access/roles`: a
    /// string or a list of strings. Without it, all buyers are general buyers.
    pub tier_claim: Option<String>,
    /// Where the keys are. Without it, the discovery document of the issuer says so.
    pub jwks_url: Option<String>,
    #[serde(default = "default_leeway")]
    pub leeway_seconds: u64,
    /// A PEM file with the only certificates that are trusted, instead of those of the system.
    pub ca_file: Option<PathBuf>,
}

fn all_algorithms() -> Vec<SignatureAlgorithm> {
    use Algorithm::{ES256, EdDSA, RS256};
    [RS256, ES256, EdDSA].map(SignatureAlgorithm).to_vec()
}

fn default_leeway() -> u64 {
    DEFAULT_LEEWAY
}

/// RS256, ES256 or EdDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SignatureAlgorithm(Algorithm);

impl SignatureAlgorithm {
    pub fn get(self) -> Algorithm {
        self.0
    }
}

impl TryFrom<String> for SignatureAlgorithm {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "RS256" => Ok(Self(Algorithm::RS256)),
            "ES256" => Ok(Self(Algorithm::ES256)),
            "EdDSA" => Ok(Self(Algorithm::EdDSA)),
            _ if name.starts_with("HS") => Err(format!(
                "{name} is not offered, because everyone who can check such a token can also make one: use RS256, ES256 or EdDSA"
            )),
            _ => Err(format!("{name:?} is not supported: use RS256, ES256 or EdDSA")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum InvalidIssuers {
    #[error("can't read {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{0}; expected `issuers:` with a list, as docs/installation.md shows")]
    Yaml(#[from] serde_yaml::Error),
    #[error("the name {0:?} of an issuer is invalid: use 1 to 63 lower-case letters, digits and '-'")]
    Name(String),
    #[error("two issuers have the name {0:?}: rename one of them")]
    NameTwice(String),
    #[error("issuer {issuer:?}: {field} {value:?}: expected an absolute URL such as {example}")]
    Url {
        issuer: String,
        field: &'static str,
        value: String,
        example: &'static str,
    },
    #[error("issuer {0:?}: audiences: list at least one, the value of the claim `aud` in tokens for this shop")]
    Audiences(String),
    #[error("issuer {issuer:?}: tierClaim {pointer:?}: expected a JSON pointer such as /tier or /realm_access/roles")]
    TierClaim { issuer: String, pointer: String },
    #[error("issuer {0:?}: algorithms: list at least one of RS256, ES256 and EdDSA, or remove the field")]
    Algorithms(String),
    #[error("issuer {issuer:?}: leewaySeconds {seconds}: expected 0 to {MAX_LEEWAY}")]
    Leeway { issuer: String, seconds: u64 },
    #[error("issuer {issuer:?}: caFile {}: {problem}; expected a PEM file with the certificate of a CA", .path.display())]
    CaFile {
        issuer: String,
        path: PathBuf,
        problem: String,
    },
    #[error("issuer {issuer:?}: this machine trusts no certificates ({problem}): set caFile")]
    NoRoots { issuer: String, problem: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuersFile {
    issuers: Vec<IssuerConfig>,
}

/// The issuers in a file.
pub fn read(path: &Path) -> Result<Vec<IssuerConfig>, InvalidIssuers> {
    let text = fs::read_to_string(path).map_err(|error| InvalidIssuers::Unreadable {
        path: path.into(),
        error,
    })?;
    parse(&text)
}

pub fn parse(text: &str) -> Result<Vec<IssuerConfig>, InvalidIssuers> {
    let IssuersFile { issuers } = serde_yaml::from_str(text)?;
    let mut names = HashSet::new();
    for issuer in &issuers {
        issuer.check()?;
        if !names.insert(&issuer.name) {
            return Err(InvalidIssuers::NameTwice(issuer.name.clone()));
        }
    }
    Ok(issuers)
}

impl IssuerConfig {
    fn check(&self) -> Result<(), InvalidIssuers> {
        if !is_dns_label(&self.name) {
            return Err(InvalidIssuers::Name(self.name.clone()));
        }
        self.check_url("url", &self.url, "https://login.example.com/realms/shop")?;
        if let Some(url) = &self.jwks_url {
            self.check_url("jwksUrl", url, "https://login.example.com/keys")?;
        }
        if let Some(pointer) = self.tier_claim.as_ref().filter(|pointer| !pointer.starts_with('/')) {
            return Err(InvalidIssuers::TierClaim {
                issuer: self.name.clone(),
                pointer: pointer.clone(),
            });
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err(InvalidIssuers::Audiences(self.name.clone()));
        }
        if self.algorithms.is_empty() {
            return Err(InvalidIssuers::Algorithms(self.name.clone()));
        }
        if self.leeway_seconds > MAX_LEEWAY {
            return Err(InvalidIssuers::Leeway {
                issuer: self.name.clone(),
                seconds: self.leeway_seconds,
            });
        }
        Ok(())
    }

    fn check_url(&self, field: &'static str, value: &str, example: &'static str) -> Result<(), InvalidIssuers> {
        let url = Url::parse(value).ok();
        let usable = url.is_some_and(|url| {
            let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
            matches!(url.scheme(), "https" | "http") && url.has_host() && plain
        });
        match usable {
            true => Ok(()),
            false => Err(InvalidIssuers::Url {
                issuer: self.name.clone(),
                field,
                value: value.to_owned(),
                example,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "{ name: main, url: https://login.example/realms/shop, audiences: [seckill] }";

    fn error(issuers: &str) -> String {
        let text = format!("issuers: [{issuers}]");
        parse(&text).expect_err(issuers).to_string()
    }

    #[test]
    fn an_issuer_needs_a_name_a_url_and_an_audience() {
        let [issuer] = &parse(&format!("issuers: [{MINIMAL}]")).unwrap()[..] else {
            panic!("one issuer")
        };
        assert_eq!((issuer.name.as_str(), issuer.leeway_seconds), ("main", 30));
        assert_eq!(issuer.algorithms, all_algorithms());
        assert_eq!(parse("issuers: []").unwrap(), []);
        for missing in ["name", "url", "audiences"] {
            let renamed = MINIMAL.replace(&format!("{missing}:"), "other:");
            let error = error(&renamed);
            assert!(error.contains("other") || error.contains(missing), "{error}");
        }
    }

    /// The chart writes its value `issuers` into the file as it is.
    #[test]
    fn every_value_of_the_chart_is_a_field() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/seckill/ci/full-values.yaml");
        let values: serde_yaml::Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let text = serde_yaml::to_string(&serde_yaml::Mapping::from_iter([(
            "issuers".into(),
            values["issuers"].clone(),
        )]));
        let [minimal, full] = &parse(&text.unwrap()).unwrap()[..] else {
            panic!("two issuers")
        };
        assert_eq!((minimal.name.as_str(), &minimal.ca_file), ("main", &None));
        assert_eq!(full.audiences, ["seckill", "shop"]);
        assert_eq!(full.algorithms, [SignatureAlgorithm(Algorithm::RS256)]);
        assert_eq!(full.jwks_url.as_deref(), Some("https://partner.example.com/keys"));
        assert_eq!((full.leeway_seconds, full.ca_file.is_some()), (0, true));
        assert_eq!(full.tier_claim.as_deref(), Some("/realm_access/roles"));
    }

    #[test]
    fn an_invalid_issuer_is_refused_with_advice() {
        for (field, advice) in [
            ("leewaySeconds: 301", "0 to 300"),
            ("algorithms: []", "remove the field"),
            ("algorithms: [HS256]", "can also make one"),
            ("algorithms: [PS256]", "use RS256, ES256 or EdDSA"),
            ("jwksUrl: /keys", "https://login.example.com/keys"),
            ("jwksUrl: 'https://user:password@login.example/'", "jwksUrl"),
            ("tierClaim: tier", "such as /tier"),
            ("tierClaims: /tier", "unknown field"),
        ] {
            let error = error(&MINIMAL.replace(" }", &format!(", {field} }}")));
            assert!(error.contains(advice), "{field}: {error}");
        }
        for (from, to, advice) in [
            ("main", "Main", "lower-case letters"),
            (
                "https://login.example/realms/shop",
                "login.example",
                "expected an absolute URL",
            ),
            (
                "https://login.example/realms/shop",
                "ftp://login.example",
                "expected an absolute URL",
            ),
            ("[seckill]", "[]", "list at least one"),
            ("[seckill]", "['']", "list at least one"),
        ] {
            let error = error(&MINIMAL.replace(from, to));
            assert!(error.contains(advice), "{to}: {error}");
        }
        assert!(error(&format!("{MINIMAL}, {MINIMAL}")).contains("two issuers"));
        assert!(parse("[]").unwrap_err().to_string().contains("expected `issuers:`"));
    }
}
