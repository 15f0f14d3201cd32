//! Buyers, API processes and the relay.
use std::sync::Arc;

use seckill_protocol::index::{Decision, Request, SaleState, Server, fence, purchase};
use seckill_protocol::{Batch, Buyer, Epoch, KeyHash, Order, OrderId, Record};

use crate::configuration::Rule;
use crate::log::SALE;
use crate::properties;
use crate::protocol::{Action, Asking, Protocol};
use crate::state::{Data, Side, State, order_of};

impl Protocol {
    pub(crate) fn purchases(&self, state: &State, actions: &mut Vec<Action>) {
        let known = self.known(state);
        for (api, process) in state.apis.iter().enumerate() {
            // Like processes do the same.
            if api > 0 && state.apis[api - 1] == *process {
                continue;
            }
            let replica = (self.rules.redis_lags && self.rules.refusals).then_some(Side::Replica);
            for on in state.sides().chain(replica) {
                if self.fence_lets(state, api, on) {
                    self.batches_of_requests(&known, |requests| actions.push(Action::Buy { api, on, requests }));
                }
            }
            for batch in 0..process.pending.len() {
                if self.may_land(state, &process.pending[batch]) {
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
        if self.rules.breaks(Rule::EndedFromOneSnapshot)
            && !state.past.listed_as_closed
            && state.ledger().fold.cut().closed.is_some()
        {
            actions.push(Action::ApiLists);
        }
        for on in state.sides() {
            let outbox = state.server(on).map_or(&[][..], |server| &server.data.outbox);
            for (entry, batch) in outbox.iter().enumerate() {
                let missing = batch.iter().any(|(id, _)| !state.log.view().copies.contains_key(&id));
                if missing && self.may_land(state, batch) {
                    actions.push(Action::Relay { on, entry });
                }
            }
        }
    }

    /// One request, or as many as a script call takes.
    fn batches_of_requests(&self, known: &[Asking], mut each: impl FnMut(Vec<Asking>)) {
        for first in known {
            each(vec![*first]);
            for second in known.iter().filter(|_| self.rules.batch > 1) {
                if first != second {
                    each(vec![*first, *second]);
                }
            }
        }
    }

    /// Those who may ask. Of those who left no trace yet all are alike: one of them is enough.
    fn known(&self, state: &State) -> Vec<Asking> {
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
                .chain(data.written.values());
            for (buyer, held) in holdings.flatten() {
                for holding in held {
                    trace(buyer, holding.key);
                }
            }
        }
        let mut known = Vec::new();
        for (buyer, keys) in traces.iter().enumerate().take(usize::from(self.rules.buyers)) {
            for (key, traced) in keys.iter().enumerate().take(usize::from(self.rules.keys)) {
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

    /// The data that a process reaches, what the server says of itself, and the epoch that the process names.
    fn reached<'a>(&self, state: &'a State, api: usize, on: Side) -> Option<(&'a Arc<Data>, Server, Epoch)> {
        let (server, data) = match state.server(on) {
            Some(server) => (server, &server.data),
            None => (&state.redis, state.redis_copy.as_ref()?),
        };
        let index = data.index.as_ref()?;
        let mut seen = server.server();
        if self.rules.breaks(Rule::PurchaseFence) {
            seen.rid = index.rid.clone();
        }
        seen.is_master = on != Side::Replica || self.rules.breaks(Rule::PurchaseRole);
        let caller = match self.rules.breaks(Rule::PurchaseEpoch) {
            true => index.epoch,
            false => state.apis[api].epoch?,
        };
        Some((data, seen, caller))
    }

    /// Whether the script decides at all. If not, the process learns the epoch from the ledger, or waits for a rebuild
    /// that needs no word from it.
    fn fence_lets(&self, state: &State, api: usize, on: Side) -> bool {
        let reached = self.reached(state, api, on);
        reached.is_some_and(|(data, seen, caller)| fence(data.index.as_ref(), &seen, caller).is_ok())
    }

    pub(crate) fn buy(&self, state: &mut State, api: usize, on: Side, requests: &[Asking]) -> Option<()> {
        let before = (state.apis[api].pending.len(), state.promised.len());
        let epoch = state.apis[api].epoch?;
        let requests: Vec<Request> = requests.iter().map(request).collect();
        let (data, seen, caller) = self.reached(state, api, on)?;
        let mut data = (**data).clone();
        let index_epoch = data.index.as_ref()?.epoch;
        let closed = data.index.as_ref()?.terms.state == SaleState::Closed;
        let (mut answers, batch) = purchase(data.index.as_mut(), &seen, caller, &requests).ok()?;
        if closed && self.rules.breaks(Rule::ReplayBeforeState) {
            answers.fill(Decision::Ended);
        }
        if let Some(batch) = batch {
            if state.apis[api].pending.len() == self.rules.pending {
                return None;
            }
            let version = data.index.as_ref()?.terms.version;
            if state.log.view().fold.cut().epoch() == Some(index_epoch) && version < state.past.told_version {
                state.wrong = Some(properties::TAKEN_BACK);
            }
            data.outbox.push(batch.clone());
            // A replica would refuse to write.
            state.server_mut(on)?.data = Arc::new(data);
            // The reply does not name the epoch: the process goes by its own.
            self.hold(state, api, Batch { epoch, ..batch });
        }
        for (request, answer) in requests.iter().zip(answers) {
            match answer {
                Decision::Reserved { seq } => {
                    if self.rules.breaks(Rule::AnswerAfterPublishing) {
                        self.tell(state, order_id(epoch, seq), &request.buyer, request.key);
                    }
                }
                Decision::AlreadyReserved(held)
                    if held.is_durable(epoch) || self.rules.breaks(Rule::ReplayAfterReadBack) =>
                {
                    self.tell(state, order_id(held.epoch, held.seq), &request.buyer, request.key);
                }
                Decision::AlreadyReserved(held) => {
                    let order = Order {
                        buyer: request.buyer.clone(),
                        quantity: held.quantity,
                        tier: 0,
                        key: held.key,
                    };
                    let again = Batch {
                        sale: SALE,
                        epoch: held.epoch,
                        first: held.seq,
                        orders: vec![order],
                    };
                    if state.apis[api].pending.len() < self.rules.pending {
                        self.hold(state, api, again);
                    }
                }
                Decision::Unknown
                | Decision::NotStarted { .. }
                | Decision::Ended
                | Decision::Suspended
                | Decision::LimitReached { .. }
                | Decision::TooManyOrders
                | Decision::SoldOut { .. } => self.refused(state, request, epoch),
            }
        }
        let changed = before != (state.apis[api].pending.len(), state.promised.len()) || state.wrong.is_some();
        changed.then_some(())
    }

    fn hold(&self, state: &mut State, api: usize, batch: Batch) {
        let pending = &mut state.apis[api].pending;
        if !pending.contains(&batch) {
            pending.push(batch);
            pending.sort_by_key(order_of);
        }
    }

    /// A buyer is told a number.
    fn tell(&self, state: &mut State, id: OrderId, buyer: &Buyer, key: KeyHash) {
        let told = (id, buyer.clone(), key);
        if !state.log.view().has(id, buyer, key) && !state.promised.contains(&told) {
            state.promised.push(told);
            state.promised.sort();
        }
    }

    /// A buyer is refused, if that counts.
    fn refused(&self, state: &mut State, request: &Request, by: Epoch) {
        let view = state.log.view();
        let counts = view.fold.cut().lets_refuse(by) || self.rules.breaks(Rule::RefusalOfTheCurrentEpoch);
        let holds = view.by_key.contains_key(&(request.buyer.clone(), request.key));
        if self.rules.refusals && counts && holds {
            state.wrong = Some(properties::REFUSAL);
        }
    }

    /// Whether a copy of the batch may still come into the log.
    fn may_land(&self, state: &State, batch: &Batch) -> bool {
        let copies = &state.log.view().copies;
        let fewest = batch
            .iter()
            .map(|(id, _)| copies.get(&id).copied().unwrap_or_default())
            .min();
        self.has_room(state) && fewest.is_some_and(|fewest| fewest <= self.rules.copies)
    }

    pub(crate) fn publish(&self, state: &mut State, api: usize, batch: usize) -> Option<()> {
        let batch = state.apis[api].pending.get(batch)?.clone();
        self.append(state, Record::Batch(batch.clone()))?;
        if self.rules.breaks(Rule::AnswerAfterReadBack) {
            for (id, order) in batch.iter() {
                self.tell(state, id, &order.buyer, order.key);
            }
        }
        self.keep_promises(state);
        Some(())
    }

    /// Numbers that have come into the log are no concern any more.
    fn keep_promises(&self, state: &mut State) {
        if !state.promised.is_empty() {
            let view = state.log.view();
            let missing = |(id, buyer, key): &(OrderId, Buyer, KeyHash)| !view.has(*id, buyer, *key);
            state.promised = state.promised.iter().filter(|told| missing(told)).cloned().collect();
        }
    }

    pub(crate) fn read_back(&self, state: &mut State, api: usize, batch: usize) -> Option<()> {
        let batch = state.apis[api].pending.get(batch)?.clone();
        let view = state.log.view();
        let accepted = batch.iter().all(|(id, order)| view.has(id, &order.buyer, order.key));
        let void = batch.iter().any(|(id, _)| view.void.contains(&id));
        if accepted {
            for (id, order) in batch.iter() {
                self.tell(state, id, &order.buyer, order.key);
            }
        }
        if !accepted && !void {
            return None;
        }
        // A process may have read the void copy first; whoever waits for it asks the index again.
        if void && accepted && self.rules.breaks(Rule::VoidIsNotFailed) {
            state.wrong = Some(properties::REFUSAL);
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

    pub(crate) fn relay(&self, state: &mut State, on: Side, entry: usize) -> Option<()> {
        let batch = state.server(on)?.data.outbox.get(entry)?.clone();
        self.append(state, Record::Batch(batch))?;
        self.keep_promises(state);
        Some(())
    }
}

fn order_id(epoch: Epoch, seq: u64) -> OrderId {
    OrderId { sale: SALE, epoch, seq }
}

fn request((buyer, key): &Asking) -> Request {
    Request {
        buyer: buyer_of(*buyer),
        quantity: 1,
        tier: 0,
        key: KeyHash(u64::from(*key)),
    }
}

pub fn buyer_of(number: u8) -> Buyer {
    Buyer::new(char::from(b'a' + number)).expect("a letter is a buyer's name")
}

fn number_of(buyer: &Buyer) -> usize {
    usize::from(buyer.as_str().as_bytes().first().map_or(0, |letter| letter - b'a'))
}
