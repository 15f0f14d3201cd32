//! Tokens that were verified a short while ago, by their hash.
use sha2::{Digest as _, Sha256};

use super::token::Verified;
use crate::limits::MAX_CACHED_TOKENS;
use crate::recent::RecentMap;

/// SHA-256 of a token. The token itself is a secret, and is not kept.
pub type TokenHash = [u8; 32];

pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}

/// The contents of valid tokens. The older half is forgotten to bound the memory: some 150 bytes each, at most 2,300 with a
/// long subject and many values for tiers. A refused token is never kept, so that a fault passes and garbage costs no memory.
#[derive(Debug)]
pub struct TokenCache(RecentMap<TokenHash, Verified>);

impl Default for TokenCache {
    fn default() -> Self {
        TokenCache(RecentMap::bounded(MAX_CACHED_TOKENS))
    }
}

impl TokenCache {
    /// `now` is in seconds since 1970.
    pub fn verified(&self, token: &TokenHash, now: u64) -> Option<Verified> {
        let cached = self.0.get(token)?;
        (now < cached.expires_at).then(|| cached.clone())
    }

    pub fn insert(&mut self, token: TokenHash, verified: Verified) {
        self.0.insert(token, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(expires_at: u64) -> Verified {
        Verified {
            subject: "buyer".into(),
            tier_values: ["gold".into()].into(),
            expires_at,
        }
    }

    #[test]
    fn a_token_is_cached_until_it_expires() {
        let mut cache = TokenCache::default();
        let (token, other) = (hash("a.b.c"), hash("a.b.d"));
        cache.insert(token, until(100));
        assert_eq!(cache.verified(&token, 99), Some(until(100)));
        assert_eq!(cache.verified(&token, 100), None);
        assert_eq!(cache.verified(&other, 0), None);
    }

    #[test]
    fn the_oldest_tokens_are_forgotten() {
        let token = |n: usize| hash(&n.to_string());
        let mut cache = TokenCache::default();
        for n in 0..2 * MAX_CACHED_TOKENS {
            cache.insert(token(n), until(1));
            assert!(cache.verified(&token(n), 0).is_some());
        }
        assert_eq!(cache.verified(&token(0), 0), None);
        assert!(cache.0.len() <= MAX_CACHED_TOKENS);
    }
}
