//! The verification of a signed token (RFC 7519) by one key.
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::IssuerConfig;
use super::jwks::Key;
use crate::problem::Problem;

/// A longer subject is no identifier.
const MAX_SUBJECT_CHARS: usize = 255;

/// What the header of a token asks for. Nobody has signed for it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHeader {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
}

#[derive(Deserialize)]
struct JoseHeader {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

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

impl TokenHeader {
    pub fn parse(token: &str) -> Result<Self, Problem> {
        let [header, _, _] = token.split('.').collect::<Vec<_>>()[..] else {
            return Err(Problem::TokenMalformed(
                "it does not have the three parts of a signed JWT",
            ));
        };
        let header = URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
        let header: JoseHeader =
            serde_json::from_slice(&header).map_err(|_| Problem::TokenMalformed("its header is not that of a JWT"))?;
        if header.crit.is_some() {
            return Err(Problem::TokenMalformed("its header has `crit`, which is not supported"));
        }
        let algorithm = match header.alg.as_str() {
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err(Problem::TokenAlgorithmRefused),
        };
        Ok(TokenHeader {
            algorithm,
            key_id: header.kid,
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn header(json: &str) -> Result<TokenHeader, &'static str> {
        let token = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(json));
        TokenHeader::parse(&token).map_err(|problem| problem.code())
    }

    #[test]
    fn a_header_names_an_algorithm_and_perhaps_a_key() {
        let parsed = header(r#"{"alg":"ES256","kid":"a","jku":"https://evil.example","jwk":{"kty":"oct"}}"#).unwrap();
        assert_eq!(
            (parsed.algorithm, parsed.key_id.as_deref()),
            (Algorithm::ES256, Some("a"))
        );
        assert_eq!(header(r#"{"alg":"EdDSA"}"#).unwrap().key_id, None);
    }

    #[test]
    fn a_header_without_a_signature_of_a_key_pair_is_refused() {
        for alg in ["none", "None", "HS256", "HS512", "RS384", "PS256", "ES384", ""] {
            assert_eq!(header(&format!(r#"{{"alg":"{alg}"}}"#)), Err("token_algorithm_refused"));
        }
        for bad in [
            r#"{"alg":"RS256","crit":["exp"]}"#,
            r#"{"alg":"RS256","alg":"none"}"#,
            r#"{"alg":1}"#,
            r#"{"kid":"a"}"#,
            "RS256",
            "",
        ] {
            assert_eq!(header(bad), Err("token_malformed"), "{bad}");
        }
        for token in ["", "a", "a.b", "a.b.c.d", "?.b.c", "..."] {
            let refused = TokenHeader::parse(token).expect_err(token);
            assert_eq!(refused.code(), "token_malformed", "{token}");
        }
    }
}
