//! Identifiers. Each has its own type, so that a sequence number can't be used as an epoch.
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
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

/// Unix time in milliseconds. The index has that of the server that holds it.
pub type Millis = u64;

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
        Self::first_bits_of(Sha256::new_with_prefix(key))
    }

    /// The hash of a key of this buyer. Keys of buyers with an identity need not be random: the same key of another buyer has
    /// another hash.
    pub fn of_buyer(buyer: &Buyer, key: &str) -> Self {
        // Neither a buyer nor a key contains NUL.
        let hasher = Sha256::new_with_prefix(buyer.as_str());
        Self::first_bits_of(hasher.chain_update(b"\0").chain_update(key))
    }

    fn first_bits_of(hasher: Sha256) -> Self {
        let digest = hasher.finalize();
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

/// A buyer. An anonymous buyer is `a:` and a digest of the idempotency key. A buyer with an identity is `i:` and a keyed
/// digest of the identity ([`BuyerKey`]). The allowed characters need no escaping in JSON, Lua and SQL.
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

    /// The pseudonym of an identity: the subject of an issuer's token. Without the key nobody can tell whose it is.
    pub fn of_identity(key: &BuyerKey, issuer: &str, subject: &str) -> Self {
        let mut mac = key.0.clone();
        mac.update(&identity_bytes(issuer, subject));
        let digest = mac.finalize().into_bytes();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Buyer(format!("i:{:032x}", u128::from_be_bytes(first)))
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

/// No two identities have the same bytes, because the name of an issuer, a DNS label, contains no NUL.
fn identity_bytes(issuer: &str, subject: &str) -> Vec<u8> {
    [issuer.as_bytes(), b"\0", subject.as_bytes()].concat()
}

/// The key of the pseudonyms of buyers. It never changes: with another key each buyer would be another one, without orders
/// and with the whole limit left. To erase an identity, delete all other traces of it: the log need not be rewritten.
#[derive(Clone)]
pub struct BuyerKey(Hmac<Sha256>);

impl BuyerKey {
    const BYTES: usize = 32;
}

impl FromStr for BuyerKey {
    type Err = InvalidId;

    /// The text is not part of an error: it is a secret.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |problem: String| InvalidId {
            what: "key of buyers",
            problem,
            expected: "64 hexadecimal digits",
        };
        if text.len() != 2 * Self::BYTES {
            return Err(invalid(format!("{} characters", text.len())));
        }
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid("a character that is no hexadecimal digit".into()));
        }
        let bytes = (0..Self::BYTES).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16));
        let bytes: Vec<u8> = bytes
            .collect::<Result<_, _>>()
            .map_err(|error| invalid(error.to_string()))?;
        let mac = Hmac::new_from_slice(&bytes);
        mac.map(BuyerKey).map_err(|error| invalid(error.to_string()))
    }
}

impl fmt::Debug for BuyerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BuyerKey")
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

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn buyer_key(text: &str) -> BuyerKey {
        text.parse().expect("a key")
    }

    #[test]
    fn the_pseudonym_of_an_identity_depends_on_the_key_and_never_changes() {
        let of = |key: &str, issuer: &str, subject: &str| Buyer::of_identity(&buyer_key(key), issuer, subject);
        let alice = of(KEY, "main", "auth0|alice");
        // The log has it for ever. docs/installation.md says how openssl computes it.
        assert_eq!(alice.as_str(), "i:7c9436eb44e7657bf5b0bcda43cb97c1");
        assert_eq!(of(&KEY.to_uppercase(), "main", "auth0|alice"), alice);
        assert_eq!(Buyer::new(alice.as_str()), Ok(alice.clone()));
        for other in [
            of(&KEY.replace("00", "01"), "main", "auth0|alice"),
            of(KEY, "other", "auth0|alice"),
            of(KEY, "main", "auth0|bob"),
            of(KEY, "main", ""),
        ] {
            assert_ne!(other, alice);
        }
    }

    #[test]
    fn a_key_of_buyers_is_never_shown() {
        for bad in [&KEY[1..], &format!("{KEY}0"), &KEY.replace('f', "g"), ""] {
            let error = bad.parse::<BuyerKey>().expect_err("invalid").to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        assert_eq!(format!("{:?}", buyer_key(KEY)), "BuyerKey");
    }

    #[test]
    fn a_key_of_one_buyer_is_not_that_of_another() {
        let [alice, bob] = ["alice", "bob"].map(|subject| Buyer::of_identity(&buyer_key(KEY), "main", subject));
        assert_eq!(KeyHash::of_buyer(&alice, "1"), KeyHash::of_buyer(&alice, "1"));
        assert_ne!(KeyHash::of_buyer(&alice, "1"), KeyHash::of_buyer(&alice, "2"));
        assert_ne!(KeyHash::of_buyer(&alice, "1"), KeyHash::of_buyer(&bob, "1"));
        assert_ne!(KeyHash::of_buyer(&alice, "1"), KeyHash::of("1"));
    }

    proptest::proptest! {
        /// Identities that share most characters: another issuer, another subject, another boundary between the two.
        #[test]
        fn two_identities_never_have_the_same_bytes(
            one in ("[a|:/]{0,4}", "[a|:/\0ä]{0,4}"),
            other in ("[a|:/]{0,4}", "[a|:/\0ä]{0,4}"),
        ) {
            let bytes = |(issuer, subject): &(String, String)| identity_bytes(issuer, subject);
            proptest::prop_assert_eq!(bytes(&one) == bytes(&other), one == other);
            for (boundary, _) in one.0.char_indices() {
                let (issuer, subject) = one.0.split_at(boundary);
                let moved = (issuer.to_owned(), [subject, &one.1].concat());
                proptest::prop_assert_ne!(bytes(&one), bytes(&moved));
            }
        }

        #[test]
        fn a_buyer_with_an_identity_is_never_an_anonymous_one(issuer in ".{0,8}", subject in ".{0,8}", key in ".{0,8}") {
            let buyer = Buyer::of_identity(&buyer_key(KEY), &issuer, &subject);
            proptest::prop_assert_ne!(buyer, Buyer::anonymous(&key));
        }
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
