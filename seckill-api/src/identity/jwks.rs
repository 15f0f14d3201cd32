//! The keys that an issuer publishes: a JSON Web Key Set (RFC 7517).
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::header::TokenHeader;
use crate::problem::Problem;

/// An issuer has a few keys. More of them would only cost memory.
const MAX_KEYS: usize = 64;
/// 2048 bits. The first byte of a modulus is not 0.
const MIN_RSA_MODULUS_BYTES: usize = 256;
/// An uncompressed point: 0x04, x and y.
const P256_POINT_BYTES: usize = 65;
const ED25519_POINT_BYTES: usize = 32;

/// The keys that verify tokens. A set is never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Arc<Key>>,
    /// Keys of the document that verify no tokens.
    pub ignored: usize,
}

/// A key has exactly one algorithm, which follows from the kind of the key. The header of a token can't choose another one.
#[derive(Debug)]
pub struct Key {
    pub algorithm: Algorithm,
    pub decoding: DecodingKey,
    published: Jwk,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.published == other.published
    }
}

impl Eq for Key {}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySet {
    #[error("the key set is not a JSON object with a list `keys`: {0}")]
    Json(String),
    #[error("none of the {0} keys in the set is a signature key of an accepted algorithm")]
    NoUsableKey(usize),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Ignores every key that is not for signatures of an accepted algorithm, such as a key for encryption or a secret.
    pub fn parse(document: &[u8], accepted: &[Algorithm]) -> Result<Self, InvalidKeySet> {
        let Document { keys: published } =
            serde_json::from_slice(document).map_err(|error| InvalidKeySet::Json(error.to_string()))?;
        let published_keys = published.len();
        let keys: Vec<_> = published
            .into_iter()
            .filter_map(|key| Key::parse(key).filter(|key| accepted.contains(&key.algorithm)))
            .take(MAX_KEYS)
            .map(Arc::new)
            .collect();
        if keys.is_empty() {
            return Err(InvalidKeySet::NoUsableKey(published_keys));
        }
        let ignored = published_keys - keys.len();
        Ok(KeySet { keys, ignored })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key for a token. Without a key id in the token, only one key may fit.
    pub fn find(&self, token: &TokenHeader) -> Result<Arc<Key>, Problem> {
        let fitting = |key: &&Arc<Key>| key.algorithm == token.algorithm;
        match &token.key_id {
            Some(id) => {
                let named: Vec<_> = self.keys.iter().filter(|key| key.has_id(id)).collect();
                match named.iter().find(|key| fitting(key)) {
                    Some(key) => Ok(Arc::clone(key)),
                    None if named.is_empty() => Err(Problem::TokenUnknownKey),
                    None => Err(Problem::TokenAlgorithmRefused),
                }
            }
            None => {
                let mut fitting = self.keys.iter().filter(fitting);
                match (fitting.next(), fitting.next()) {
                    (Some(key), None) => Ok(key.clone()),
                    _ => Err(Problem::TokenUnknownKey),
                }
            }
        }
    }
}

impl Key {
    fn parse(key: Value) -> Option<Self> {
        let published: Jwk = serde_json::from_value(key).ok()?;
        let algorithm = algorithm_of(&published)?;
        if !is_for_signatures(&published, algorithm) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&published).ok()?;
        has_valid_size(&decoding, algorithm).then_some(Key {
            algorithm,
            decoding,
            published,
        })
    }

    fn has_id(&self, id: &str) -> bool {
        self.published.common.key_id.as_deref() == Some(id)
    }
}

/// A secret (`oct`) has none: anyone who knows a public key could sign with it.
fn algorithm_of(key: &Jwk) -> Option<Algorithm> {
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn is_for_signatures(key: &Jwk, algorithm: Algorithm) -> bool {
    let common = &key.common;
    let of_algorithm = match common.key_algorithm {
        None => true,
        // EdDSA is called Ed25519 since RFC 9864, which this type does not know.
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => algorithm == Algorithm::EdDSA,
        Some(named) => named == KeyAlgorithm::from(algorithm),
    };
    let of_use = !matches!(
        common.public_key_use,
        Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_))
    );
    let operations = common.key_operations.as_ref();
    of_algorithm && of_use && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

