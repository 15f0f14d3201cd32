//! Buyers, API processes and the relay.
use std::sync::Arc;

use seckill_protocol::index::{BatchDecision, Decision, Index, Request, SaleState, Server, Terms, fence, purchase};
use seckill_protocol::{Batch, Buyer, Epoch, KeyHash, Order, OrderId, Record};

use crate::configuration::{Configuration, Rule};
use crate::log::SALE;
use crate::property;
use crate::protocol::{Action, BuyerKey, Protocol, Wish};
use crate::state::{RedisData, Side, State, order_of};

impl Protocol {
    pub(crate) fn purchases(&self, state: &State, actions: &mut Vec<Action>) {
        let wishes = self.wishes(state);
        for (api, process) in state.apis.iter().enumerate() {
            // Equal processes have equal actions.
            if api > 0 && state.apis[api - 1] == *process {
                continue;
            }
            let replica = (self.config.redis_lags && self.config.refusals).then_some(Side::Replica);
            for on in state.sides().chain(replica) {
                if self.fence_passes(state, api, on) {
                    self.batches_of_requests(&wishes, |requests| actions.push(Action::Buy { api, on, requests }));
                }
            }
            for batch in 0..process.pending.len() {
                if self.may_append(state, &process.pending[batch]) {
                    actions.push(Action::Publish { api, batch });
                }
                actions.push(Action::ReadBack { api, batch });
            }
            if !process.pending.is_empty() || process.epoch != state.mysql.live_epoch {
                actions.push(Action::ApiCrashes { api });
            }
            if process.epoch < state.mysql.live_epoch {
                actions.push(Action::ApiRefreshes { api });
            }
        }
        let lists = self.config.breaks(Rule::EndedFromOneSnapshot) || self.config.breaks(Rule::KeysFromOneSnapshot);
        let sees_close = state.ledger().fold.cut().closed.is_some();
        if lists && !state.past.listed_as_closed && sees_close {
            actions.push(Action::ApiLists);
        }
        let keeps = sees_close || state.past.listed_as_closed || self.config.breaks(Rule::KeysKeptAfterClose);
        if self.config.keys_kept && state.past.keys_kept_at.is_none() && keeps {
            actions.push(Action::ApiKeepsKeys);
        }
        for on in state.sides() {
            let outbox = state.server(on).map_or(&[][..], |server| &server.data.outbox);
            for (entry, batch) in outbox.iter().enumerate() {
                let missing = batch.iter().any(|(id, _)| !state.log.view().copies.contains_key(&id));
                // The worker reads the outbox of the epoch that the ledger names.
                if missing && state.mysql.live_epoch == Some(batch.epoch) && self.may_append(state, batch) {
                    actions.push(Action::Relay { on, entry });
                }
            }
        }
    }

    /// One request, or as many as a script call takes.
    fn batches_of_requests(&self, wishes: &[Wish], mut each: impl FnMut(Vec<Wish>)) {
        for first in wishes {
            each(vec![*first]);
            for second in wishes.iter().filter(|_| self.config.batch > 1) {
                if first != second {
                    each(vec![*first, *second]);
                }
            }
        }
    }

