//! Tiers of buyers: an earlier opening, a limit of their own, and units that are kept for them.
//!
//! A token has values of a claim, and the first tier that has one of them is the buyer's. Buyers of no tier are general
//! buyers: tier 0. All that a tier may do is decided by one rule, [`available`], in the function that decides purchases and
//! in the Lua script.
//!
//! A reserve keeps units for a tier until its release. It counts the tier's live orders: a reserve of 200 units of which
//! the tier has 150 keeps 50. A cancelled order returns to the pool, so before the release it refills the reserve.
use serde::{Deserialize, Serialize};

use crate::ids::{Millis, Quantity, Tier};

/// The most tiers of a sale, without that of general buyers.
pub const MAX_TIERS: usize = 4;
/// Buyers of no tier.
pub const GENERAL: Tier = 0;
/// Their name in the status and in metrics. No tier has it.
pub const GENERAL_NAME: &str = "general";

/// A number for each tier, with that of general buyers first.
pub type PerTier<T> = [T; MAX_TIERS + 1];

/// The tiers of a sale. Orders and holdings name a tier by its number, so nothing of this changes once it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tiers {
    /// The tier of number n is at index n - 1. At least one.
    pub tiers: Vec<TierRule>,
    /// Units kept for general buyers until the start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved_for_general: u64,
}

/// One tier, without its limit, which may change while the sale runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TierRule {
    /// A DNS label. No two tiers have the same.
    pub name: String,
    /// Values of the claim, 1 to 16 of 1 to 64 characters.
    pub values: Vec<String>,
    /// Its buyers can buy so long before the start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub opens_before_seconds: u64,
    /// Units kept for its buyers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved: u64,
    /// The units are kept until so long after the start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved_for_seconds: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the index knows of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TierTerms {
    /// The first instant at which its buyers can buy.
    pub opens: Millis,
    /// Units of one buyer; 0 = no limit.
    pub limit: Quantity,
    pub reserved: u64,
    /// The first instant at which the reserve keeps nothing.
    pub release: Millis,
}

impl TierTerms {
    /// Units that the reserve keeps from the others.
    pub fn kept(&self, taken: u64, now: Millis) -> u64 {
        match now < self.release {
            true => self.reserved.saturating_sub(taken),
            false => 0,
        }
    }
}

/// The units that a buyer of a tier can have, and the next release of a reserve, if one keeps units from that buyer.
///
/// `taken` has the live units of each tier. Without tiers all units are available.
pub fn available(left: u64, tiers: &[TierTerms], taken: &[u64], tier: Tier, now: Millis) -> (u64, Option<Millis>) {
    let (mut kept, mut next) = (0u64, None::<Millis>);
    for (of, terms) in tiers.iter().enumerate().filter(|(of, _)| *of != usize::from(tier)) {
        let units = terms.kept(taken.get(of).copied().unwrap_or_default(), now);
        if units > 0 {
            kept = kept.saturating_add(units);
            next = Some(next.map_or(terms.release, |next| next.min(terms.release)));
        }
    }
    (left.saturating_sub(kept), next)
}

impl Tiers {
    /// The tier of a buyer whose token has these values of the claim.
    pub fn of<V: AsRef<str>>(&self, values: &[V]) -> Tier {
        let has = |rule: &TierRule| {
            rule.values
                .iter()
                .any(|of| values.iter().any(|value| value.as_ref() == of))
        };
        let found = self.tiers.iter().take(MAX_TIERS).position(has);
        found.map_or(GENERAL, |index| index as Tier + 1)
    }

    fn rule(&self, tier: Tier) -> Option<&TierRule> {
        self.tiers.get(usize::from(tier).checked_sub(1)?)
    }

    /// `None` for general buyers.
    pub fn name(&self, tier: Tier) -> Option<&str> {
        self.rule(tier).map(|rule| rule.name.as_str())
    }

    /// When buyers of a tier can buy, if general buyers can at `starts_at`.
    pub fn opens(&self, tier: Tier, starts_at: Millis) -> Millis {
        let before = self.rule(tier).map_or(0, |rule| rule.opens_before_seconds);
        starts_at.saturating_sub(before.saturating_mul(1000))
    }

    /// When buyers of each tier can buy, with general buyers first.
    pub fn openings(&self, starts_at: Millis) -> impl Iterator<Item = Millis> {
        let tiers = GENERAL..=self.tiers.len().min(MAX_TIERS) as Tier;
        tiers.map(move |tier| self.opens(tier, starts_at))
    }

    /// When the first buyers can buy.
    pub fn first_opens(&self, starts_at: Millis) -> Millis {
        self.openings(starts_at).min().unwrap_or(starts_at)
    }

    /// The terms of all tiers, with general buyers first. `limits` has a limit for each tier.
    pub fn terms(&self, starts_at: Millis, limits: PerTier<Quantity>) -> Vec<TierTerms> {
        let general = TierTerms {
            opens: starts_at,
            limit: limits[0],
            reserved: self.reserved_for_general,
            release: starts_at,
        };
        let tiers = (GENERAL + 1..).zip(&self.tiers).zip(&limits[1..]);
        let tiers = tiers.map(|((tier, rule), limit)| TierTerms {
            opens: self.opens(tier, starts_at),
            limit: *limit,
            reserved: rule.reserved,
            release: starts_at.saturating_add(rule.reserved_for_seconds.saturating_mul(1000)),
        });
        [general].into_iter().chain(tiers).collect()
    }

