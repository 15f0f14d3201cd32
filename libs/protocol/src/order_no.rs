//! Order numbers for buyers. A number is the id of the order, encrypted with a keyed cipher. So it needs no clock, no
//! generator and no storage, it can't be guessed or enumerated, and it decodes to the id.
use std::fmt;
use std::str::FromStr;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

use crate::ids::{Epoch, OrderId, SaleId};

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
    #[error(
        "order-number keys: {0}; expected VERSION:KEY,... with a version of 0-9 or a-z and a key of 32 hexadecimal \
         digits, such as 1:00112233445566778899aabbccddeeff"
    )]
    Keys(String),
    #[error("order {0} is too large for an order number: epochs below 2^36, and fewer than 2^28 orders per epoch")]
    TooLarge(OrderId),
}

/// The keys by version. The first encrypts and all decrypt. To rotate keys, put a new one in front.
#[derive(Clone)]
pub struct OrderNoKeys(Vec<(u8, Aes128)>);

impl fmt::Debug for OrderNoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(version, _)| *version as char))
            .finish()
    }
}

impl FromStr for OrderNoKeys {
    type Err = OrderNoError;

    fn from_str(s: &str) -> Result<Self, OrderNoError> {
        let mut keys: Vec<(u8, Aes128)> = Vec::new();
        for (i, part) in s.split(',').enumerate() {
            let bad = |problem: &str| OrderNoError::Keys(format!("key {} {problem}", i + 1));
            let (version, key) = part.trim().split_once(':').ok_or_else(|| bad("has no ':'"))?;
            let version = match version.as_bytes() {
                [v @ (b'0'..=b'9' | b'a'..=b'z')] => *v,
                _ => return Err(bad("has an invalid version")),
            };
            if keys.iter().any(|(v, _)| *v == version) {
                return Err(bad("repeats a version"));
            }
            if key.len() != 32 || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad("is not 32 hexadecimal digits"));
            }
            let key = u128::from_str_radix(key, 16).map_err(|_| bad("is not hexadecimal"))?;
            keys.push((version, Aes128::new(&key.to_be_bytes().into())));
        }
        Ok(OrderNoKeys(keys))
    }
}

impl OrderNoKeys {
    pub fn encode(&self, order: OrderId) -> Result<OrderNo, OrderNoError> {
        let too_large = || OrderNoError::TooLarge(order);
        let epoch = u128::try_from(order.epoch.0).map_err(|_| too_large())?;
        let seq = u128::from(order.seq);
        if epoch >> EPOCH_BITS != 0 || seq >> SEQ_BITS != 0 {
            return Err(too_large());
        }
        // The upper 32 bits stay zero, so that a forged number fails.
        let plain = (u128::from(order.sale.0) << (EPOCH_BITS + SEQ_BITS)) | (epoch << SEQ_BITS) | seq;
        let (version, cipher) = self.0.first().ok_or_else(|| OrderNoError::Keys("no key".into()))?;
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

    /// The order of a number. Any text that [`encode`](Self::encode) did not make is refused.
    pub fn decode(&self, number: &str) -> Result<OrderId, OrderNoError> {
        let bytes = number.as_bytes();
        if bytes.len() != DIGITS + 1 {
            return Err(OrderNoError::NotAuthentic);
        }
        let (_, cipher) = self
            .0
            .iter()
            .find(|(v, _)| *v == bytes[0])
            .ok_or(OrderNoError::NotAuthentic)?;
        let mut bits: u128 = 0;
        for &byte in &bytes[1..] {
            let digit = ALPHABET.iter().position(|&a| a == byte.to_ascii_uppercase());
            let digit = digit.ok_or(OrderNoError::NotAuthentic)? as u128;
            if bits >> 123 != 0 {
                return Err(OrderNoError::NotAuthentic); // 26 digits hold 130 bits
            }
            bits = (bits << 5) | digit;
        }
        let mut block = bits.to_be_bytes().into();
        cipher.decrypt_block(&mut block);
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
            let number = keys().encode(id).expect("fits");
            prop_assert_eq!(number.as_str().len(), 27);
            prop_assert_eq!(keys().decode(number.as_str()), Ok(id));
            prop_assert_eq!(keys().decode(&number.as_str().to_lowercase()), Ok(id));
        }

        #[test]
        fn decoding_never_panics(text in ".{0,40}") {
            let _ = keys().decode(&text);
        }

        #[test]
        fn a_number_with_a_changed_digit_is_refused(seq in 1..1u64 << 28, at in 1..27usize, to in 0..32usize) {
            let number = keys().encode(order(1, 2, seq)).expect("fits");
            let mut changed = number.as_str().as_bytes().to_vec();
            prop_assume!(changed[at] != ALPHABET[to]);
            changed[at] = ALPHABET[to];
            let changed = String::from_utf8(changed).expect("ASCII");
            prop_assert_eq!(keys().decode(&changed), Err(OrderNoError::NotAuthentic));
        }
    }

    #[test]
    fn a_rotated_key_still_decodes_old_numbers() {
        let old = keys().encode(order(1, 2, 3)).expect("fits");
        let both: OrderNoKeys = "2:ffeeddccbbaa99887766554433221100,1:00112233445566778899aabbccddeeff"
            .parse()
            .expect("valid");
        assert_eq!(both.decode(old.as_str()), Ok(order(1, 2, 3)));
        assert!(both.encode(order(1, 2, 3)).expect("fits").as_str().starts_with('2'));
    }

    #[test]
    fn orders_beyond_the_number_s_range_are_refused() {
        assert!(keys().encode(order(1, 1 << 36, 1)).is_err());
        assert!(keys().encode(order(1, -1, 1)).is_err());
        assert!(keys().encode(order(1, 1, 1 << 28)).is_err());
    }

    #[test]
    fn invalid_keys_name_the_problem() {
        for bad in [
            "",
            "1",
            "1:",
            "1:zz",
            "12:00112233445566778899aabbccddeeff",
            "1:00112233445566778899aabbccddeef",
        ] {
            let error = bad.parse::<OrderNoKeys>().expect_err(bad).to_string();
            assert!(error.contains("key 1"), "{error}");
        }
    }
}
