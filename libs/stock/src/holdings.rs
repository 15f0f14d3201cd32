//! The text of the holdings of a buyer in Redis: `epoch.seq.quantity.key`, followed by `t` and the tier if it was not bought
//! by a general buyer, and by `x` if cancelled. Spaces separate them.
use std::fmt::Write as _;

use seckill_protocol::Epoch;
use seckill_protocol::index::Holding;
use seckill_protocol::tiers::GENERAL;

pub fn to_text(holdings: &[Holding]) -> String {
    let mut text = String::with_capacity(40 * holdings.len());
    for (i, h) in holdings.iter().enumerate() {
        let (space, mark) = (if i == 0 { "" } else { " " }, if h.cancelled { "x" } else { "" });
        // Writing into a String never fails.
        let _ = write!(text, "{space}{}.{}.{}.{}", h.epoch, h.seq, h.quantity, h.key);
        if h.tier != GENERAL {
            let _ = write!(text, "t{}", h.tier);
        }
        text.push_str(mark);
    }
    text
}

/// Parses one holding; `None` if the text is invalid.
pub fn parse(text: &str) -> Option<Holding> {
    let (text, cancelled) = match text.strip_suffix('x') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (text, tier) = match text.split_once('t') {
        Some((text, tier)) => (text, tier.parse().ok()?),
        None => (text, GENERAL),
    };
    let mut parts = text.split('.');
    let mut next = || parts.next();
    let holding = Holding {
        epoch: Epoch(next()?.parse().ok()?),
        seq: next()?.parse().ok()?,
        quantity: next()?.parse().ok()?,
        tier,
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
        for (tier, cancelled, end) in [
            (0, false, "beef"),
            (0, true, "beefx"),
            (4, false, "beeft4"),
            (4, true, "beeft4x"),
        ] {
            let holding = Holding {
                epoch: Epoch(12),
                seq: 3,
                quantity: 2,
                tier,
                key: KeyHash(0xbeef),
                cancelled,
            };
            let text = to_text(&[holding]);
            assert!(text.ends_with(end), "{text}");
            assert_eq!(parse(&text), Some(holding));
        }
        for bad in [
            "",
            "1.2.3",
            "1.2.3.zz",
            "1.2.3.000000000000beef.4",
            "x",
            "1.2.3.000000000000beeft",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