    /// What may be asked for next. The same key may come with another tier or quantity.
    fn wishes(&self, state: &State) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for of in self.known(state) {
            for tier in self.config.tiers_of_tokens() {
                for quantity in self.config.quantities.iter().copied() {
                    wishes.push(Wish { of, tier, quantity });
                }
            }
        }
        wishes
    }

    /// The buyers and keys that may be used next. All that left no trace yet are equal, so one of them is enough.
    fn known(&self, state: &State) -> Vec<BuyerKey> {
        let mut traces = [[false; 8]; 8];
        let mut trace = |buyer: &Buyer, key: KeyHash| {
            let (buyer, key) = (number_of(buyer), key.0 as usize);
            traces[buyer][key] = true;
        };
        let batches = state.log.records().filter_map(|record| match record {
            Record::Batch(batch) => Some(batch),
            _ => None,
        });
        let pending = state.apis.iter().flat_map(|api| &api.pending);
        for order in batches.chain(pending).flat_map(|batch| &batch.orders) {
            trace(&order.buyer, order.key);
        }
        for (_, buyer, key) in &state.promised {
            trace(buyer, *key);
        }
        let servers = [
            Some(&state.redis.data),
            state.old.as_ref().map(|old| &old.data),
            state.redis_copy.as_ref(),
        ];
        for data in servers.into_iter().flatten() {
            let holdings = data
                .index
                .iter()
                .map(|index| &index.holdings)
                .chain(data.written.values().map(|written| &written.holdings));
            for (buyer, held) in holdings.flatten() {
                for holding in held {
                    trace(buyer, holding.key);
                }
            }
        }
        let mut known = Vec::new();
        for (buyer, keys) in traces.iter().enumerate().take(usize::from(self.config.buyers)) {
            for (key, traced) in keys.iter().enumerate().take(usize::from(self.config.keys)) {
                known.push((buyer as u8, key as u8));
                if !traced {
                    break;
                }
            }
            if !keys.contains(&true) {
                break;
            }
        }
        known
    }

    /// The data that an API process reaches, what the server reports about itself, and the epoch that the process names.
    fn reached<'a>(&self, state: &'a State, api: usize, on: Side) -> Option<(&'a Arc<RedisData>, Server, Epoch)> {
        let (server, data) = match state.server(on) {
            Some(server) => (server, &server.data),
            None => (&state.redis, state.redis_copy.as_ref()?),
        };
        let index = data.index.as_ref()?;
        let mut seen = server.server_at(state.past.now);
        if self.config.breaks(Rule::PurchaseFence) {
            seen.rid = index.rid.clone();
        }
        seen.is_master = on != Side::Replica || self.config.breaks(Rule::PurchaseRole);
        let caller = match self.config.breaks(Rule::PurchaseEpoch) {
            true => index.epoch,
            false => state.apis[api].epoch?,
        };
        Some((data, seen, caller))
    }

    /// Whether the script decides at all. If not, the process refreshes its epoch from the ledger, or waits for a rebuild.
    fn fence_passes(&self, state: &State, api: usize, on: Side) -> bool {
        let reached = self.reached(state, api, on);
        reached.is_some_and(|(data, seen, caller)| fence(data.index.as_ref(), &seen, caller).is_ok())
    }

    pub(crate) fn buy(&self, state: &mut State, api: usize, on: Side, requests: &[Wish]) -> Option<()> {
        let before = (state.apis[api].pending.len(), state.promised.len());
        let epoch = state.apis[api].epoch?;
        let requests: Vec<Request> = requests.iter().map(request).collect();
        let (data, seen, caller) = self.reached(state, api, on)?;
        let mut data = (**data).clone();
        let index_epoch = data.index.as_ref()?.epoch;
        let closed = data.index.as_ref()?.terms.state == SaleState::Closed;
        let (mut decisions, batch) = decide(&self.config, data.index.as_mut()?, &seen, caller, &requests)?;
        if closed && self.config.breaks(Rule::ReplayBeforeState) {
            decisions.fill(Decision::Ended);
        }
        if let Some(batch) = batch {
            if state.apis[api].pending.len() == self.config.pending {
                return None;
            }
            let version = data.index.as_ref()?.terms.version;
            if state.log.view().fold.cut().epoch() == Some(index_epoch) && version < state.past.applied_version {
                state.violated = Some(property::TAKEN_BACK);
            }
            data.outbox.push(batch.clone());
            // A replica would refuse to write.
            state.server_mut(on)?.data = Arc::new(data);
            // The reply does not name the epoch, so the process uses its own.
            self.hold(state, api, Batch { epoch, ..batch });
        }
        for (request, decision) in requests.iter().zip(decisions) {
            self.answer(state, api, epoch, request, decision);
        }
        let changed = before != (state.apis[api].pending.len(), state.promised.len()) || state.violated.is_some();
        changed.then_some(())
    }

    /// What the API process does about one decision of the script.
    fn answer(&self, state: &mut State, api: usize, epoch: Epoch, request: &Request, decision: Decision) {
        match decision {
            Decision::Reserved { seq } => {
                if self.config.breaks(Rule::AnswerAfterPublishing) {
                    self.give_number(state, order_id(epoch, seq), &request.buyer, request.key);
                }
            }
            Decision::AlreadyReserved(held)
                if held.is_durable(epoch) || self.config.breaks(Rule::ReplayAfterReadBack) =>
            {
                self.give_number(state, order_id(held.epoch, held.seq), &request.buyer, request.key);
            }
            Decision::AlreadyReserved(held) => {
                let order = Order {
                    buyer: request.buyer.clone(),
                    quantity: match self.config.breaks(Rule::QuantityOfTheHolding) {
                        true => request.quantity,
                        false => held.quantity,
                    },
                    tier: match self.config.breaks(Rule::TierOfTheHolding) {
                        true => request.tier,
                        false => held.tier,
                    },
                    key: held.key,
                };
                let again = Batch {
                    sale: SALE,
                    epoch: held.epoch,
                    first: held.seq,
                    orders: vec![order],
                };
                if state.apis[api].pending.len() < self.config.pending {
                    self.hold(state, api, again);
                }
            }
            Decision::Unknown
            | Decision::NotStarted { .. }
            | Decision::Ended
            | Decision::Suspended
            | Decision::QuantityTooLarge { .. }
            | Decision::LimitReached { .. }
            | Decision::TooManyOrders
            | Decision::OrdersExhausted
            | Decision::SoldOut { .. } => self.refuse(state, request, epoch),
        }
    }

    fn hold(&self, state: &mut State, api: usize, batch: Batch) {
        let pending = &mut state.apis[api].pending;
        if !pending.contains(&batch) {
            pending.push(batch);
            pending.sort_by_key(order_of);
        }
    }

    /// Gives a buyer an order number.
    fn give_number(&self, state: &mut State, id: OrderId, buyer: &Buyer, key: KeyHash) {
        let promise = (id, buyer.clone(), key);
        if !state.log.view().has(id, buyer, key) && !state.promised.contains(&promise) {
            state.promised.push(promise);
            state.promised.sort();
        }
    }

    /// Refuses a buyer, and checks that the refusal is right.
    fn refuse(&self, state: &mut State, request: &Request, by: Epoch) {
        let view = state.log.view();
        let counts = view.fold.cut().lets_refuse(by) || self.config.breaks(Rule::RefusalOfTheCurrentEpoch);
        let holds = view.by_key.contains_key(&(request.buyer.clone(), request.key));
        if self.config.refusals && counts && holds {
            state.violated = Some(property::REFUSAL);
        }
    }

    /// Whether a copy of the batch may still be appended.
    fn may_append(&self, state: &State, batch: &Batch) -> bool {
        let copies = &state.log.view().copies;
        let fewest = batch
            .iter()
            .map(|(id, _)| copies.get(&id).copied().unwrap_or_default())
            .min();
        self.has_room(state) && fewest.is_some_and(|fewest| fewest <= self.config.copies)
    }

    pub(crate) fn publish(&self, state: &mut State, api: usize, batch: usize) -> Option<()> {
        let batch = state.apis[api].pending.get(batch)?.clone();
        self.append(state, Record::Batch(batch.clone()))?;
        if self.config.breaks(Rule::AnswerAfterReadBack) {
            for (id, order) in batch.iter() {
                self.give_number(state, id, &order.buyer, order.key);
            }
        }
        self.drop_kept_promises(state);
        Some(())
    }

    /// Forgets promised numbers that are in the log now.
    fn drop_kept_promises(&self, state: &mut State) {
        if !state.promised.is_empty() {
            let view = state.log.view();
            let missing = |(id, buyer, key): &(OrderId, Buyer, KeyHash)| !view.has(*id, buyer, *key);
            state.promised = state
                .promised
                .iter()
                .filter(|promise| missing(promise))
                .cloned()
                .collect();
        }
    }

    pub(crate) fn read_back(&self, state: &mut State, api: usize, batch: usize) -> Option<()> {
        let batch = state.apis[api].pending.get(batch)?.clone();
        let view = state.log.view();
        let accepted = batch.iter().all(|(id, order)| view.has(id, &order.buyer, order.key));
        let void = batch.iter().any(|(id, _)| view.void.contains(&id));
        if accepted {
            for (id, order) in batch.iter() {
                self.give_number(state, id, &order.buyer, order.key);
            }
        }
        if !accepted && !void {
            return None;
        }
        // A process may have read the void copy first. Then it asks the index again for the buyer.
        if void && accepted && self.config.breaks(Rule::VoidIsNotFailed) {
            state.violated = Some(property::REFUSAL);
        }
        state.apis[api].pending.retain(|b| *b != batch);
        Some(())
    }

    pub(crate) fn api_crashes(&self, state: &mut State, api: usize) -> Option<()> {
        state.apis[api].pending.clear();
        state.apis[api].epoch = state.mysql.live_epoch;
        Some(())
    }

    pub(crate) fn api_refreshes(&self, state: &mut State, api: usize) -> Option<()> {
        state.apis[api].epoch = state.mysql.live_epoch;
        Some(())
    }

    pub(crate) fn api_lists(&self, state: &mut State) -> Option<()> {
        state.past.listed_as_closed = true;
        Some(())
    }

    pub(crate) fn api_keeps_keys(&self, state: &mut State) -> Option<()> {
        state.past.keys_kept_at = Some(state.mysql.position);
        Some(())
    }

    pub(crate) fn relay(&self, state: &mut State, on: Side, entry: usize) -> Option<()> {
        let batch = state.server(on)?.data.outbox.get(entry)?.clone();
        self.append(state, Record::Batch(batch))?;
        self.drop_kept_promises(state);
        Some(())
    }
}

