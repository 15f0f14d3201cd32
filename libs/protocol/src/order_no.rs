//! Order numbers for buyers. A number is the id of the order, encrypted with a keyed cipher. So it needs no clock, no
//! generator and no storage, it can't be guessed or enumerated, and it decodes to the id.
use std::fmt;
use std::str::FromStr;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

use jiff::Timestamp;

use crate::ids::{Epoch, OrderId, SaleId};
use crate::index::Millis;

const EPOCH_BITS: u32 = 36;
const SEQ_BITS: u32 = 28;
/// Crockford's base 32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DIGITS: usize = 26;

/// A key version (one of `0-9a-z`) and 26 characters of Crockford's base 32.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderNo(String);

impl OrderNo {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderNoError {
    #[error("not an order number; expected 27 characters, such as 1ABCDEFGHJKMNPQRSTVWXYZ0123")]
    NotAuthentic,
    /// Another process may have the key, so this says nothing about the order.
    #[error("the order number was encrypted with a key of version {0}, which this process does not have")]
    UnknownKey(char),
    #[error(
        "order-number keys: {0}; expected VERSION:KEY or VERSION:KEY@TIME, separated by commas, with a version of 0-9 or \
         a-z, a key of 32 hexadecimal digits, and the start of the first sale that uses the key, such as \
         1:00112233445566778899aabbccddeeff,2:ffeeddccbbaa99887766554433221100@2030-01-01T00:00:00Z"
    )]
    Keys(String),
    #[error("order {0} is too large for an order number: epochs below 2^36, and fewer than 2^28 orders per epoch")]
    TooLarge(OrderId),
}

/// The keys by version. All decrypt. The start of a sale decides which key encrypts the numbers of its orders: the start
/// does not move once the sale can have orders, so an order has the same number in every process and for ever.
///
/// To rotate keys, add one whose time is after the rollout. By that time every process can decrypt its numbers.
#[derive(Clone)]
pub struct OrderNoKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    version: u8,
    cipher: Aes128,
    /// It encrypts for sales that start at this time or later, in unix milliseconds. 0 for the first key.
    from: Millis,
}

impl fmt::Debug for OrderNoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|key| key.version as char))
            .finish()
    }
}

impl FromStr for OrderNoKeys {
    type Err = OrderNoError;

    fn from_str(s: &str) -> Result<Self, OrderNoError> {
        let mut keys: Vec<Key> = Vec::new();
        for (i, part) in s.split(',').enumerate() {
            let bad = |problem: &str| OrderNoError::Keys(format!("key {} {problem}", i + 1));
            let key = parse_key(part.trim()).map_err(bad)?;
            if keys.iter().any(|other| other.version == key.version) {
                return Err(bad("repeats a version"));
            }
            match keys.iter().any(|other| other.from == key.from) {
                true if key.from == 0 => return Err(bad("needs a time, as only one key can have none")),
                true => return Err(bad("repeats a time")),
                false => keys.push(key),
            }
        }
        if !keys.iter().any(|key| key.from == 0) {
            return Err(OrderNoError::Keys("one key must have no time".into()));
        }
        Ok(OrderNoKeys(keys))
    }
}

fn parse_key(text: &str) -> Result<Key, &'static str> {
    let (version, rest) = text.split_once(':').ok_or("has no ':'")?;
    let version = match version.as_bytes() {
        [version] if is_version(*version) => *version,
        _ => return Err("has an invalid version"),
    };
    let (key, time) = match rest.split_once('@') {
        Some((key, time)) => (key, Some(time)),
        None => (rest, None),
    };
    if key.len() != 32 || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("is not 32 hexadecimal digits");
    }
    let key = u128::from_str_radix(key, 16).map_err(|_| "is not hexadecimal")?;
    let from = match time {
        None => 0,
        Some(time) => time
            .parse::<Timestamp>()
            .ok()
            .and_then(|time| Millis::try_from(time.as_millisecond()).ok())
            .filter(|from| *from > 0)
            .ok_or("has an invalid time")?,
    };
    Ok(Key {
        version,
        cipher: Aes128::new(&key.to_be_bytes().into()),
        from,
    })
}

