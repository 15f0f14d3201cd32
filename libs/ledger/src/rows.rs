//! Converts columns to the types of the protocol.
use seckill_protocol::sale::TierLimits;
use seckill_protocol::{Buyer, OrderStatus, Tiers};

use crate::error::LedgerError;

/// Numbers of values in an IN list. Each is a statement of its own to the server, so there are few.
const IN_SIZES: [usize; 3] = [1, 16, 256];
pub(crate) const MAX_IN_SIZE: usize = IN_SIZES[IN_SIZES.len() - 1];

/// The values of an IN list: at most [`MAX_IN_SIZE`], padded with the last one.
pub(crate) fn padded<T>(values: &[T]) -> impl Iterator<Item = &T> {
    let size = IN_SIZES.into_iter().find(|size| *size >= values.len());
    let missing = size.unwrap_or_default().saturating_sub(values.len());
    values
        .iter()
        .chain(std::iter::repeat_n(values.last(), missing).flatten())
}

pub(crate) fn buyer(value: String) -> Result<Buyer, LedgerError> {
    Buyer::new(value.as_str()).map_err(|_| LedgerError::Content { column: "buyer", value })
}

pub(crate) fn status(value: String) -> Result<OrderStatus, LedgerError> {
    OrderStatus::from_text(&value).ok_or(LedgerError::Content {
        column: "orders.status",
        value,
    })
}

/// The column `sales.tiers`.
pub(crate) fn tiers(json: Option<String>) -> Result<Option<Tiers>, LedgerError> {
    json.map(|json| serde_json::from_str(&json).map_err(|_| content("sales.tiers", json)))
        .transpose()
}

pub(crate) fn tiers_to_json(tiers: Option<&Tiers>) -> Option<String> {
    tiers.and_then(|tiers| serde_json::to_string(tiers).ok()) // it has no maps, so it always becomes JSON
}

/// The column `sales.tier_limits`. A sale without tiers has none.
pub(crate) fn tier_limits(json: Option<String>) -> Result<TierLimits, LedgerError> {
    json.map_or(Ok(TierLimits::default()), |json| {
        serde_json::from_str(&json).map_err(|_| content("sales.tier_limits", json))
    })
}

pub(crate) fn tier_limits_to_json(limits: &TierLimits) -> Option<String> {
    let has_any = limits.iter().any(|limit| *limit > 0);
    has_any.then(|| format!("{limits:?}"))
}

fn content(column: &'static str, value: String) -> LedgerError {
    LedgerError::Content { column, value }
}

/// A price without trailing zeros, but with two digits after the point or more: one text for each number.
pub(crate) fn price(value: &str) -> String {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    format!("{whole}.{:0<2}", fraction.trim_end_matches('0'))
}

/// The price as the FlashSale states it. The column has only the number, so that it can be summed up; the item has the
/// text.
pub(crate) fn stated_price(value: &str, item: &serde_json::Value) -> String {
    let number = price(value);
    match item.get("price").and_then(serde_json::Value::as_str) {
        Some(text) if price(text) == number => text.to_owned(),
        _ => number,
    }
}

#[cfg(test)]
mod tests {
    use super::{padded, price, stated_price, tier_limits, tier_limits_to_json};

    #[test]
    fn an_in_list_is_padded_with_its_last_value() {
        assert_eq!(padded(&[7]).collect::<Vec<_>>(), [&7]);
        let list: Vec<_> = padded(&[7, 8]).copied().collect();
        assert_eq!((list.len(), &list[..3]), (16, [7, 8, 8].as_slice()));
        assert_eq!(padded(&[0; 256]).count(), 256);
    }

    #[test]
    fn limits_of_tiers_round_trip_through_a_column() {
        for limits in [[0; 4], [2, 0, 1, 0]] {
            assert_eq!(tier_limits(tier_limits_to_json(&limits)).expect("valid"), limits);
        }
        assert_eq!(tier_limits_to_json(&[0; 4]), None);
        for bad in ["[1]", "{}", "[1,2,3,-4]"] {
            assert!(tier_limits(Some(bad.to_owned())).is_err(), "{bad}");
        }
    }

    #[test]
    fn prices_keep_two_digits_and_drop_trailing_zeros() {
        for (stored, shown) in [
            ("9.9000", "9.90"),
            ("1999.0000", "1999.00"),
            ("0.1250", "0.125"),
            ("7", "7.00"),
        ] {
            assert_eq!(price(stored), shown);
        }
    }

    #[test]
    fn a_stated_price_is_the_text_of_the_same_number() {
        let stated = |text: &str| stated_price("500.0000", &serde_json::json!({"price": text}));
        assert_eq!(
            [stated("500"), stated("500.0"), stated("5")],
            ["500", "500.0", "500.00"]
        );
        assert_eq!(stated_price("9.9000", &serde_json::json!({})), "9.90");
    }
}