/// The purchase script, with the broken rules of the configuration.
pub(crate) fn decide(
    config: &Configuration,
    index: &mut Index,
    seen: &Server,
    caller: Epoch,
    requests: &[Request],
) -> Option<BatchDecision> {
    if config.broken.is_empty() {
        return purchase(Some(index), seen, caller, requests).ok();
    }
    let (terms, taken) = (index.terms.clone(), index.taken.clone());
    break_terms(config, &mut index.terms);
    let decided = purchase(Some(index), seen, caller, requests).ok();
    index.terms = terms;
    if config.breaks(Rule::PurchaseRaisesTaken) {
        index.taken = taken;
    }
    decided
}

fn break_terms(config: &Configuration, terms: &mut Terms) {
    if config.breaks(Rule::BoundInTheIndex) {
        terms.bounds = Default::default();
    }
    if config.breaks(Rule::LimitByBuyer) {
        // A key has one order, which no limit refuses.
        terms.limit = 0;
    }
    let highest = terms.tiers.iter().map(|tier| tier.limit).max();
    let first = terms.tiers.iter().map(|tier| tier.opens).min();
    for tier in &mut terms.tiers {
        if config.breaks(Rule::LimitByBuyer) {
            tier.limit = 0;
        }
        if config.breaks(Rule::LimitOfTheTier) {
            tier.limit = highest.unwrap_or_default();
        }
        if config.breaks(Rule::OpeningOfTheTier) {
            tier.opens = first.unwrap_or_default();
        }
        if config.breaks(Rule::ReserveKeeps) {
            tier.reserved = 0;
        }
        if config.breaks(Rule::ReleaseEndsReserve) {
            tier.release = u64::MAX;
        }
    }
}

fn order_id(epoch: Epoch, seq: u64) -> OrderId {
    OrderId { sale: SALE, epoch, seq }
}

fn request(wish: &Wish) -> Request {
    let (buyer, key) = wish.of;
    Request {
        buyer: buyer_of(buyer),
        quantity: wish.quantity,
        tier: wish.tier,
        key: KeyHash(u64::from(key)),
    }
}

pub fn buyer_of(number: u8) -> Buyer {
    Buyer::new(char::from(b'a' + number)).expect("a letter is a buyer's name")
}

fn number_of(buyer: &Buyer) -> usize {
    usize::from(buyer.as_str().as_bytes().first().map_or(0, |letter| letter - b'a'))
}
