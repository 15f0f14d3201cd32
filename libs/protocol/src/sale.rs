//! A sale as the ledger stores it: data only. The ledger reads and writes these types, and the planner uses them.
use crate::acceptance::SaleCut;
use crate::admission::has_freed_name;
use crate::format::Format;
use crate::identity::Identity;
use crate::ids::{Epoch, Offset, Quantity, SaleId, Tier};
use crate::index::{Millis, OrderBounds, SaleState, Terms};
use crate::tiers::{MAX_TIERS, Tiers};

#[derive(Debug, Clone, PartialEq)]
pub struct Sale {
    pub id: SaleId,
    pub class: String,
    pub namespace: String,
    pub name: String,
    /// Identity of the Kubernetes cluster whose FlashSale owns the sale; `None`: claimed by none yet.
    pub cluster: Option<String>,
    /// UID of the FlashSale that created the sale.
    pub uid: String,
    /// Its partition of the log.
    pub partition: u32,
    /// A program has to speak this format to work on the sale.
    pub format: Format,
    /// Rises with each change of terms or offer.
    pub version: u64,
    /// As the FlashSale wants it. See [`Self::state_in_force`].
    pub state: SaleState,
    /// The emergency stop of its class is on: it does not sell, whatever its state.
    pub stopped: bool,
    /// Unix ms, as is `closes_at`.
    pub opens_at: u64,
    pub closes_at: u64,
    /// 0 = none.
    pub limit_per_buyer: Quantity,
    /// Maximum number of units in one order; 0 = none.
    pub max_per_order: Quantity,
    /// Maximum number of orders, whatever becomes of them; 0 = none.
    pub orders_ever_max: u64,
    pub item: serde_json::Value,
    pub item_id: Option<i64>,
    /// As in [`Offer`].
    pub issuer: Option<String>,
    /// As in [`Offer`].
    pub tiers: Option<Tiers>,
    /// As in [`SaleTerms`].
    pub tier_limits: TierLimits,
    pub price: String,
    pub currency: String,
    /// The stock of the FlashSale. Only `total` counts.
    pub offered: u64,
    pub live_epoch: Option<Epoch>,
    pub total: u64,
    /// Units in live orders.
    pub sold: u64,
    /// Units of all orders, live or not.
    pub taken: u64,
    /// Units of orders that ended before CLOSE. They can be sold again.
    pub returned: u64,
    /// Orders of every status.
    pub orders_ever: u64,
    pub cut: SaleCut,
    /// The offset of its IDENTITY record; `None`: the ledger has read none.
    pub identity_at: Option<Offset>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub settled_at_ms: Option<i64>,
    /// Units that the index had left at the settlement; `None` if there was no index.
    pub settled_left: Option<u64>,
    /// Time since which Redis holds no keys of the sale.
    pub freed_at_ms: Option<i64>,
    /// Unix ms at which the deletion of its FlashSale was confirmed; `None`: not deleted.
    pub missing_since_ms: Option<u64>,
}

/// Units of a sale in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerUnits {
    pub total: u64,
    /// Units of all orders, live or not.
    pub taken: u64,
    /// Units of orders that ended before CLOSE.
    pub returned: u64,
    /// Units of orders after the given one.
    pub beyond: u64,
    /// Some stock adjustments that change units are not confirmed by the index yet.
    pub adjustments_pending: bool,
}

impl Sale {
    /// The units that an index with all these orders has left.
    pub fn left_at_rest(&self) -> u64 {
        self.total.saturating_sub(self.out())
    }

    /// The units that an index with all these orders has sold and not got back.
    pub fn out(&self) -> u64 {
        self.taken.saturating_sub(self.returned)
    }

    /// Whether units of the sale are counted, or its item and its start are fixed in the log. Then a FlashSale that is
    /// created again under its name can't change the item and the window.
    pub fn is_counted(&self) -> bool {
        self.live_epoch.is_some() || self.cut.current_epoch.is_some() || self.identity_at.is_some()
    }

    /// Whether another sale can have the name: this one was closed before it offered a unit.
    pub fn has_freed_name(&self) -> bool {
        has_freed_name(self.cut, self.total)
    }

    /// What the log keeps of the sale for ever.
    pub fn identity(&self) -> Identity {
        Identity {
            sale: self.id,
            format: self.format,
            class: self.class.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            cluster: self.cluster.clone(),
            uid: self.uid.clone(),
            item: self.item.clone(),
            item_id: self.item_id,
            issuer: self.issuer.clone(),
            tiers: self.tiers.clone(),
            price: self.price.clone(),
            currency: self.currency.clone(),
            offered: self.offered,
            starts_at: self.opens_at,
            ends_at: self.closes_at,
        }
    }

