//! The tier of a modelled sale.
use seckill_protocol::index::Millis;
use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{Quantity, Tier};

/// The number of the tier.
pub(crate) const GOLD: Tier = 1;
/// The start of a sale with tiers. The tier may open a second before it, and its reserve is released a second after it.
pub(crate) const STARTS_AT: Millis = 2_000;
pub(crate) const SECOND: Millis = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierPlan {
    /// Units kept for the tier until its release, a while after the start.
    pub reserved: u64,
    /// Units kept for general buyers until the start.
    pub reserved_for_general: u64,
    /// The most units of a buyer who buys by the tier.
    pub limit: Quantity,
    /// The tier opens before the start, and the model begins then. Otherwise it begins at the start.
    pub opens_earlier: bool,
}

impl TierPlan {
    pub(crate) fn opens(&self, tier: Tier) -> Millis {
        match tier == GOLD && self.opens_earlier {
            true => STARTS_AT - SECOND,
            false => STARTS_AT,
        }
    }

    /// The units that the reserve of a tier has at this time.
    pub(crate) fn reserve(&self, tier: Tier, now: Millis) -> u64 {
        match tier {
            GOLD if now < STARTS_AT + SECOND => self.reserved,
            GENERAL if now < STARTS_AT => self.reserved_for_general,
            _ => 0,
        }
    }
}
