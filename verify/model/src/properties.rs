//! The properties: what must hold in every state, and what must happen in some state, or else the model proves nothing.
use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::index::{Index, SaleState};
use seckill_protocol::recovery::{self, LedgerView, Need};
use seckill_protocol::{Batch, OrderId, Record};
use stateright::Property;

use crate::configuration::{Configuration, Rule};
use crate::ending::in_flight;
use crate::property;
use crate::protocol::Protocol;
use crate::state::{Coordinator, State};
use crate::tiers;

impl State {
    /// The first property that this state violates.
    pub fn first_violation(&self, config: &Configuration) -> Option<&'static str> {
        self.violated
            .or(self.log.view().violated)
            .or_else(|| self.broken_promise())
            .or_else(|| self.violation_after_the_end(config))
            .or_else(|| self.violation_at_rest(config))
            .or_else(|| self.adjusted_too_far(config))
            .or_else(|| self.violation_of_tiers(config))
    }

    /// A number was given out that is not in the log and can't get into it any more.
    fn broken_promise(&self) -> Option<&'static str> {
        let view = self.log.view();
        let selling = view.fold.cut().epoch();
        let lost = |(id, buyer, key): &(_, _, _)| -> bool {
            let id: &seckill_protocol::OrderId = id;
            !view.has(*id, buyer, *key) && selling != Some(id.epoch)
        };
        self.promised.iter().any(lost).then_some(property::PROMISE)
    }

    /// An index of the current epoch claims an adjustment of the log that it does not have. (What an outdated index claims
    /// does not count: the worker may apply one adjustment there and the next one here.)
    fn adjusted_too_far(&self, config: &Configuration) -> Option<&'static str> {
        if !config.worker_steps() {
            return None;
        }
        let servers = [Some(&self.redis), self.old.as_ref()];
        let mut indexes = servers
            .into_iter()
            .flatten()
            .filter_map(|server| server.data.index.as_ref());
        let current = self.log.view().fold.cut().epoch();
        let too_far = |index: &Index| {
            if current != Some(index.epoch) {
                return false;
            }
            let Some(claimed) = index.adjusted else {
                return true;
            };
            let fold = &self.log.up_to(claimed as usize + 1).fold;
            let marked = |id: &OrderId, order: &FoldedOrder| {
                let mut held = index.holdings.get(&order.buyer).into_iter().flatten();
                held.any(|held| (held.epoch, held.seq) == (id.epoch, id.seq) && held.cancelled)
            };
            let mut cancelled = fold.orders().iter().filter(|(_, order)| !order.status.is_live());
            fold.total() > index.total || cancelled.any(|(id, order)| !marked(id, order))
        };
        indexes.any(too_far).then_some(property::ADJUSTED)
    }

    /// After the end the ledger answers buyers, so it must have every order.
    fn violation_after_the_end(&self, config: &Configuration) -> Option<&'static str> {
        let (ledger, log) = (self.ledger(), self.log.view());
        let asks_ledger = match config.breaks(Rule::EndedFromOneSnapshot) {
            true => self.past.listed_as_closed,
            false => ledger.fold.cut().closed.is_some(),
        };
        let kept = self.past.keys_kept_at.map(|position| self.log.up_to(position));
        let mut who_refuse = asks_ledger.then_some(ledger).into_iter().chain(kept);
        if who_refuse.any(|known| log.by_key.keys().any(|key| !known.by_key.contains_key(key))) {
            return Some(property::REFUSAL);
        }
        // The worker waits for an index that nobody will install.
        let all_idle = self.coordinators.iter().all(|c| *c == Coordinator::Idle);
        if self.ended() && all_idle && self.redis.data.index.is_none() && !self.can_store(config) {
            return Some(property::STUCK);
        }
        // The index is gone, so no adjustment can reach it.
        if self.mysql.settled && !self.mysql.adjustments.is_empty() {
            return Some(property::STUCK);
        }
        None
    }

    /// At rest: no coordinator works, the ledger has read the log, every stock adjustment was applied.
    fn violation_at_rest(&self, config: &Configuration) -> Option<&'static str> {
        let view = self.log.view();
        let resting = self.mysql.position == self.log.len()
            && self.mysql.adjustments.is_empty()
            && self.worker_memory.is_empty()
            && self.coordinators.iter().all(|c| *c == Coordinator::Idle);
        if !resting || view.fold.cut().closed.is_some() {
            return None;
        }
        let index = self
            .redis
            .in_force()
            .filter(|index| Some(index.epoch) == view.fold.cut().epoch());
        let known = index.is_some_and(|index| self.mysql.live_epoch == Some(index.epoch));
        // API processes need the epoch to sell, and after the end the worker needs it to empty the outbox.
        if self.need(config) == Need::Nothing && !known && (!self.ended() || in_flight(self) > 0) {
            return Some(property::STUCK);
        }
        let index = index?;
        let row = self.mysql.row;
        // No action is left that would change them.
        let up_to_date = row.state == self.desired_state(config) && self.need(config) == Need::Nothing;
        if up_to_date && index.terms.state != row.state {
            return Some(property::TERMS);
        }
        let in_flight = |batch: &Batch| batch.iter().any(|(id, _)| !view.fold.orders().contains_key(&id));
        if self.redis.data.outbox.iter().any(in_flight) {
            return None;
        }
        if index.total != view.fold.total() || index.left + view.live != index.total {
            return Some(property::BALANCE);
        }
        let orders = view.fold.orders().len() as u64;
        if index.holdings != view.holdings || index.ever != Some(orders) {
            return Some(property::INDEX);
        }
        let cancels = self
            .log
            .records()
            .enumerate()
            .filter(|(_, r)| matches!(r, Record::Cancel { .. }));
        let last = cancels.last().map(|(offset, _)| offset as i64);
        if index.adjusted < last {
            return Some(property::REACHED);
        }
        self.violation_of_tiers_at_rest(config, index)
    }

    /// R0.
    pub fn need(&self, config: &Configuration) -> Need {
        let mut known = LedgerView {
            cut: self.ledger().fold.cut(),
            live_epoch: self.mysql.live_epoch,
            terms: self.mysql.row.terms(config),
        };
        let index = self.redis.data.index.as_ref();
        if config.breaks(Rule::NeedSeesBarrier) && known.cut.closed.is_none() {
            known.cut.current_epoch = None;
        }
        if config.breaks(Rule::NeedSeesLiveEpoch) || self.ended() && config.breaks(Rule::NeedSeesLiveEpochAfterTheEnd) {
            known.live_epoch = index.map(|index| index.epoch);
        }
        if config.breaks(Rule::TermsBeforePublication)
            && let Some(index) = index.filter(|index| known.live_epoch < Some(index.epoch))
        {
            known.terms = index.terms.clone();
        }
        match recovery::needed(self.redis.found_index(), &self.redis.server(), &known) {
            Need::Renumber(_) if config.breaks(Rule::TermsOutnumberTheIndex) => Need::Nothing,
            need => need,
        }
    }

    /// The state that the FlashSale asks for.
    pub fn desired_state(&self, config: &Configuration) -> SaleState {
        match usize::from(self.past.changes) {
            0 => SaleState::Open,
            n => config.desired_states[n - 1],
        }
    }

    /// The index in force, if no barrier came after it and before CLOSE.
    pub fn index_at_the_end(&self) -> Option<&Index> {
        let latest = self.ledger().latest_barrier;
        self.redis.in_force().filter(|index| latest <= Some(index.epoch))
    }

    /// The row of the sale is closed: no index is rebuilt any more.
    pub fn ended(&self) -> bool {
        self.mysql.row.state == SaleState::Closed
    }
}

