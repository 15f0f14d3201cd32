//! The verification of a signed token (RFC 7519) by one key.
use std::sync::Arc;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;

use super::config::IssuerConfig;
use super::header::TokenHeader;
use super::jwks::Key;
use crate::problem::Problem;

/// A longer subject is no identifier.
const MAX_SUBJECT_CHARS: usize = 255;

/// Claims beside those that `jsonwebtoken` validates itself. As strings: it would accept several issuers in one token.
#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "iss")]
    _issuer: Option<String>,
    sub: Option<String>,
    exp: Option<f64>,
}

/// The content of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub subject: Arc<str>,
    /// In seconds since 1970, without the leeway.
    pub expires_at: u64,
}

/// What a token of an issuer must have.
#[derive(Debug)]
pub struct Requirements {
    algorithms: Vec<Algorithm>,
    validation: Validation,
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
        Requirements { algorithms, validation }
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
            expires_at: token.claims.exp.unwrap_or_default() as u64, // saturates
        })
    }
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
