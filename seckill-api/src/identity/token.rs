//! The verification of a signed token (RFC 7519) by one key.
use std::sync::Arc;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::IssuerConfig;
use super::header::TokenHeader;
use super::jwks::Key;
use crate::problem::Problem;

/// A longer subject is no identifier.
const MAX_SUBJECT_CHARS: usize = 255;
/// Bounds the memory of a cached token. Values that do not fit are ignored.
const MAX_TIER_VALUE_BYTES: usize = 1024;

/// Claims beside those that `jsonwebtoken` validates itself. As strings: it would accept several issuers in one token.
#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "iss")]
    _issuer: Option<String>,
    sub: Option<String>,
    exp: Option<f64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The content of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub subject: Arc<str>,
    /// Of the claim for tiers.
    pub tier_values: Arc<[Box<str>]>,
    /// In seconds since 1970, without the leeway.
    pub expires_at: u64,
}

/// What a token of an issuer must have.
#[derive(Debug)]
pub struct Requirements {
    algorithms: Vec<Algorithm>,
    validation: Validation,
    tier_claim: Option<String>,
}

impl Requirements {
    pub fn new(issuer: &IssuerConfig) -> Self {
        let algorithms: Vec<_> = issuer.algorithms.iter().map(|algorithm| algorithm.get()).collect();
        // Claims count only if they are required, and `nbf` only if it is asked for.
        let mut validation = Validation::default();
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&issuer.url]);
        validation.set_audience(&issuer.audiences);
        validation.validate_exp = true;
        validation.validate_aud = true;
        validation.validate_nbf = true;
        validation.leeway = issuer.leeway_seconds;
        let tier_claim = issuer.tier_claim.clone();
        Requirements {
            algorithms,
            validation,
            tier_claim,
        }
    }

    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// Refuses a token whose algorithm the issuer does not use, before any key is looked up.
    pub fn check_algorithm(&self, header: &TokenHeader) -> Result<(), Problem> {
        match self.algorithms.contains(&header.algorithm) {
            true => Ok(()),
            false => Err(Problem::TokenAlgorithmRefused),
        }
    }

    pub fn verify(&self, token: &str, key: &Key) -> Result<Verified, Problem> {
        let mut validation = self.validation.clone();
        validation.algorithms = vec![key.algorithm];
        let token = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation).map_err(problem_of)?;
        let subject = token.claims.sub.unwrap_or_default();
        if !(1..=MAX_SUBJECT_CHARS).contains(&subject.chars().count()) {
            return Err(Problem::TokenMalformed(
                "its claim `sub` does not have 1 to 255 characters",
            ));
        }
        Ok(Verified {
            subject: subject.into(),
            tier_values: self.tier_claim.as_ref().map_or_else(Arc::default, |pointer| {
                tier_values(&Value::Object(token.claims.others), pointer)
            }),
            expires_at: token.claims.exp.unwrap_or_default() as u64, // saturates
        })
    }
}

/// A string or a list of strings. Everything else is no value: the token is valid, and its buyer a general buyer.
fn tier_values(claims: &Value, pointer: &str) -> Arc<[Box<str>]> {
    let values = match claims.pointer(pointer) {
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    let mut room = MAX_TIER_VALUE_BYTES;
    let mut fits = |value: &&str| match room.checked_sub(value.len()) {
        Some(less) => {
            room = less;
            true
        }
        None => false,
    };
    let texts = values.iter().filter_map(Value::as_str).filter(|value| fits(value));
    texts.map(Box::from).collect()
}

fn problem_of(error: Error) -> Problem {
    match error.kind() {
        ErrorKind::InvalidSignature => Problem::TokenBadSignature,
        ErrorKind::ExpiredSignature => Problem::TokenExpired,
        ErrorKind::ImmatureSignature => Problem::TokenNotYetValid,
        ErrorKind::InvalidIssuer => Problem::TokenWrongIssuer,
        ErrorKind::InvalidAudience => Problem::TokenWrongAudience,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Problem::TokenAlgorithmRefused,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            // Keycloak leaves it out if no audience is configured.
            "aud" => Problem::TokenWrongAudience,
            "iss" => Problem::TokenMalformed("it has no claim `iss`"),
            "exp" => Problem::TokenMalformed("it has no claim `exp` with a time"),
            _ => Problem::TokenMalformed("it has no claim `sub`"),
        },
        ErrorKind::InvalidClaimFormat(_) => Problem::TokenMalformed("`exp` or `nbf` is not a time"),
        _ => Problem::TokenMalformed("its claims are not those of a JWT"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_for_tiers_are_a_string_or_a_list_of_strings() {
        let values = |claims: Value| tier_values(&claims, "/realm/roles").to_vec();
        let texts = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect::<Vec<Box<str>>>();
        assert_eq!(values(json!({"realm": {"roles": "gold"}})), texts(&["gold"]));
        assert_eq!(
            values(json!({"realm": {"roles": ["a", 1, null, "gold"]}})),
            texts(&["a", "gold"])
        );
        for other in [
            json!({}),
            json!({"realm": {"roles": 7}}),
            json!({"realm": {"roles": {"gold": true}}}),
        ] {
            assert_eq!(values(other), texts(&[]));
        }
    }

    #[test]
    fn values_beyond_the_bound_are_ignored() {
        let long = "v".repeat(MAX_TIER_VALUE_BYTES);
        let claims = json!({"roles": ["gold", long, "vip"]});
        assert_eq!(tier_values(&claims, "/roles").len(), 2);
    }
}