    /// The terms that the FlashSale decides.
    pub fn sale_terms(&self) -> SaleTerms {
        SaleTerms {
            state: self.state,
            opens_at: self.opens_at,
            closes_at: self.closes_at,
            limit_per_buyer: self.limit_per_buyer,
            max_per_order: self.max_per_order,
            orders_ever_max: self.orders_ever_max,
            tier_limits: self.tier_limits,
        }
    }

    /// The state with the emergency stop. A sale that has ended is not suspended.
    pub fn state_in_force(&self) -> SaleState {
        match self.state {
            SaleState::Open if self.stopped => SaleState::Suspended,
            state => state,
        }
    }

    /// The terms for the index.
    pub fn terms(&self) -> Terms {
        Terms {
            version: self.version,
            state: self.state_in_force(),
            opens: self.opens_at,
            closes: self.closes_at,
            limit: self.limit_per_buyer,
            bounds: OrderBounds {
                max_per_order: self.max_per_order,
                orders_ever_max: self.orders_ever_max,
                ..OrderBounds::default()
            },
            tiers: self.tiers.as_ref().map_or_else(Vec::new, |tiers| {
                let [first, second, third, fourth] = self.tier_limits;
                tiers.terms(self.opens_at, [self.limit_per_buyer, first, second, third, fourth])
            }),
        }
    }

    /// When buyers of a tier can buy.
    pub fn opens_for(&self, tier: Tier) -> Millis {
        let tiers = self.tiers.as_ref();
        tiers.map_or(self.opens_at, |tiers| tiers.opens(tier, self.opens_at))
    }

    /// Units of one buyer of a tier; 0 = no limit.
    pub fn limit_for(&self, tier: Tier) -> Quantity {
        let own = usize::from(tier)
            .checked_sub(1)
            .and_then(|index| self.tier_limits.get(index));
        own.copied().unwrap_or(self.limit_per_buyer)
    }

    /// When the first buyers can buy.
    pub fn first_opens_at(&self) -> Millis {
        first_opens_at(self.tiers.as_ref(), self.opens_at)
    }
}

/// When the first buyers of a sale with these tiers can buy.
pub fn first_opens_at(tiers: Option<&Tiers>, starts_at: Millis) -> Millis {
    tiers.map_or(starts_at, |tiers| tiers.first_opens(starts_at))
}

/// Units of one buyer of each tier but that of general buyers; 0 = no limit. The unused ones are 0.
pub type TierLimits = [Quantity; MAX_TIERS];

/// A new sale from a FlashSale.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSale {
    pub class: String,
    pub namespace: String,
    pub name: String,
    pub cluster: Option<String>,
    pub uid: String,
    pub partition: u32,
    /// A program has to speak this format to work on the sale.
    pub format: Format,
    pub terms: SaleTerms,
    pub offer: Offer,
}

/// The format that a sale with this offer and these terms needs. A program of the first format would sell to anyone what only
/// buyers with an identity may buy, and one of the second what is kept for a tier.
pub fn needed_format(offer: &Offer, _terms: &SaleTerms) -> Format {
    match (&offer.issuer, &offer.tiers) {
        (_, Some(_)) => Format(3),
        (Some(_), None) => Format(2),
        (None, None) => Format::FIRST,
    }
}

/// State, time window, limit and bounds of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleTerms {
    pub state: SaleState,
    pub opens_at: u64,
    pub closes_at: u64,
    pub limit_per_buyer: Quantity,
    pub max_per_order: Quantity,
    pub orders_ever_max: u64,
    pub tier_limits: TierLimits,
}

