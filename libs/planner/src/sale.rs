//! The sale that a user wants.
use std::fmt;

use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::sale::{NewSale, Offer, Sale, SaleTerms, TierLimits, first_opens_at};
use seckill_protocol::tiers::TierRule;
use seckill_protocol::{Format, Quantity, SaleId, Tiers};

/// Namespace and name of a FlashSale.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaleKey {
    pub namespace: String,
    pub name: String,
}

impl SaleKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        SaleKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The partition of a new sale. Any choice that spreads sales evenly would do: the ledger keeps it for the sale's life.
    pub fn partition(&self, partitions: u32) -> u32 {
        let bytes = self.name.bytes().chain(self.namespace.bytes());
        let hash = bytes.fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        hash % partitions.max(1)
    }
}

impl fmt::Display for SaleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Orders of each unit that a sale can make, if the FlashSale names no bound: buyers may cancel and buy again.
const ORDERS_PER_UNIT: u64 = 20;

/// What a FlashSale asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredSale {
    pub uid: String,
    /// The sale that the status names. It is compared with the ledger, and used for nothing else.
    pub known_id: Option<SaleId>,
    /// Fields of the spec that this version does not know, such as `spec.item.color`: a newer version has them.
    pub unknown_fields: Vec<String>,
    /// The programs have to speak this format to work on the sale.
    pub format: Format,
    /// By the API server's clock, in whole seconds.
    pub created_at: Millis,
    pub offer: Offer,
    /// Units of one buyer; 0 = no limit.
    pub limit_per_buyer: Quantity,
    /// The same for each tier of the offer.
    pub tier_limits: TierLimits,
    /// Units in one order.
    pub max_per_order: Quantity,
    /// Orders of the sale, whatever becomes of them; `None`: a multiple of the stock.
    pub orders_ever_max: Option<u64>,
    pub starts_at: Millis,
    pub ends_at: Millis,
    pub lead_time_seconds: u32,
    pub cool_down_seconds: u32,
    pub demand: Demand,
    pub suspended: bool,
    /// The sale opens only if its preflight passes.
    pub preflight_required: bool,
}

/// The tiers of a sale, without general buyers.
pub(crate) fn tier_rules(tiers: &Option<Tiers>) -> impl Iterator<Item = &TierRule> {
    tiers.iter().flat_map(|tiers| &tiers.tiers)
}

/// The pods that a sale asks of its release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    pub api_replicas: Option<i32>,
    pub worker_replicas: Option<i32>,
}

/// When a sale needs how many pods. Each second this is read of every sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodSchedule {
    pub preheat_at: Millis,
    /// When the first buyers can buy.
    pub opens_at: Millis,
    pub ends_at: Millis,
    pub cool_down_until: Millis,
    pub demand: Demand,
}

impl PodSchedule {
    pub fn new(
        [opens_at, ends_at]: [Millis; 2],
        [lead_time_seconds, cool_down_seconds]: [u32; 2],
        demand: Demand,
    ) -> Self {
        PodSchedule {
            preheat_at: opens_at.saturating_sub(1000 * u64::from(lead_time_seconds)),
            opens_at,
            ends_at,
            cool_down_until: ends_at.saturating_add(1000 * u64::from(cool_down_seconds)),
            demand,
        }
    }
}

impl DesiredSale {
    pub fn preheat_at(&self) -> Millis {
        self.pod_schedule().preheat_at
    }

    pub fn pod_schedule(&self) -> PodSchedule {
        PodSchedule::new(
            [self.first_opens_at(), self.ends_at],
            [self.lead_time_seconds, self.cool_down_seconds],
            self.demand,
        )
    }

    pub fn terms(&self) -> SaleTerms {
        SaleTerms {
            state: match self.suspended {
                true => SaleState::Suspended,
                false => SaleState::Open,
            },
            opens_at: self.starts_at,
            closes_at: self.ends_at,
            limit_per_buyer: self.limit_per_buyer,
            max_per_order: self.max_per_order,
            orders_ever_max: self.orders_ever_max_of(self.offer.offered),
            tier_limits: self.tier_limits,
        }
    }