fn has_valid_size(key: &DecodingKey, algorithm: Algorithm) -> bool {
    match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => n.len() >= MIN_RSA_MODULUS_BYTES,
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => point.len() == P256_POINT_BYTES,
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => point.len() == ED25519_POINT_BYTES,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

    /// So many bytes, in base64url.
    fn bytes(n: usize) -> String {
        match n % 3 {
            0 => "AAAA".repeat(n / 3),
            1 => "AAAA".repeat(n / 3) + "AA",
            _ => "AAAA".repeat(n / 3) + "AAA",
        }
    }

    fn rsa(more: Value) -> Value {
        with(json!({"kty": "RSA", "n": bytes(256), "e": "AQAB"}), more)
    }

    fn ec(more: Value) -> Value {
        with(
            json!({"kty": "EC", "crv": "P-256", "x": bytes(32), "y": bytes(32)}),
            more,
        )
    }

    fn ed(more: Value) -> Value {
        with(json!({"kty": "OKP", "crv": "Ed25519", "x": bytes(32)}), more)
    }

    fn with(mut key: Value, more: Value) -> Value {
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, InvalidKeySet> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &ALL)
    }

    fn find(set: &KeySet, algorithm: Algorithm, key_id: Option<&str>) -> Result<Algorithm, &'static str> {
        let key_id = key_id.map(str::to_owned);
        let found = set.find(&TokenHeader { algorithm, key_id });
        found.map(|key| key.algorithm).map_err(|problem| problem.code())
    }

    #[test]
    fn the_kind_of_a_key_decides_its_algorithm() {
        for (key, algorithm) in [
            (rsa(json!({})), Algorithm::RS256),
            (rsa(json!({"alg": "RS256", "use": "sig"})), Algorithm::RS256),
            (ec(json!({"key_ops": ["verify"]})), Algorithm::ES256),
            (ed(json!({"alg": "EdDSA"})), Algorithm::EdDSA),
            (ed(json!({"alg": "Ed25519"})), Algorithm::EdDSA),
        ] {
            let set = parse(std::slice::from_ref(&key)).unwrap();
            assert_eq!(find(&set, algorithm, None), Ok(algorithm), "{key}");
        }
    }

    #[test]
    fn keys_that_are_not_for_signatures_are_ignored() {
        for key in [
            json!({"kty": "oct", "k": bytes(32), "alg": "HS256"}),
            rsa(json!({"use": "enc"})),
            rsa(json!({"alg": "RSA-OAEP"})),
            rsa(json!({"alg": "PS256"})),
            rsa(json!({"alg": "ES256"})),
            rsa(json!({"n": bytes(128)})),
            rsa(json!({"key_ops": ["encrypt"]})),
            ec(json!({"crv": "P-384"})),
            ec(json!({"x": bytes(31)})),
            ec(json!({"x": "?"})),
            ed(json!({"crv": "X25519"})),
            ed(json!({"x": bytes(33)})),
            json!({"kty": "AKP"}),
            json!(1),
        ] {
            assert_eq!(
                parse(std::slice::from_ref(&key)),
                Err(InvalidKeySet::NoUsableKey(1)),
                "{key}"
            );
            let set = parse(&[key, ec(json!({}))]).unwrap();
            assert_eq!((set.len(), set.ignored), (1, 1));
        }
        let only_rsa = KeySet::parse(
            json!({"keys": [ec(json!({}))]}).to_string().as_bytes(),
            &[Algorithm::RS256],
        );
        assert_eq!(only_rsa, Err(InvalidKeySet::NoUsableKey(1)));
        assert!(matches!(KeySet::parse(b"<html>", &ALL), Err(InvalidKeySet::Json(_))));
        assert!(matches!(KeySet::parse(b"{}", &ALL), Err(InvalidKeySet::Json(_))));
    }

    #[test]
    fn a_key_is_found_by_its_id_and_its_algorithm() {
        let set = parse(&[
            rsa(json!({"kid": "a"})),
            rsa(json!({"kid": "b"})),
            ec(json!({"kid": "a"})),
        ])
        .unwrap();
        assert_eq!(find(&set, Algorithm::RS256, Some("a")), Ok(Algorithm::RS256));
        assert_eq!(find(&set, Algorithm::ES256, Some("a")), Ok(Algorithm::ES256));
        assert_eq!(find(&set, Algorithm::ES256, Some("b")), Err("token_algorithm_refused"));
        assert_eq!(find(&set, Algorithm::RS256, Some("c")), Err("token_unknown_key"));
    }

    #[test]
    fn without_an_id_only_one_key_may_fit() {
        let set = parse(&[rsa(json!({"kid": "a"})), rsa(json!({})), ec(json!({"kid": "c"}))]).unwrap();
        assert_eq!(find(&set, Algorithm::ES256, None), Ok(Algorithm::ES256));
        assert_eq!(find(&set, Algorithm::RS256, None), Err("token_unknown_key"));
        assert_eq!(find(&set, Algorithm::EdDSA, None), Err("token_unknown_key"));
    }
}
