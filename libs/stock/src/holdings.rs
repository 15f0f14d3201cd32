//! The text of the holdings of a buyer in Redis: `epoch.seq.quantity.key`, followed by `x` if cancelled, separated by
//! spaces.
use std::fmt::Write as _;

use seckill_protocol::Epoch;
use seckill_protocol::index::Holding;

pub fn to_text(holdings: &[Holding]) -> String {
    let mut text = String::with_capacity(40 * holdings.len());
    for (i, h) in holdings.iter().enumerate() {
        let (space, mark) = (if i == 0 { "" } else { " " }, if h.cancelled { "x" } else { "" });
        // Writing into a String never fails.
        let _ = write!(text, "{space}{}.{}.{}.{}{mark}", h.epoch, h.seq, h.quantity, h.key);
    }
    text
}

/// Parses one holding; `None` if the text is invalid.
pub fn parse(text: &str) -> Option<Holding> {
    let (text, cancelled) = match text.strip_suffix('x') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let mut parts = text.split('.');
    let mut next = || parts.next();
    let holding = Holding {
        epoch: Epoch(next()?.parse().ok()?),
        seq: next()?.parse().ok()?,
        quantity: next()?.parse().ok()?,
        key: next()?.parse().ok()?,
        cancelled,
    };
    next().is_none().then_some(holding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_protocol::KeyHash;

    #[test]
    fn a_holding_round_trips_through_text() {
        for cancelled in [false, true] {
            let holding = Holding {
                epoch: Epoch(12),
                seq: 3,
                quantity: 2,
                key: KeyHash(0xbeef),
                cancelled,
            };
            assert_eq!(parse(&to_text(&[holding])), Some(holding));
        }
        for bad in ["", "1.2.3", "1.2.3.zz", "1.2.3.000000000000beef.4", "x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
