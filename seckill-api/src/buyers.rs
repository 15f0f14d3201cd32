//! The buyer of a request to a sale with `spec.access`: the pseudonym of the identity that the token proves.
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::HeaderMap;
use seckill_ledger::Sale;
use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{Buyer, BuyerKey, Tier};
use seckill_service::LogInterval;

use crate::identity::Issuers;
use crate::problem::Problem;

/// Buyers may retry for hours.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// A buyer whose token was verified.
#[derive(Debug, Clone)]
pub struct IdentifiedBuyer {
    pub buyer: Buyer,
    /// Of the issuer's claim for tiers.
    tier_values: Arc<[Box<str>]>,
}

impl IdentifiedBuyer {
    /// The tier of the buyer in a sale.
    pub fn tier_in(&self, sale: &Sale) -> Tier {
        let tiers = sale.tiers.as_ref();
        tiers.map_or(GENERAL, |tiers| tiers.of(&self.tier_values))
    }
}

/// What turns tokens into buyers.
pub struct Buyers {
    issuers: Issuers,
    /// None: sales with access are refused.
    key: Option<BuyerKey>,
    warnings: LogInterval,
}

impl Buyers {
    pub fn new(issuers: Issuers, key: Option<BuyerKey>) -> Self {
        Buyers {
            issuers,
            key,
            warnings: LogInterval::new(WARN_INTERVAL),
        }
    }

    /// Every sale with access is refused.
    pub fn anonymous_only() -> Self {
        Self::new(Issuers::none(), None)
    }

    /// The buyer of a request to a sale of this issuer.
    pub async fn identified(&self, issuer: &str, headers: &HeaderMap) -> Result<IdentifiedBuyer, Problem> {
        let Some(key) = &self.key else {
            self.warn_without_key();
            return Err(Problem::NotReady);
        };
        let identity = self.issuers.verify(issuer, headers).await?;
        Ok(IdentifiedBuyer {
            buyer: Buyer::of_identity(key, &identity.issuer, &identity.subject),
            tier_values: identity.tier_values,
        })
    }

    fn warn_without_key(&self) {
        if self.warnings.is_due() {
            tracing::error!(
                "a sale with spec.access is refused, because this process has no key of buyers: set SECKILL_BUYER_KEY_FILE \
                 to a file with 64 hexadecimal digits, and restart"
            );
        }
    }
}

/// The key in a file; `None`: there is no such file.
pub fn read_key(file: &Path) -> anyhow::Result<Option<BuyerKey>> {
    let refused = || format!("SECKILL_BUYER_KEY_FILE: {}", file.display());
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.with_context(refused)?,
    };
    text.trim().parse().map(Some).with_context(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_a_file_and_a_missing_file_is_no_key() {
        let folder = std::env::temp_dir().join(format!("seckill-buyer-key-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("key");
        assert!(read_key(&file).unwrap().is_none());
        std::fs::write(&file, format!("{}\n", "0f".repeat(32))).unwrap();
        assert!(read_key(&file).unwrap().is_some());
        std::fs::write(&file, "secret").unwrap();
        let error = format!("{:#}", read_key(&file).unwrap_err());
        assert!(
            error.contains("SECKILL_BUYER_KEY_FILE") && error.contains("64 hexadecimal digits"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn without_a_key_no_token_is_accepted() {
        let refused = Buyers::anonymous_only().identified("main", &HeaderMap::new()).await;
        assert_eq!(refused.expect_err("refused").code(), "not_ready");
    }
}