impl OrderNoKeys {
    /// The number of an order, in a sale that starts at this time.
    pub fn encode(&self, order: OrderId, sale_starts: Millis) -> Result<OrderNo, OrderNoError> {
        let too_large = || OrderNoError::TooLarge(order);
        let epoch = u128::try_from(order.epoch.0).map_err(|_| too_large())?;
        let seq = u128::from(order.seq);
        if epoch >> EPOCH_BITS != 0 || seq >> SEQ_BITS != 0 {
            return Err(too_large());
        }
        // The upper 32 bits stay zero, so that a forged number fails.
        let plain = (u128::from(order.sale.0) << (EPOCH_BITS + SEQ_BITS)) | (epoch << SEQ_BITS) | seq;
        let started = self.0.iter().filter(|key| key.from <= sale_starts);
        let key = started.max_by_key(|key| key.from);
        let Key { version, cipher, .. } = key.ok_or_else(|| OrderNoError::Keys("no key".into()))?;
        let mut block = plain.to_be_bytes().into();
        cipher.encrypt_block(&mut block);
        let mut bits = u128::from_be_bytes(block.into());
        let mut text = [0; DIGITS + 1];
        for digit in text[1..].iter_mut().rev() {
            *digit = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        text[0] = *version;
        Ok(OrderNo(text.iter().map(|&b| b as char).collect()))
    }

    /// The order of a number, and the number as [`encode`](Self::encode) writes it: the letters may be in either case. A
    /// text that `encode` did not make is refused.
    pub fn parse_number(&self, number: &str) -> Result<(OrderId, OrderNo), OrderNoError> {
        let order = self.decode(number)?;
        let (version, digits) = number.split_at(1); // ASCII
        Ok((order, OrderNo(format!("{version}{}", digits.to_ascii_uppercase()))))
    }

    /// The order of a number. Any text that [`encode`](Self::encode) did not make is refused.
    pub fn decode(&self, number: &str) -> Result<OrderId, OrderNoError> {
        let bytes = number.as_bytes();
        if bytes.len() != DIGITS + 1 {
            return Err(OrderNoError::NotAuthentic);
        }
        let mut bits: u128 = 0;
        for &byte in &bytes[1..] {
            let digit = ALPHABET.iter().position(|&a| a == byte.to_ascii_uppercase());
            let digit = digit.ok_or(OrderNoError::NotAuthentic)? as u128;
            if bits >> 123 != 0 {
                return Err(OrderNoError::NotAuthentic); // 26 digits hold 130 bits
            }
            bits = (bits << 5) | digit;
        }
        let key = match self.0.iter().find(|key| key.version == bytes[0]) {
            Some(key) => key,
            None if is_version(bytes[0]) => return Err(OrderNoError::UnknownKey(bytes[0] as char)),
            None => return Err(OrderNoError::NotAuthentic),
        };
        let mut block = bits.to_be_bytes().into();
        key.cipher.decrypt_block(&mut block);
        let plain = u128::from_be_bytes(block.into());
        if plain >> 96 != 0 {
            return Err(OrderNoError::NotAuthentic);
        }
        Ok(OrderId {
            sale: SaleId((plain >> (EPOCH_BITS + SEQ_BITS)) as u32),
            epoch: Epoch(((plain >> SEQ_BITS) & ((1 << EPOCH_BITS) - 1)) as i64),
            seq: (plain & ((1 << SEQ_BITS) - 1)) as u64,
        })
    }
}

fn is_version(byte: u8) -> bool {
    byte.is_ascii_digit() || byte.is_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> OrderNoKeys {
        "1:00112233445566778899aabbccddeeff".parse().expect("valid")
    }

    fn order(sale: u32, epoch: i64, seq: u64) -> OrderId {
        OrderId {
            sale: SaleId(sale),
            epoch: Epoch(epoch),
            seq,
        }
    }

    proptest! {
        #[test]
        fn a_number_decodes_to_its_order(sale: u32, epoch in 0..1i64 << 36, seq in 0..1u64 << 28) {
            let id = order(sale, epoch, seq);
            let number = keys().encode(id, 0).expect("fits");
            prop_assert_eq!(number.as_str().len(), 27);
            prop_assert_eq!(keys().decode(number.as_str()), Ok(id));
            prop_assert_eq!(keys().parse_number(&number.as_str().to_lowercase()), Ok((id, number)));
        }

        #[test]
        fn decoding_never_panics(text in ".{0,40}") {
            let _ = keys().decode(&text);
        }

        #[test]
        fn a_number_with_a_changed_digit_is_refused(seq in 1..1u64 << 28, at in 1..27usize, to in 0..32usize) {
            let number = keys().encode(order(1, 2, seq), 0).expect("fits");
            let mut changed = number.as_str().as_bytes().to_vec();
            prop_assume!(changed[at] != ALPHABET[to]);
            changed[at] = ALPHABET[to];
            let changed = String::from_utf8(changed).expect("ASCII");
            prop_assert_eq!(keys().decode(&changed), Err(OrderNoError::NotAuthentic));
        }
    }

    const ROTATED: &str = "1:00112233445566778899aabbccddeeff,2:ffeeddccbbaa99887766554433221100@2030-01-01T00:00:00Z";
    const ROTATED_AT: Millis = 1_893_456_000_000;

    #[test]
    fn the_start_of_a_sale_decides_the_key() {
        let rotated: OrderNoKeys = ROTATED.parse().expect("valid");
        let encode = |keys: &OrderNoKeys, starts| keys.encode(order(1, 2, 3), starts).expect("fits");
        // A process without the new key gives the same numbers for sales before the rotation.
        assert_eq!(encode(&rotated, ROTATED_AT - 1), encode(&keys(), ROTATED_AT - 1));
        let new = encode(&rotated, ROTATED_AT);
        assert!(new.as_str().starts_with('2'));
        assert_eq!(new.to_string(), new.as_str());
        // A log shows the versions, and never a key.
        assert_eq!(format!("{rotated:?}"), "['1', '2']");
        for number in [&new, &encode(&rotated, 0)] {
            assert_eq!(rotated.decode(number.as_str()), Ok(order(1, 2, 3)));
        }
    }

    #[test]
    fn a_number_of_an_unknown_key_is_not_refused_for_good() {
        let rotated: OrderNoKeys = ROTATED.parse().expect("valid");
        let new = rotated.encode(order(1, 2, 3), ROTATED_AT).expect("fits");
        assert_eq!(keys().decode(new.as_str()), Err(OrderNoError::UnknownKey('2')));
        for forged in [
            "2",
            "20123456789ABCDEFGHJKMNPQRI",
            "-0123456789ABCDEFGHJKMNPQRS",
            "A0123456789ABCDEFGHJKMNPQRS",
        ] {
            assert_eq!(keys().decode(forged), Err(OrderNoError::NotAuthentic), "{forged}");
        }
    }

    #[test]
    fn exactly_one_key_has_no_time() {
        let (a, b) = (
            "1:00112233445566778899aabbccddeeff",
            "2:ffeeddccbbaa99887766554433221100",
        );
        let time = "@2030-01-01T00:00:00Z";
        for good in [a.to_owned(), format!("{b}{time}, {a}")] {
            assert!(good.parse::<OrderNoKeys>().is_ok(), "{good}");
        }
        for (bad, problem) in [
            (format!("{a},{b}"), "key 2 needs a time"),
            (format!("{b}{time}"), "one key must have no time"),
            (format!("{a},{b}@tomorrow"), "key 2 has an invalid time"),
            (format!("{a},{b}@1960-01-01T00:00:00Z"), "key 2 has an invalid time"),
            (format!("{a},{b}@1970-01-01T00:00:00Z"), "key 2 has an invalid time"),
            (format!("{a},{b}{time},3{}{time}", &b[1..]), "key 3 repeats a time"),
        ] {
            let error = bad.parse::<OrderNoKeys>().expect_err(&bad).to_string();
            assert!(error.contains(problem), "{error}");
            assert!(!error.contains(&a[2..]) || error.contains("such as"), "{error}");
        }
    }

    #[test]
    fn orders_beyond_the_number_s_range_are_refused() {
        assert!(keys().encode(order(1, 1 << 36, 1), 0).is_err());
        assert!(keys().encode(order(1, -1, 1), 0).is_err());
        assert!(keys().encode(order(1, 1, 1 << 28), 0).is_err());
    }

    #[test]
    fn invalid_keys_name_the_problem() {
        for bad in [
            "",
            "1",
            "1:",
            "1:zz",
            "12:00112233445566778899aabbccddeeff",
            "A:00112233445566778899aabbccddeeff",
            "1:00112233445566778899aabbccddeef",
        ] {
            let error = bad.parse::<OrderNoKeys>().expect_err(bad).to_string();
            assert!(error.contains("key 1"), "{error}");
        }
    }
}
