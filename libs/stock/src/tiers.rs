//! The text of the tiers in Redis: for each tier, beginning with general buyers, `opens limit reserved release`, separated by
//! commas; and their live units, separated by spaces. A sale without tiers has neither.
use seckill_protocol::tiers::TierTerms;

pub fn to_text(tiers: &[TierTerms]) -> String {
    let one = |tier: &TierTerms| format!("{} {} {} {}", tier.opens, tier.limit, tier.reserved, tier.release);
    tiers.iter().map(one).collect::<Vec<_>>().join(",")
}

/// `None` if the text is invalid.
pub fn parse(text: &str) -> Option<Vec<TierTerms>> {
    let one = |text: &str| {
        let mut fields = text.split(' ');
        let tier = TierTerms {
            opens: fields.next()?.parse().ok()?,
            limit: fields.next()?.parse().ok()?,
            reserved: fields.next()?.parse().ok()?,
            release: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(tier)
    };
    match text {
        "" => Some(Vec::new()),
        text => text.split(',').map(one).collect(),
    }
}

pub fn taken_to_text(taken: &[u64]) -> String {
    taken.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// `None` if the text is invalid.
pub fn parse_taken(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|units| units.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_round_trip_through_text() {
        let tier = |opens, limit| TierTerms {
            opens,
            limit,
            reserved: 5,
            release: 300,
        };
        for tiers in [vec![], vec![tier(100, 0)], vec![tier(100, 1), tier(90, 2)]] {
            assert_eq!(parse(&to_text(&tiers)), Some(tiers));
        }
        assert_eq!(to_text(&[tier(100, 1), tier(90, 2)]), "100 1 5 300,90 2 5 300");
        for bad in ["1 2 3", "1 2 3 4 5", "1 2 3 x", ","] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for taken in [vec![], vec![0], vec![7, 0, 2]] {
            assert_eq!(parse_taken(&taken_to_text(&taken)), Some(taken));
        }
        assert_eq!(parse_taken("1 -2"), None);
    }
}