pub fn all(config: &Configuration) -> Vec<Property<Protocol>> {
    let mut properties = Vec::new();
    macro_rules! always {
        ($($i:literal)*) => {$(
            properties.push(Property::always(property::ALWAYS[$i], |model: &Protocol, state: &State| {
                !(state.violated == Some(property::ALWAYS[$i]) && model.is_first_violation(state))
            }));
        )*};
    }
    always!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23);
    properties.push(Property::sometimes("all is sold", |_, state: &State| {
        let view = state.log.view();
        view.live == view.fold.total()
    }));
    if config.barriers > 0 && (config.redis_losses > 0 || config.needless) {
        properties.push(Property::sometimes(
            "an index was rebuilt with an order",
            |_, state: &State| {
                let index = state.redis.in_force();
                index.is_some_and(|i| i.holdings.values().flatten().any(|held| held.epoch < i.epoch))
            },
        ));
        properties.push(Property::sometimes("a batch is void", |_, state: &State| {
            !state.log.view().void.is_empty()
        }));
    }
    if config.cancels > 0 && (config.buyers > 1 || config.keys > 1) {
        properties.push(Property::sometimes(
            "a returned unit is sold again",
            |_, state: &State| {
                let view = state.log.view();
                view.live == view.fold.total() && view.fold.orders().values().any(|order| !order.status.is_live())
            },
        ));
    }
    if config.orders_ever_max > 0 {
        properties.push(Property::sometimes(
            "as many orders are made as the bound allows",
            |model: &Protocol, state: &State| {
                state.log.view().fold.orders().len() as u64 == model.config.orders_ever_max
            },
        ));
    }
    if !config.totals.is_empty() {
        properties.push(Property::sometimes(
            "a unit more than at the beginning is sold",
            |model: &Protocol, state: &State| state.log.view().live > model.config.total,
        ));
    }
    if config.desired_states.contains(&SaleState::Closed) {
        properties.push(Property::sometimes(
            "a sale that sold is settled",
            |_, state: &State| state.mysql.settled && state.log.view().live > 0,
        ));
    }
    properties.extend(tiers::happens(config));
    properties
}
