//! The identity of a sale: what never changes once its first epoch begins. The record IDENTITY carries it, so that the
//! ledger can insert the row of a sale again after MySQL has lost it.
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::format::Format;
use crate::ids::SaleId;
use crate::tiers::Tiers;

/// Everything of a sale's row that no FlashSale and no other record can bring back. State, end and limits are not part
/// of it: the operator writes them again from the FlashSale. The partition is the one in which the record is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Drawn at random when the row was inserted. Order numbers and the keys in Redis contain it.
    pub sale: SaleId,
    /// A program has to speak this format to work on the sale. A record of the first format has none.
    #[serde(default = "first", skip_serializing_if = "Format::is_first")]
    pub format: Format,
    /// Class, namespace and name of the FlashSale, 1 to 63, 63 and 253 ASCII characters. No two sales have the same three.
    pub class: String,
    pub namespace: String,
    pub name: String,
    /// Identity of the Kubernetes cluster whose FlashSale owned the sale then, at most 253 ASCII characters. The operator
    /// may write another one into the row later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// UID of the FlashSale that created the sale, at most 36 ASCII characters.
    pub uid: String,
    /// The item as the FlashSale states it: a JSON object.
    pub item: Value,
    /// The number of the item on the routes of the old demo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_id: Option<i64>,
    /// The issuer whose tokens identify the buyers, a DNS label; `None`: buyers are anonymous. Only records of the second
    /// format have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The tiers of buyers. Only records of the third format have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiers: Option<Tiers>,
    /// Price of one unit: at most 14 digits, and up to four after the point.
    pub price: String,
    /// Three ASCII letters or digits.
    pub currency: String,
    /// The stock of the FlashSale at that time. The units that count are those of TOTAL.
    pub offered: u64,
    /// Unix ms. The start is frozen by this record.
    pub starts_at: u64,
    /// Unix ms, as of that time: the FlashSale may change it later.
    pub ends_at: u64,
}

/// A field of an IDENTITY record does not fit into a sale's row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` of an identity; expected {expected}")]
pub struct InvalidIdentity {
    pub field: &'static str,
    pub expected: &'static str,
}

fn first() -> Format {
    Format::FIRST
}

/// Bytes of an item's JSON. A FlashSale's item has at most a sixth of it.
const MAX_ITEM_BYTES: usize = 64 * 1024;

impl Identity {
    /// The columns of a row bound each field. A record that would be refused there must not be written.
    pub fn validate(&self) -> Result<(), InvalidIdentity> {
        let text = |text: &str, min: usize, max: usize| text.is_ascii() && (min..=max).contains(&text.len());
        let checks = [
            ("class", text(&self.class, 1, 63), "1 to 63 ASCII characters"),
            ("namespace", text(&self.namespace, 1, 63), "1 to 63 ASCII characters"),
            ("name", text(&self.name, 1, 253), "1 to 253 ASCII characters"),
            (
                "cluster",
                self.cluster.as_ref().is_none_or(|cluster| text(cluster, 1, 253)),
                "1 to 253 ASCII characters",
            ),
            ("uid", text(&self.uid, 0, 36), "at most 36 ASCII characters"),
            (
                "item",
                self.item.is_object() && self.item.to_string().len() <= MAX_ITEM_BYTES,
                "a JSON object of at most 64 KiB",
            ),
            (
                "issuer",
                self.issuer.as_ref().is_none_or(|issuer| text(issuer, 1, 63)),
                "1 to 63 ASCII characters",
            ),
            (
                "tiers",
                self.tiers.as_ref().is_none_or(Tiers::is_valid),
                "1 to 4 tiers, each with a name of its own and 1 to 16 values",
            ),
            (
                "price",
                is_price(&self.price),
                "a decimal number with at most 14 and 4 digits",
            ),
            (
                "currency",
                text(&self.currency, 3, 3) && self.currency.bytes().all(|b| b.is_ascii_alphanumeric()),
                "three ASCII letters or digits",
            ),
        ];
        match checks.into_iter().find(|(_, valid, _)| !valid) {
            Some((field, _, expected)) => Err(InvalidIdentity { field, expected }),
            None => Ok(()),
        }
    }

    /// Whether both are sales of the same FlashSale name.
    pub fn has_same_name(&self, other: &Identity) -> bool {
        (&self.class, &self.namespace, &self.name) == (&other.class, &other.namespace, &other.name)
    }
}

fn is_price(text: &str) -> bool {
    let digits = |text: &str, most: usize| {
        !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    match text.split_once('.') {
        Some((whole, fraction)) => digits(whole, 14) && digits(fraction, 4),
        None => digits(text, 14),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn identity(sale: SaleId) -> Identity {
        Identity {
            sale,
            format: Format::FIRST,
            class: "default".into(),
            namespace: "shop".into(),
            name: "phone".into(),
            cluster: None,
            uid: "8f0c2f5e-0000-4000-8000-000000000000".into(),
            item: serde_json::json!({"sku": "p1"}),
            item_id: Some(7),
            issuer: None,
            tiers: None,
            price: "9.90".into(),
            currency: "EUR".into(),
            offered: 100,
            starts_at: 1_000,
            ends_at: 2_000,
        }
    }

    #[test]
    fn a_field_that_no_row_can_hold_is_named() {
        assert_eq!(identity(SaleId(1)).validate(), Ok(()));
        let invalid = |change: &dyn Fn(&mut Identity)| {
            let mut identity = identity(SaleId(1));
            change(&mut identity);
            identity.validate().expect_err("invalid").field
        };
        assert_eq!(invalid(&|i| i.class = String::new()), "class");
        assert_eq!(invalid(&|i| i.namespace = "n".repeat(64)), "namespace");
        assert_eq!(invalid(&|i| i.name = "n".repeat(254)), "name");
        assert_eq!(invalid(&|i| i.name = "größe".into()), "name");
        assert_eq!(invalid(&|i| i.cluster = Some(String::new())), "cluster");
        for issuer in ["", &"i".repeat(64)] {
            assert_eq!(invalid(&|i| i.issuer = Some(issuer.into())), "issuer");
        }
        let no_tier = Tiers {
            tiers: Vec::new(),
            reserved_for_general: 0,
        };
        assert_eq!(invalid(&|i| i.tiers = Some(no_tier.clone())), "tiers");
        assert_eq!(invalid(&|i| i.uid = "u".repeat(37)), "uid");
        assert_eq!(invalid(&|i| i.item = serde_json::json!("p1")), "item");
        // 64 KiB with the name of the field and the punctuation.
        let item = |bytes: usize| serde_json::json!({"sku": "s".repeat(bytes - r#"{"sku":""}"#.len())});
        let longest = Identity {
            item: item(64 * 1024),
            ..identity(SaleId(1))
        };
        assert_eq!(longest.validate(), Ok(()));
        assert_eq!(invalid(&|i| i.item = item(64 * 1024 + 1)), "item");
        for price in ["", "-1", "1.", ".5", "1.00000", "123456789012345", "1e3"] {
            assert_eq!(invalid(&|i| i.price = price.into()), "price", "{price}");
        }
        assert_eq!(invalid(&|i| i.currency = "EURO".into()), "currency");
    }

    #[test]
    fn class_namespace_and_name_together_name_a_sale() {
        let one = identity(SaleId(1));
        assert!(one.has_same_name(&identity(SaleId(2))));
        let other = Identity {
            namespace: "outlet".into(),
            ..identity(SaleId(1))
        };
        assert!(!one.has_same_name(&other));
    }
}
