//! Who the caller is: the verification of bearer tokens (RFC 6750) by the keys that their issuer publishes.
//!
//! - [`config`]: the issuers of a release
//! - `bearer`: the token in a request; `header`, `token`, `signature`: its verification; `cache`: tokens verified before
//! - `jwks`: the keys of an issuer; `fetch`: how they arrive; [`refresh`]: when
mod bearer;
mod cache;
pub mod config;
mod fetch;
mod header;
mod jwks;
pub mod refresh;
mod signature;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use seckill_service::Shutdown;

use crate::clock;
use crate::metrics::Metrics;
use crate::problem::Problem;
use config::{InvalidIssuers, IssuerConfig};
use fetch::KeyFetcher;
use header::TokenHeader;
use jwks::Key;
use refresh::{CurrentKeys, Freshness, Keys, RefreshIntervals};
use token::{Requirements, Verified};

/// The verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the issuer in the configuration.
    pub issuer: Arc<str>,
    /// The claim `sub`.
    pub subject: Arc<str>,
    /// The values of the claim for tiers.
    pub tier_values: Arc<[Box<str>]>,
}

/// All issuers of this release.
pub struct Issuers {
    by_name: HashMap<Arc<str>, Issuer>,
    metrics: Option<Arc<Metrics>>,
}

struct Issuer {
    name: Arc<str>,
    requirements: Arc<Requirements>,
    keys: Arc<Keys>,
}

/// How a token was verified.
#[derive(Debug, Clone, Copy)]
enum Source {
    Cache,
    Keys,
}

/// The label of an issuer that is not configured, so that names in sales can't create metrics.
const UNKNOWN_ISSUER: &str = "unknown";

impl Issuers {
    /// Without issuers every sale that needs a token is refused with `issuer_unavailable`.
    pub fn none() -> Self {
        Issuers {
            by_name: HashMap::new(),
            metrics: None,
        }
    }

    /// Begins to fetch the keys of all issuers, until the shutdown. It does not wait for them. Must be called inside of the
    /// runtime.
    pub fn start(
        configs: &[IssuerConfig],
        intervals: RefreshIntervals,
        metrics: Arc<Metrics>,
        shutdown: &Shutdown,
    ) -> Result<Self, InvalidIssuers> {
        signature::install();
        let mut by_name = HashMap::new();
        for config in configs {
            let fetcher = KeyFetcher::new(config)?;
            let issuer = Issuer::new(config, intervals);
            let (keys, requirements) = (issuer.keys.clone(), issuer.requirements.clone());
            let (metrics, shutdown) = (metrics.clone(), shutdown.clone());
            tokio::spawn(async move {
                keys.follow(fetcher, requirements.algorithms(), &metrics, shutdown)
                    .await
            });
            by_name.insert(issuer.name.clone(), issuer);
        }
        let metrics = Some(metrics);
        Ok(Issuers { by_name, metrics })
    }

    /// The caller of a request, from its token of the issuer with this name.
    pub async fn verify(&self, issuer: &str, headers: &HeaderMap) -> Result<Identity, Problem> {
        let Some(issuer) = self.by_name.get(issuer) else {
            self.count(UNKNOWN_ISSUER, Problem::IssuerUnavailable.code());
            return Err(Problem::IssuerUnavailable);
        };
        let verified = issuer.verify(headers).await;
        let outcome = match &verified {
            Ok((_, Source::Cache)) => "cached",
            Ok((_, Source::Keys)) => "verified",
            Err(problem) => problem.code(),
        };
        self.count(&issuer.name, outcome);
        let (verified, _) = verified?;
        Ok(Identity {
            issuer: issuer.name.clone(),
            subject: verified.subject,
            tier_values: verified.tier_values,
        })
    }

    fn count(&self, issuer: &str, outcome: &'static str) {
        if let Some(metrics) = &self.metrics {
            metrics.count_token(issuer, outcome);
        }
    }
}

impl Issuer {
    fn new(config: &IssuerConfig, intervals: RefreshIntervals) -> Self {
        let name: Arc<str> = config.name.as_str().into();
        Issuer {
            requirements: Arc::new(Requirements::new(config)),
            keys: Arc::new(Keys::new(name.clone(), intervals)),
            name,
        }
    }

    /// The content of the token. A signature takes 20 to 110 us of CPU time, which is not worth another thread.
    async fn verify(&self, headers: &HeaderMap) -> Result<(Verified, Source), Problem> {
        let token = bearer::token(headers)?;
        let current = self.keys.current().ok_or(Problem::IssuerUnavailable)?;
        let hash = cache::hash(token);
        if let Some(verified) = current.verified_before(&hash, clock::now() / 1000) {
            return Ok((verified, Source::Cache));
        }
        let header = TokenHeader::parse(token)?;
        self.requirements.check_algorithm(&header)?;
        let (current, key) = self.find_key(current, &header).await?;
        let verified = self.requirements.verify(token, &key)?;
        current.remember(hash, verified.clone());
        Ok((verified, Source::Keys))
    }

    /// The key for a token. An unknown key may be a new one, so the keys are fetched again.
    async fn find_key(
        &self,
        current: Arc<CurrentKeys>,
        header: &TokenHeader,
    ) -> Result<(Arc<CurrentKeys>, Arc<Key>), Problem> {
        match current.keys.find(header) {
            Ok(key) => return Ok((current, key)),
            Err(Problem::TokenUnknownKey) => {}
            Err(problem) => return Err(problem),
        }
        let freshness = self.keys.refetch().await;
        let current = self.keys.current().ok_or(Problem::IssuerUnavailable)?;
        match (current.keys.find(header), freshness) {
            (Ok(key), _) => Ok((current, key)),
            (Err(Problem::TokenUnknownKey), Freshness::IssuerAway) => Err(Problem::IssuerUnavailable),
            (Err(problem), _) => Err(problem),
        }
    }
}