    /// When the first buyers can buy.
    pub fn first_opens_at(&self) -> Millis {
        first_opens_at(self.offer.tiers.as_ref(), self.starts_at)
    }

    /// The limits of the tiers that a sale has. The log fixed them, so they may be others than those of the FlashSale, or in
    /// another order. A tier that the FlashSale does not have keeps its limit.
    pub fn tier_limits_of(&self, sale: &Sale) -> TierLimits {
        let mut limits = sale.tier_limits;
        for (limit, rule) in limits.iter_mut().zip(tier_rules(&sale.tiers)) {
            let mut own = tier_rules(&self.offer.tiers).zip(&self.tier_limits);
            if let Some((_, own)) = own.find(|(of, _)| of.name == rule.name) {
                *limit = *own;
            }
        }
        limits
    }

    /// The bound on the orders of a sale that offers so many units.
    pub fn orders_ever_max_of(&self, offered: u64) -> u64 {
        self.orders_ever_max.unwrap_or(offered.saturating_mul(ORDERS_PER_UNIT))
    }

    /// The first entry in the ledger. A sale that requires its preflight starts suspended, until a plan releases it.
    pub fn new_sale(&self, class: &str, cluster: &str, key: &SaleKey, partitions: u32) -> NewSale {
        let mut terms = self.terms();
        if self.preflight_required {
            terms.state = SaleState::Suspended;
        }
        NewSale {
            cluster: Some(cluster.to_owned()),
            class: class.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: self.uid.clone(),
            partition: key.partition(partitions),
            format: self.format,
            terms,
            offer: self.offer.clone(),
        }
    }
}

/// What scaling has to know of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The sale is not accepted, so it needs no pods.
    Refused,
    /// The ledger has to read the log before the sale can be recorded.
    AwaitingLedger,
    Unsettled,
    Settled,
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const START: Millis = 1_900_000_000_000;
    pub const END: Millis = START + 60_000;
    pub const LEAD: Millis = 10_000;

    /// Ten units, from START to END, with a lead time of LEAD.
    pub fn desired() -> DesiredSale {
        DesiredSale {
            uid: "u".into(),
            known_id: None,
            unknown_fields: Vec::new(),
            format: Format::FIRST,
            created_at: START - 60_000,
            offer: Offer {
                item: serde_json::json!({"sku": "s"}),
                item_id: None,
                issuer: None,
                tiers: None,
                price: "1.00".into(),
                currency: "EUR".into(),
                offered: 10,
            },
            limit_per_buyer: 0,
            tier_limits: TierLimits::default(),
            max_per_order: 2,
            orders_ever_max: None,
            starts_at: START,
            ends_at: END,
            lead_time_seconds: 10,
            cool_down_seconds: 0,
            demand: Demand::default(),
            suspended: false,
            preflight_required: false,
        }
    }

    #[test]
    fn a_new_sale_that_requires_its_preflight_starts_suspended() {
        let key = SaleKey::new("shop", "sale");
        let state = |desired: DesiredSale| desired.new_sale("default", "cluster", &key, 8).terms.state;
        assert_eq!(state(desired()), SaleState::Open);
        let requiring = DesiredSale {
            preflight_required: true,
            ..desired()
        };
        assert_eq!(state(requiring), SaleState::Suspended);
    }

    #[test]
    fn a_sale_without_a_bound_makes_20_orders_for_each_unit() {
        let bound = |orders_ever_max| {
            let desired = DesiredSale {
                orders_ever_max,
                ..desired()
            };
            desired.terms().orders_ever_max
        };
        assert_eq!((bound(None), bound(Some(11))), (200, 11));
    }

    #[test]
    fn the_partition_of_a_name_never_changes() {
        // These are stored in ledgers: another hash would only matter for new sales, but the spread must stay even.
        let key = SaleKey::new("shop", "phone-launch");
        assert_eq!((key.to_string().as_str(), key.partition(8)), ("shop/phone-launch", 0));
        let counts = (0..800).fold([0; 8], |mut counts, n| {
            counts[SaleKey::new("shop", format!("sale-{n}")).partition(8) as usize] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
    }
}
