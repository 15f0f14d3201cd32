//! Converts columns to the types of the protocol.
use seckill_protocol::{Buyer, OrderStatus};

use crate::error::LedgerError;

pub(crate) fn buyer(value: String) -> Result<Buyer, LedgerError> {
    Buyer::new(value.as_str()).map_err(|_| LedgerError::Content { column: "buyer", value })
}

pub(crate) fn status(value: String) -> Result<OrderStatus, LedgerError> {
    OrderStatus::from_text(&value).ok_or(LedgerError::Content {
        column: "orders.status",
        value,
    })
}

/// The text of a DECIMAL(18,4) without trailing zeros, but with at least two digits after the point.
pub(crate) fn price(value: String) -> String {
    match value.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{:0<2}", fraction.trim_end_matches('0')),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::price;

    #[test]
    fn prices_keep_two_digits_and_drop_trailing_zeros() {
        for (stored, shown) in [
            ("9.9000", "9.90"),
            ("1999.0000", "1999.00"),
            ("0.1250", "0.125"),
            ("7", "7"),
        ] {
            assert_eq!(price(stored.into()), shown);
        }
    }
}
