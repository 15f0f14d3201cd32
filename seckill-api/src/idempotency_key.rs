//! The header Idempotency-Key, parsed and validated. The key identifies the purchase, and an anonymous buyer as well.
//!
//! One rule for all keys of anonymous buyers: the length, the characters, and some variety. The keys of a buyer with an identity
//! are scoped to the buyer, so they need not be secret. A UUID is one key however it is spelled: with or
//! without hyphens, in upper or lower case. Its version is not checked: 32 random hexadecimal digits are a UUID of any
//! version. Every other key is compared letter by letter.
use std::borrow::Cow;
use std::ops::RangeInclusive;

use http::{HeaderMap, HeaderName, HeaderValue};
use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{Buyer, KeyHash, Tier};
use uuid::Uuid;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// 22 characters of base64 are 132 bits.
const KEY_LENGTH: RangeInclusive<usize> = 22..=128;
/// Of a key that stands for nobody.
const IDENTIFIED_KEY_LENGTH: RangeInclusive<usize> = 1..=128;
/// A random key of [`KEY_LENGTH`] has fewer distinct characters with a probability below 10^-12.
const MIN_DISTINCT_CHARACTERS: u32 = 6;

const HOW_TO_CREATE: &str = "create a random UUID or 22 to 128 random characters of A-Z a-z 0-9 . _ ~ + / \
                             = - for each purchase, store it, and send the same key in each retry";
const HOW_TO_CREATE_IDENTIFIED: &str = "create another key for each purchase, such as a UUID or 1 to 128 characters of A-Z a-z \
                                        0-9 . _ ~ + / = -, and send the same key in each retry";

/// A buyer and the key of one purchase.
///
/// The key identifies an anonymous buyer, so it must be as hard to guess as a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub buyer: Buyer,
    pub tier: Tier,
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
    #[error("The Idempotency-Key {0}; {HOW_TO_CREATE_IDENTIFIED}.")]
    InvalidIdentified(String),
}

impl Caller {
    /// An anonymous buyer.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, KeyError> {
        let key = canonical_key(only_key(headers)?).map_err(KeyError::Invalid)?;
        validate(&key).map_err(KeyError::Invalid)?;
        Ok(Self::from_key(&key))
    }

    /// A purchase of a buyer who has an identity.
    pub fn identified(buyer: Buyer, tier: Tier, headers: &HeaderMap) -> Result<Self, KeyError> {
        let key = canonical_key(only_key(headers)?).map_err(KeyError::InvalidIdentified)?;
        validate_text(&key, IDENTIFIED_KEY_LENGTH).map_err(KeyError::InvalidIdentified)?;
        let key = KeyHash::of_buyer(&buyer, &key);
        Ok(Caller { buyer, tier, key })
    }

    /// A new buyer, for a client that sends no key.
    pub fn generate() -> Self {
        Self::from_key(&Uuid::new_v4().to_string())
    }

    fn from_key(key: &str) -> Self {
        Caller {
            buyer: Buyer::anonymous(key),
            tier: GENERAL,
            key: KeyHash::of(key),
        }
    }
}

fn only_key(headers: &HeaderMap) -> Result<&HeaderValue, KeyError> {
    let mut sent = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = sent.next().ok_or(KeyError::Missing)?;
    match sent.count() {
        0 => Ok(key),
        more => Err(KeyError::Repeated(more + 1)),
    }
}

fn canonical_key(key: &HeaderValue) -> Result<Cow<'_, str>, String> {
    let key = key
        .to_str()
        .map_err(|_| "contains a character that is not visible ASCII".to_owned())?;
    Ok(canonical(unquote(key.trim())?))
}

/// The IETF draft defines the key as a quoted string; most clients send it without quotes. Both are the same key.
fn unquote(key: &str) -> Result<&str, String> {
    match key.strip_prefix('"') {
        None => Ok(key),
        Some(rest) => rest
            .strip_suffix('"')
            .ok_or_else(|| "starts with a quote but does not end with one".to_owned()),
    }
}

/// Lower case with hyphens, if the key is a UUID with or without hyphens.
fn canonical(key: &str) -> Cow<'_, str> {
    match Uuid::try_parse(key) {
        Ok(uuid) if matches!(key.len(), 32 | 36) => uuid.hyphenated().to_string().into(),
        _ => key.into(),
    }
}

/// A key that is as hard to guess as a password.
fn validate(key: &str) -> Result<(), String> {
    validate_text(key, KEY_LENGTH)?;
    // One bit per ASCII character; there are no other characters.
    let distinct = key.bytes().fold(0u128, |seen, b| seen | 1 << b).count_ones();
    if distinct < MIN_DISTINCT_CHARACTERS {
        return Err(format!("has only {distinct} distinct characters"));
    }
    Ok(())
}

fn validate_text(key: &str, length: RangeInclusive<usize>) -> Result<(), String> {
    if !length.contains(&key.len()) {
        return Err(format!("has {} characters", key.len()));
    }
    if let Some(b) = key
        .bytes()
        .find(|b| !b.is_ascii_alphanumeric() && !b"._~+/=-".contains(b))
    {
        return Err(format!("contains the character {:?}", b as char));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn identified(buyer: &str, key: &str) -> Result<Caller, KeyError> {
        let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, HeaderValue::from_bytes(key.as_bytes()).unwrap())]);
        Caller::identified(Buyer::new(buyer).unwrap(), GENERAL, &headers)
    }

    #[test]
    fn a_buyer_with_an_identity_may_use_any_key() {
        let long = "x".repeat(128);
        for good in ["1", "order-1", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\"1\"", UUID, &long] {
            assert!(identified("i:a", good).is_ok(), "{good}");
        }
        for bad in ["", "\"\"", "a b", "schlüssel", "\"1", &format!("{long}x")] {
            let error = identified("i:a", bad).expect_err(bad).to_string();
            assert!(error.contains("1 to 128 characters"), "{error}");
        }
        assert_eq!(identified("i:a", "\"1\""), identified("i:a", "1"));
        assert_eq!(identified("i:a", &UUID.to_uppercase()), identified("i:a", UUID));
    }

    #[test]
    fn keys_of_two_buyers_do_not_collide() {
        let (one, other) = (identified("i:a", UUID).unwrap(), identified("i:b", UUID).unwrap());
        assert_ne!(one.key, other.key);
        assert_eq!((one.buyer.as_str(), other.buyer.as_str()), ("i:a", "i:b"));
        assert_ne!(one.key, caller(UUID).unwrap().key);
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