/// The item for sale, and who can buy it.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    pub item: serde_json::Value,
    pub item_id: Option<i64>,
    /// The issuer whose tokens identify the buyers; `None`: buyers are anonymous.
    pub issuer: Option<String>,
    /// `None`: all buyers are equal. Only a sale with an issuer has tiers.
    pub tiers: Option<Tiers>,
    /// Price of one unit, with up to four digits after the point.
    pub price: String,
    pub currency: String,
    pub offered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::tests::tiers;

    /// Ten units, of which nine were taken and two came back.
    fn sale() -> Sale {
        Sale {
            id: SaleId(7),
            class: "default".into(),
            namespace: "shop".into(),
            name: "phone".into(),
            cluster: Some("c".into()),
            uid: "u".into(),
            partition: 3,
            format: Format(2),
            version: 4,
            state: SaleState::Suspended,
            stopped: false,
            opens_at: 1_000,
            closes_at: 2_000,
            limit_per_buyer: 5,
            max_per_order: 6,
            orders_ever_max: 200,
            item: serde_json::json!({"sku": "p1"}),
            item_id: Some(8),
            issuer: Some("main".into()),
            tiers: Some(tiers()),
            tier_limits: [7, 0, 0, 0],
            price: "9.90".into(),
            currency: "EUR".into(),
            offered: 10,
            live_epoch: None,
            total: 10,
            sold: 7,
            taken: 9,
            returned: 2,
            orders_ever: 9,
            cut: SaleCut::default(),
            identity_at: None,
            created_at_ms: 0,
            updated_at_ms: 0,
            settled_at_ms: None,
            settled_left: None,
            freed_at_ms: None,
            missing_since_ms: None,
        }
    }

    #[test]
    fn units_that_came_back_can_be_sold_again() {
        assert_eq!((sale().out(), sale().left_at_rest()), (7, 3));
        // An oversold sale has none left.
        let oversold = Sale { taken: 13, ..sale() };
        assert_eq!((oversold.out(), oversold.left_at_rest()), (11, 0));
    }

    #[test]
    fn an_epoch_or_an_identity_makes_a_sale_counted() {
        assert!(!sale().is_counted());
        let (mut live, mut begun, mut named) = (sale(), sale(), sale());
        live.live_epoch = Some(Epoch(4));
        begun.cut.current_epoch = Some(4);
        named.identity_at = Some(0);
        for sale in [live, begun, named] {
            assert!(sale.is_counted(), "{sale:?}");
        }
    }

    #[test]
    fn the_index_and_the_ledger_get_the_same_terms() {
        let bounds = OrderBounds {
            max_per_order: 6,
            orders_ever_max: 200,
            ..OrderBounds::default()
        };
        let terms = Terms {
            version: 4,
            state: SaleState::Suspended,
            opens: 1_000,
            closes: 2_000,
            limit: 5,
            bounds,
            tiers: tiers().terms(1_000, [5, 7, 0, 0, 0]),
        };
        assert_eq!(sale().terms(), terms);
        let sale_terms = SaleTerms {
            state: SaleState::Suspended,
            opens_at: 1_000,
            closes_at: 2_000,
            limit_per_buyer: 5,
            max_per_order: 6,
            orders_ever_max: 200,
            tier_limits: [7, 0, 0, 0],
        };
        assert_eq!(sale().sale_terms(), sale_terms);
    }

    #[test]
    fn only_a_sale_that_was_closed_without_units_has_freed_its_name() {
        let mut closed = sale();
        closed.cut.closed = Some(4);
        assert!(!sale().has_freed_name() && !closed.has_freed_name());
        closed.total = 0;
        assert!(closed.has_freed_name());
    }

    #[test]
    fn a_tier_opens_and_limits_by_its_own_terms() {
        let opens = [0, 1, 2].map(|tier| sale().opens_for(tier));
        // Long before: times are not below zero.
        assert_eq!(opens, [1_000, 0, 0]);
        assert_eq!([0, 1, 2, 9].map(|tier| sale().limit_for(tier)), [5, 7, 0, 5]);
        assert_eq!((sale().first_opens_at(), first_opens_at(None, 7)), (0, 7));
        let plain = Sale { tiers: None, ..sale() };
        assert_eq!((plain.opens_for(1), plain.first_opens_at()), (1_000, 1_000));
        assert_eq!(plain.terms().tiers, []);
    }

    #[test]
    fn a_sale_needs_the_format_of_what_it_uses() {
        let format = |issuer: Option<&str>, tiers: Option<Tiers>| {
            let sale = sale();
            let offer = Offer {
                item: sale.item.clone(),
                item_id: None,
                issuer: issuer.map(str::to_owned),
                tiers,
                price: "9.90".into(),
                currency: "EUR".into(),
                offered: 10,
            };
            needed_format(&offer, &sale.sale_terms())
        };
        let main = Some("main");
        assert_eq!(
            [format(None, None), format(main, None), format(main, Some(tiers()))],
            [Format::FIRST, Format(2), Format(3)]
        );
    }

    #[test]
    fn an_emergency_stop_suspends_the_index_and_keeps_the_row() {
        let stopped = |state| Sale {
            state,
            stopped: true,
            ..sale()
        };
        let states = [SaleState::Open, SaleState::Suspended, SaleState::Closed];
        let in_force = states.map(|state| stopped(state).terms().state);
        assert_eq!(
            in_force,
            [SaleState::Suspended, SaleState::Suspended, SaleState::Closed]
        );
        let kept = states.map(|state| stopped(state).sale_terms().state);
        assert_eq!(kept, states);
        let running = states.map(|state| Sale { state, ..sale() }.state_in_force());
        assert_eq!(running, states);
    }

    #[test]
    fn an_identity_has_what_no_other_record_brings_back() {
        let identity = Identity {
            sale: SaleId(7),
            class: "default".into(),
            namespace: "shop".into(),
            name: "phone".into(),
            cluster: Some("c".into()),
            uid: "u".into(),
            format: Format(2),
            item: serde_json::json!({"sku": "p1"}),
            item_id: Some(8),
            issuer: Some("main".into()),
            tiers: Some(tiers()),
            price: "9.90".into(),
            currency: "EUR".into(),
            offered: 10,
            starts_at: 1_000,
            ends_at: 2_000,
        };
        assert_eq!(sale().identity(), identity);
    }
}
