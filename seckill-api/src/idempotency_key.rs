//! The header Idempotency-Key, parsed and validated. The key identifies the buyer and the purchase.
//!
//! One rule for all keys: the length, the characters, and some variety. A UUID is one key however it is spelled: with or
//! without hyphens, in upper or lower case. Its version is not checked: 32 random hexadecimal digits are a UUID of any
//! version. Every other key is compared letter by letter.
use std::borrow::Cow;
use std::ops::RangeInclusive;

use http::{HeaderMap, HeaderName};
use seckill_protocol::{Buyer, KeyHash};
use uuid::Uuid;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// 22 characters of base64 are 132 bits.
const KEY_LENGTH: RangeInclusive<usize> = 22..=128;
/// A random key of [`KEY_LENGTH`] has fewer distinct characters with a probability below 10^-12.
const MIN_DISTINCT_CHARACTERS: u32 = 6;

const HOW_TO_CREATE: &str = "create a random UUID or 22 to 128 random characters of A-Z a-z 0-9 . _ ~ + / \
                             = - for each purchase, store it, and send the same key in each retry";

/// A buyer and the key of one purchase.
///
/// All buyers are anonymous so far: the key identifies the buyer, so it must be as hard to guess as a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub buyer: Buyer,
    pub key: KeyHash,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("The header Idempotency-Key is missing; {HOW_TO_CREATE}.")]
    Missing,
    #[error("The header Idempotency-Key was sent {0} times; send it once.")]
    Repeated(usize),
    #[error("The Idempotency-Key {0}; {HOW_TO_CREATE}.")]
    Invalid(String),
}

impl Caller {
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, KeyError> {
        let mut sent = headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = sent.next().ok_or(KeyError::Missing)?;
        match sent.count() {
            0 => {}
            more => return Err(KeyError::Repeated(more + 1)),
        }
        let key = key
            .to_str()
            .map_err(|_| KeyError::Invalid("contains a character that is not visible ASCII".into()))?;
        let key = unquote(key.trim())?;
        let key = canonical(key);
        validate(&key).map_err(KeyError::Invalid)?;
        Ok(Self::from_key(&key))
    }

    /// A new buyer, for a client that sends no key.
    pub fn generate() -> Self {
        Self::from_key(&Uuid::new_v4().to_string())
    }

    fn from_key(key: &str) -> Self {
        Caller {
            buyer: Buyer::anonymous(key),
            key: KeyHash::of(key),
        }
    }
}

/// The IETF draft defines the key as a quoted string; most clients send it without quotes. Both are the same key.
fn unquote(key: &str) -> Result<&str, KeyError> {
    match key.strip_prefix('"') {
        None => Ok(key),
        Some(rest) => rest
            .strip_suffix('"')
            .ok_or_else(|| KeyError::Invalid("starts with a quote but does not end with one".into())),
    }
}

/// Lower case with hyphens, if the key is a UUID with or without hyphens.
fn canonical(key: &str) -> Cow<'_, str> {
    match Uuid::try_parse(key) {
        Ok(uuid) if matches!(key.len(), 32 | 36) => uuid.hyphenated().to_string().into(),
        _ => key.into(),
    }
}

fn validate(key: &str) -> Result<(), String> {
    if !KEY_LENGTH.contains(&key.len()) {
        return Err(format!("has {} characters", key.len()));
    }
    if let Some(b) = key
        .bytes()
        .find(|b| !b.is_ascii_alphanumeric() && !b"._~+/=-".contains(b))
    {
        return Err(format!("contains the character {:?}", b as char));
    }
    // One bit per ASCII character; the check above allows no other characters.
    let distinct = key.bytes().fold(0u128, |seen, b| seen | 1 << b).count_ones();
    if distinct < MIN_DISTINCT_CHARACTERS {
        return Err(format!("has only {distinct} distinct characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const UUID: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

    fn caller(key: &str) -> Result<Caller, KeyError> {
        let mut headers = HeaderMap::new();
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(key.as_bytes()).unwrap());
        Caller::from_headers(&headers)
    }

    #[test]
    fn a_random_key_is_accepted_in_each_form() {
        for good in [
            UUID,
            "8E03978E-40D5-43E8-BC93-6894A57F9324",
            "8e03978e40d513e8bc936894a57f9324",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
            "pR7wzC3GqVf0m1uYhBnd+/==",
            &"0123456789abcdef".repeat(8),
        ] {
            assert!(caller(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn quotes_and_spaces_are_not_part_of_the_key() {
        let bare = caller(UUID).unwrap();
        assert_eq!(caller(&format!("\"{UUID}\"")).unwrap(), bare);
        assert_eq!(caller(&format!("  {UUID} ")).unwrap(), bare);
    }

    #[test]
    fn a_uuid_is_one_key_in_every_spelling() {
        let key = caller(UUID).unwrap();
        assert_eq!(caller(&UUID.to_uppercase()).unwrap(), key);
        assert_eq!(caller(&UUID.replace('-', "")).unwrap(), key);
        assert_eq!(caller(&UUID.replace('-', "").to_uppercase()).unwrap(), key);
        // Of other keys each letter counts.
        let other = "pR7wzC3GqVf0m1uYhBnd+/==";
        assert_ne!(caller(&other.to_lowercase()).unwrap(), caller(other).unwrap());
    }

    #[test]
    fn a_guessable_key_is_rejected_with_advice() {
        for bad in [
            "",
            "1",
            "order-1",
            "0123456789abcdef01234",
            &"0123456789abcdef!".repeat(2),
            &"0123456789abcdef".repeat(9),
            "00000000-0000-0000-0000-000000000000",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "\"8e03978e-40d5-43e8-bc93-6894a57f9324",
            "8e03978e-40d5-43e8-bc93-6894a57f9324,8e03978e-40d5-43e8-bc93-6894a57f9324",
            "8e03978e 40d5 43e8 bc93 6894a57f9324",
            "schlüssel-schlüssel-schlüssel",
        ] {
            let error = caller(bad).expect_err(bad).to_string();
            assert!(error.contains("random UUID"), "{error}");
        }
    }

    #[test]
    fn exactly_one_key_is_accepted() {
        let mut headers = HeaderMap::new();
        assert_eq!(Caller::from_headers(&headers), Err(KeyError::Missing));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static(UUID));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static(UUID));
        assert_eq!(Caller::from_headers(&headers), Err(KeyError::Repeated(2)));
    }
}
