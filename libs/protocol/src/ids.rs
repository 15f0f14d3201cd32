//! Identifiers. Each has its own type, so that a sequence number can't be used as an epoch.
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The text of an identifier is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem}; expected {expected}")]
pub struct InvalidId {
    pub what: &'static str,
    pub problem: String,
    pub expected: &'static str,
}

/// A position in the partition of the log on which a sale lives.
pub type Offset = i64;

/// The offset of the BARRIER that started an index of a sale. A greater epoch is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub Offset);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The sequence number of an order in its epoch, from 1.
pub type Seq = u64;

/// Units in one order.
pub type Quantity = u32;

/// A class of buyers, 0 = general.
pub type Tier = u8;

/// The id of a sale. It is random and never reused: an auto-increment could assign an id twice after MySQL lost its
/// tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaleId(pub u32);

impl fmt::Display for SaleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for SaleId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let valid = s.len() == 8 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u32::from_str_radix(s, 16) {
            Ok(id) if valid => Ok(SaleId(id)),
            _ => Err(InvalidId {
                what: "sale id",
                problem: format!("{:?} is invalid", truncated(s)),
                expected: "8 lower-case hexadecimal digits, such as 00c0ffee",
            }),
        }
    }
}

/// 64 bits of the SHA-256 of an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    pub fn of(key: &str) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        KeyHash(u64::from_be_bytes(first))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyHash {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let valid = s.len() == 16 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(s, 16) {
            Ok(hash) if valid => Ok(KeyHash(hash)),
            _ => Err(InvalidId {
                what: "key hash",
                problem: format!("{:?} is invalid", truncated(s)),
                expected: "16 lower-case hexadecimal digits",
            }),
        }
    }
}

/// A buyer. An anonymous buyer is `a:` and a digest of the idempotency key. A buyer with an identity is
/// `<issuer>:<subject>`. The allowed characters need no escaping in JSON, Lua and SQL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Buyer(String);

impl Buyer {
    /// Maximum length in bytes.
    pub const MAX_LEN: usize = 128;

    pub fn new(s: impl Into<String>) -> Result<Self, InvalidId> {
        let s = s.into();
        let invalid = |problem: String| InvalidId {
            what: "buyer",
            problem,
            expected: "1 to 128 characters of A-Z a-z 0-9 . _ : @ ~ + = - %",
        };
        if s.is_empty() || s.len() > Self::MAX_LEN {
            return Err(invalid(format!("{} characters", s.len())));
        }
        match s
            .bytes()
            .find(|b| !b.is_ascii_alphanumeric() && !b"._:@~+=-%".contains(b))
        {
            Some(b) => Err(invalid(format!("the character {:?}", b as char))),
            None => Ok(Buyer(s)),
        }
    }

    /// The buyer of an anonymous idempotency key. Everyone who knows the key is this buyer.
    pub fn anonymous(key: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"seckill anonymous buyer\0");
        hasher.update(key.as_bytes());
        let digest = hasher.finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Buyer(format!("a:{:032x}", u128::from_be_bytes(first)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Buyer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Buyer {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Buyer::new(s)
    }
}

/// The primary key of an order, in the log and in MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId {
    pub sale: SaleId,
    pub epoch: Epoch,
    pub seq: Seq,
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.sale, self.epoch, self.seq)
    }
}

/// Parses an id from its JSON text without copying the text. A record holds up to 128 buyers and as many keys.
struct FromText<T>(PhantomData<T>);

impl<T: FromStr<Err = InvalidId>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! serde_as_text {
    ($($t:ty),*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_str(FromText(PhantomData))
            }
        }
    )*};
}
serde_as_text!(SaleId, KeyHash, Buyer);

fn truncated(s: &str) -> String {
    s.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buyer_that_could_break_out_of_json_is_refused() {
        for bad in ["", "a b", "a\"b", "a\\b", "a\nb", "ä", &"x".repeat(129)] {
            assert!(Buyer::new(bad).is_err(), "{bad:?}");
        }
        assert!(Buyer::new("shop:alice@example.org").is_ok());
        assert!(Buyer::new("x".repeat(128)).is_ok());
    }

    #[test]
    fn the_same_anonymous_key_is_the_same_buyer() {
        assert_eq!(Buyer::anonymous("k"), Buyer::anonymous("k"));
        assert_ne!(Buyer::anonymous("k"), Buyer::anonymous("l"));
        assert!(Buyer::new(Buyer::anonymous("k").as_str()).is_ok());
    }

    #[test]
    fn a_buyer_and_an_order_are_shown_as_in_the_log() {
        let buyer = Buyer::new("shop:alice").expect("valid");
        assert_eq!(
            (buyer.as_str(), buyer.to_string().as_str()),
            ("shop:alice", "shop:alice")
        );
        let order = OrderId {
            sale: SaleId(7),
            epoch: Epoch(3),
            seq: 5,
        };
        assert_eq!(order.to_string(), "00000007/3/5");
    }

    #[test]
    fn an_error_says_what_was_found_and_what_is_expected() {
        let error = "x".repeat(100).parse::<SaleId>().expect_err("invalid");
        assert_eq!(error.problem, format!("{:?} is invalid", "x".repeat(40)));
        let error = serde_json::from_str::<SaleId>("7").expect_err("a number");
        assert!(error.to_string().contains("expected a string"), "{error}");
    }

    #[test]
    fn ids_round_trip_through_text() {
        let sale = SaleId(0x00c0_ffee);
        assert_eq!(sale.to_string().parse(), Ok(sale));
        assert!("+0c0ffee".parse::<SaleId>().is_err());
        assert!("00C0FFEE".parse::<SaleId>().is_err());
        let hash = KeyHash::of("k");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("+123456789abcdef".parse::<KeyHash>().is_err());
    }
}
