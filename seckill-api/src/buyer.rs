//! Who buys, and under which key. Everything that a request says about that is read here.
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use seckill_protocol::{Buyer, KeyHash};
use uuid::Uuid;

use crate::problem::Problem;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// 22 characters of base64 are 132 bits.
const KEY_LEN: std::ops::RangeInclusive<usize> = 22..=128;
/// A random key of [`KEY_LEN`] has fewer different characters once in 10^12 times or less.
const LEAST_DIFFERENT: u32 = 6;

/// A buyer and the key of one purchase.
///
/// There are only anonymous buyers yet: the key stands for its buyer, so it must be as hard to guess as a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub buyer: Buyer,
    pub key: KeyHash,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("Idempotency-Key: missing; {HOW}")]
    Missing,
    #[error("Idempotency-Key: sent {0} times; send it once")]
    Several(usize),
    #[error("Idempotency-Key: {0}; {HOW}")]
    Invalid(String),
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Caller::of(&parts.headers)?)
    }
}

const HOW: &str = "make a random UUID (version 4) or 22 to 128 random characters of A-Z a-z 0-9 . _ ~ + / = - for \
                   each purchase, keep it, and send the same one with each retry";

impl Caller {
    pub fn of(headers: &HeaderMap) -> Result<Self, KeyError> {
        let mut sent = headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = sent.next().ok_or(KeyError::Missing)?;
        match sent.count() {
            0 => {}
            more => return Err(KeyError::Several(more + 1)),
        }
        let key = key
            .to_str()
            .map_err(|_| KeyError::Invalid("holds what is no visible ASCII".into()))?;
        Self::anonymous(unquoted(key.trim())?)
    }

    /// A buyer of its own for a client that knows no keys.
    pub fn made_here() -> Self {
        Self::of_key(&Uuid::new_v4().to_string())
    }

    fn anonymous(key: &str) -> Result<Self, KeyError> {
        check(key).map_err(KeyError::Invalid)?;
        Ok(Self::of_key(key))
    }

    fn of_key(key: &str) -> Self {
        Caller {
            buyer: Buyer::anonymous(key),
            key: KeyHash::of(key),
        }
    }
}

/// The IETF draft makes the key a quoted string; most clients send it bare. Both are the same key.
fn unquoted(key: &str) -> Result<&str, KeyError> {
    match key.strip_prefix('"') {
        None => Ok(key),
        Some(rest) => rest
            .strip_suffix('"')
            .ok_or_else(|| KeyError::Invalid("begins with a quote and does not end with one".into())),
    }
}

fn check(key: &str) -> Result<(), String> {
    if !KEY_LEN.contains(&key.len()) {
        return Err(format!("{} characters", key.len()));
    }
    if let Some(b) = key
        .bytes()
        .find(|b| !b.is_ascii_alphanumeric() && !b"._~+/=-".contains(b))
    {
        return Err(format!("the character {:?}", b as char));
    }
    let is_uuid = key.len() == 36 && key.contains('-');
    if let (true, Ok(uuid)) = (is_uuid, Uuid::try_parse(key))
        && uuid.get_version_num() != 4
    {
        return Err(format!(
            "a UUID of version {}, which others can guess",
            uuid.get_version_num()
        ));
    }
    // A bit for each character of ASCII, and there are no others here.
    let seen = key.bytes().fold(0u128, |seen, b| seen | 1 << b);
    if seen.count_ones() < LEAST_DIFFERENT {
        return Err(format!("only {} different characters", seen.count_ones()));
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
        Caller::of(&headers)
    }

    #[test]
    fn a_random_key_is_taken_in_each_of_its_forms() {
        for good in [
            UUID,
            "8E03978E-40D5-43E8-BC93-6894A57F9324",
            "8e03978e40d513e8bc936894a57f9324",
            "pR7wzC3GqVf0m1uYhBnd+/==",
            &"0123456789abcdef".repeat(8),
        ] {
            assert!(caller(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn quotes_and_spaces_around_it_are_not_the_key() {
        let bare = caller(UUID).unwrap();
        assert_eq!(caller(&format!("\"{UUID}\"")).unwrap(), bare);
        assert_eq!(caller(&format!("  {UUID} ")).unwrap(), bare);
        assert_ne!(caller(&UUID.to_uppercase()).unwrap(), bare);
    }

    #[test]
    fn a_key_that_others_could_guess_is_refused_with_how_to_make_one() {
        for bad in [
            "",
            "1",
            "order-1",
            "0123456789abcdef01234",
            &"0123456789abcdef!".repeat(2),
            &"0123456789abcdef".repeat(9),
            "00000000-0000-0000-0000-000000000000",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "c232ab00-9414-11ec-b3c8-9f6bdeced846",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
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
    fn exactly_one_key_is_sent() {
        let mut headers = HeaderMap::new();
        assert_eq!(Caller::of(&headers), Err(KeyError::Missing));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static(UUID));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static(UUID));
        assert_eq!(Caller::of(&headers), Err(KeyError::Several(2)));
    }
}