    /// The rules that the FlashSale's schema has too.
    pub fn is_valid(&self) -> bool {
        let text = |text: &str| (1..=64).contains(&text.chars().count());
        let valid = |(index, rule): (usize, &TierRule)| {
            text(&rule.name)
                && (1..=16).contains(&rule.values.len())
                && rule.values.iter().all(|value| text(value))
                && self.tiers[..index].iter().all(|earlier| earlier.name != rule.name)
        };
        (1..=MAX_TIERS).contains(&self.tiers.len()) && self.tiers.iter().enumerate().all(valid)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Gold opens ten minutes early and has 200 units until five minutes after the start; silver opens a minute early.
    pub fn tiers() -> Tiers {
        let rule = |name: &str, values: &[&str], before, reserved, reserved_for| TierRule {
            name: name.into(),
            values: values.iter().map(|value| (*value).into()).collect(),
            opens_before_seconds: before,
            reserved,
            reserved_for_seconds: reserved_for,
        };
        Tiers {
            tiers: vec![
                rule("gold", &["gold", "vip"], 600, 200, 300),
                rule("silver", &["silver"], 60, 0, 0),
            ],
            reserved_for_general: 5000,
        }
    }

    const START: Millis = 1_000_000;

    #[test]
    fn the_first_tier_with_a_value_of_the_buyer_counts() {
        let of = |values: &[&str]| tiers().of(values);
        assert_eq!(
            [
                of(&[]),
                of(&["bronze"]),
                of(&["silver"]),
                of(&["vip"]),
                of(&["silver", "gold"])
            ],
            [0, 0, 2, 1, 1]
        );
        assert_eq!(
            (tiers().name(0), tiers().name(2), tiers().name(3)),
            (None, Some("silver"), None)
        );
    }

    #[test]
    fn a_tier_opens_before_the_start() {
        let opens = |tier| tiers().opens(tier, START);
        assert_eq!(
            [opens(0), opens(1), opens(2), opens(3)],
            [START, START - 600_000, START - 60_000, START]
        );
        assert_eq!(tiers().first_opens(START), START - 600_000);
        assert_eq!(tiers().first_opens(5), 0);
    }

    #[test]
    fn terms_have_general_buyers_first() {
        let general = TierTerms {
            opens: START,
            limit: 1,
            reserved: 5000,
            release: START,
        };
        let gold = TierTerms {
            opens: START - 600_000,
            limit: 2,
            reserved: 200,
            release: START + 300_000,
        };
        let silver = TierTerms {
            opens: START - 60_000,
            limit: 3,
            reserved: 0,
            release: START,
        };
        assert_eq!(tiers().terms(START, [1, 2, 3, 4, 5]), [general, gold, silver]);
    }

    #[test]
    fn a_reserve_keeps_what_its_tier_has_not_taken_until_its_release() {
        let terms = tiers().terms(START, [0; 5]);
        let of = |left, taken: [u64; 3], tier, now| available(left, &terms, &taken, tier, now);
        let release = START + 300_000;
        // General buyers have no reserve of their own to lose: gold's counts, and theirs only for the others.
        assert_eq!(of(10_000, [0, 0, 0], 0, START - 1), (9_800, Some(release)));
        assert_eq!(of(10_000, [0, 0, 0], 1, START - 1), (5_000, Some(START)));
        assert_eq!(of(10_000, [0, 0, 0], 2, START - 1), (4_800, Some(START)));
        assert_eq!(of(10_000, [0, 0, 0], 1, START), (10_000, None));
        assert_eq!(of(100, [0, 150, 0], 0, START), (50, Some(release)));
        assert_eq!(of(100, [0, 200, 0], 0, START), (100, None));
        assert_eq!(of(100, [0, 250, 0], 0, START), (100, None));
        assert_eq!(of(100, [0, 0, 0], 0, release - 1), (0, Some(release)));
        assert_eq!(of(100, [0, 0, 0], 0, release), (100, None));
        // A number that no tier has is kept from every reserve.
        assert_eq!(of(10_000, [0, 0, 0], 9, START - 1), (4_800, Some(START)));
        assert_eq!(available(7, &[], &[], 0, 0), (7, None));
    }

    #[test]
    fn invalid_tiers_are_found() {
        assert!(tiers().is_valid());
        let invalid = |change: &dyn Fn(&mut Tiers)| {
            let mut tiers = tiers();
            change(&mut tiers);
            !tiers.is_valid()
        };
        assert!(invalid(&|t| t.tiers.clear()));
        assert!(invalid(&|t| t
            .tiers
            .extend(tests::tiers().tiers.into_iter().cycle().take(3))));
        assert!(invalid(&|t| t.tiers[1].name = "gold".into()));
        assert!(invalid(&|t| t.tiers[0].name = String::new()));
        assert!(invalid(&|t| t.tiers[0].values.clear()));
        assert!(invalid(&|t| t.tiers[0].values[0] = "v".repeat(65)));
    }
}
