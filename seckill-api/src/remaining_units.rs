//! What buyers of a tier can buy of the units that are left.
use seckill_protocol::Tier;
use seckill_protocol::index::Millis;
use seckill_protocol::tiers::{TierTerms, available};

use crate::clock;

/// The units left, and what is kept for tiers.
#[derive(Debug, Clone)]
pub struct RemainingUnits {
    pub left: u64,
    pub tiers: Vec<TierTerms>,
    pub taken: Vec<u64>,
}

impl RemainingUnits {
    /// No unit is kept for anyone.
    pub fn for_all(left: u64) -> Self {
        RemainingUnits {
            left,
            tiers: Vec::new(),
            taken: Vec::new(),
        }
    }

    pub fn of(&self, tier: Tier) -> Remaining {
        let (left, reserved_until) = available(self.left, &self.tiers, &self.taken, tier, clock::now());
        Remaining { left, reserved_until }
    }
}

/// What buyers of a tier can buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    pub left: u64,
    /// More units are kept for other buyers until then.
    pub reserved_until: Option<Millis>,
}
