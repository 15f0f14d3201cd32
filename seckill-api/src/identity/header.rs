//! The header of a token, before anybody has verified it.
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::problem::Problem;

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
