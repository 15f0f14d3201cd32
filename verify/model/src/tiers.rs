//! Tiers: a sale may have one tier besides general buyers. Each token of a buyer may be of the tier or of none, so a buyer
//! may lose the tier or get it, also between two attempts with one key.
//!
//! Time has three values: before the start, from the start to the release of the tier's reserve, and from the release on.
use std::ops::RangeInclusive;

use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::index::{Decision, Index, Millis, Request, SaleState};
use seckill_protocol::tiers::{GENERAL, MAX_TIERS, TierRule, TierTerms};
use seckill_protocol::{KeyHash, Quantity, Tier, Tiers};
use stateright::Property;

use crate::buying::{buyer_of, decide};
use crate::configuration::Configuration;
use crate::log::View;
use crate::property;
use crate::protocol::{Action, Protocol};
use crate::state::State;
use crate::tier_plan::{GOLD, SECOND, STARTS_AT, TierPlan};

impl Configuration {
    /// The terms of the tiers, as the product makes them.
    pub(crate) fn tier_terms(&self) -> Vec<TierTerms> {
        let Some(plan) = self.tiers else {
            return Vec::new();
        };
        let rule = TierRule {
            name: "gold".to_owned(),
            values: vec!["gold".to_owned()],
            opens_before_seconds: u64::from(plan.opens_earlier),
            reserved: plan.reserved,
            reserved_for_seconds: 1,
        };
        let tiers = Tiers {
            tiers: vec![rule],
            reserved_for_general: plan.reserved_for_general,
        };
        let mut limits = [0; MAX_TIERS + 1];
        (limits[0], limits[1]) = (self.limit, plan.limit);
        tiers.terms(STARTS_AT, limits)
    }

    /// From the beginning to the release.
    pub(crate) fn instants(&self) -> RangeInclusive<Millis> {
        self.tiers.map_or(0..=0, |plan| plan.opens(GOLD)..=STARTS_AT + SECOND)
    }

    /// The tiers that a token may have.
    pub(crate) fn tiers_of_tokens(&self) -> RangeInclusive<Tier> {
        GENERAL..=self.tiers.map_or(GENERAL, |_| GOLD)
    }

    /// The most units of a buyer who buys by this tier.
    pub(crate) fn limit_of(&self, tier: Tier) -> Quantity {
        let of_gold = self.tiers.filter(|_| tier == GOLD);
        of_gold.map_or(self.limit, |plan| plan.limit)
    }
}

impl Protocol {
    pub(crate) fn times(&self, state: &State, actions: &mut Vec<Action>) {
        if state.past.now < *self.config.instants().end() {
            actions.push(Action::ClockAdvances);
        }
    }

    /// Whether the tier has bought all that is kept for it.
    fn has_reserve(&self, state: &State) -> bool {
        let kept = self.config.tiers.map_or(0, |plan| plan.reserve(GOLD, state.past.now));
        kept > 0 && state.log.view().live_of(GOLD) >= kept
    }

    pub(crate) fn clock_advances(&self, state: &mut State) -> Option<()> {
        state.past.now += SECOND;
        Some(())
    }
}

impl State {
    /// What the tiers promise, by the accepted orders of the log and the time.
    pub(crate) fn violation_of_tiers(&self, config: &Configuration) -> Option<&'static str> {
        let (plan, view, now) = (config.tiers?, self.log.view(), self.past.now);
        // A sum over all tiers, because units beyond a tier's reserve come from what all may buy.
        let units = |tier: Tier| view.live_of(tier).max(plan.reserve(tier, now));
        if config.tiers_of_tokens().map(units).sum::<u64>() > view.fold.total() {
            return Some(property::RESERVE);
        }
        let early = now < STARTS_AT && view.fold.orders().values().any(|order| now < plan.opens(order.tier));
        early.then_some(property::OPENING)
    }

    /// The same at rest, for the index in force.
    pub(crate) fn violation_of_tiers_at_rest(&self, config: &Configuration, index: &Index) -> Option<&'static str> {
        let (plan, view) = (config.tiers?, self.log.view());
        let live = config.tiers_of_tokens().map(|tier| view.live_of(tier));
        if !live.eq(index.taken.iter().copied()) {
            return Some(property::TAKEN);
        }
        if index.terms.state != SaleState::Open {
            return None;
        }
        let mut tiers = config.tiers_of_tokens();
        let wrong =
            tiers.any(|tier| self.sells_to(config, index, tier) != Some(can_buy(&plan, view, tier, self.past.now)));
        wrong.then_some(property::AVAILABLE)
    }

    /// Whether the index sells a unit to a buyer of this tier who has none.
    fn sells_to(&self, config: &Configuration, index: &Index, tier: Tier) -> Option<bool> {
        let request = Request {
            buyer: buyer_of(config.buyers),
            quantity: 1,
            tier,
            key: KeyHash(0),
        };
        let seen = self.redis.server_at(self.past.now);
        let (decisions, _) = decide(config, &mut index.clone(), &seen, index.epoch, &[request])?;
        Some(matches!(decisions.first()?, Decision::Reserved { .. }))
    }
}

/// Whether the log leaves a unit for a buyer of this tier.
fn can_buy(plan: &TierPlan, view: &View, tier: Tier, now: Millis) -> bool {
    let others = (GENERAL..=GOLD).filter(|other| *other != tier);
    let kept = others.map(|other| plan.reserve(other, now).saturating_sub(view.live_of(other)));
    now >= plan.opens(tier) && view.fold.total() > view.live + kept.sum::<u64>()
}

/// What must happen in some state of a sale with tiers.
pub(crate) fn happens(config: &Configuration) -> Vec<Property<Protocol>> {
    let Some(plan) = config.tiers else {
        return Vec::new();
    };
    let mut properties = Vec::new();
    if plan.reserved > 0 {
        properties.push(Property::sometimes(
            "a tier has its whole reserve before the release",
            |model: &Protocol, state: &State| model.has_reserve(state),
        ));
        properties.push(Property::sometimes(
            "general buyers have units of a released reserve",
            |model: &Protocol, state: &State| {
                let reserved = model.config.tiers.map_or(0, |plan| plan.reserved);
                state.log.view().live_of(GENERAL) + reserved > state.log.view().fold.total()
            },
        ));
    }
    if plan.reserved > 0 && config.cancels > 0 {
        properties.push(Property::sometimes(
            "a unit that refilled a reserve is sold to its tier",
            |model: &Protocol, state: &State| {
                let mut orders = state.log.view().fold.orders().values();
                model.has_reserve(state) && orders.any(|order| order.tier == GOLD && !order.status.is_live())
            },
        ));
    }
    if config.keys > 1 && config.total > 1 && plan.limit > config.limit {
        properties.push(Property::sometimes(
            "a buyer has orders of two tiers",
            |_, state: &State| {
                let live = |order: &&FoldedOrder| order.status.is_live();
                let orders = || state.log.view().fold.orders().values().filter(live);
                let of_gold = |order: &FoldedOrder| order.tier == GOLD;
                orders()
                    .any(|order| of_gold(order) && orders().any(|other| other.buyer == order.buyer && !of_gold(other)))
            },
        ));
    }
    properties
}
