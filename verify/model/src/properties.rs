//! What must always be true, and what must happen at some time lest the model prove nothing.
use std::collections::BTreeMap;

use seckill_protocol::index::{Index, SaleState};
use seckill_protocol::recovery::{self, LedgerView, Need};
use seckill_protocol::{Batch, Record, RecordVerdict};
use stateright::Property;

use crate::configuration::{Configuration, Rule};
use crate::log::View;
use crate::protocol::Protocol;
use crate::state::{Coordinator, State};

pub const OVERSOLD: &str = "I1 no more live units than the total";
pub const PROMISE: &str = "I2 I9 every number that was told is accepted in the log";
pub const STAYS: &str = "I2 what was accepted stays accepted";
pub const LIMIT: &str = "I5 no buyer holds more than the limit";
pub const KEY: &str = "I6 the same buyer and key is the same order";
pub const NUMBER: &str = "I7 a number stands for one order";
pub const BALANCE: &str = "I3 I10 at rest: total = left + live";
pub const INDEX: &str = "I12 at rest: the index is the fold of the log";
pub const TERMS: &str = "I8 at rest: the index has the terms of the sale's row";
pub const TAKEN_BACK: &str = "I8 nothing is sold by terms older than those that took effect";
pub const REFUSAL: &str = "N1 no holder of an accepted order is told a refusal";
pub const CLOSED: &str = "after CLOSE no order comes into being and the total stays";
pub const SETTLEMENT: &str = "a settlement finds what the index has left";
pub const STUCK: &str = "I13 what is missing is seen, nothing waits for ever";
pub const KNOWN: &str = "an effect finds its order";
pub const FOLD: &str = "I12 the ledger and the log together are the log";

const ALWAYS: [&str; 16] = [
    OVERSOLD, PROMISE, STAYS, LIMIT, KEY, NUMBER, BALANCE, INDEX, TERMS, REFUSAL, CLOSED, SETTLEMENT, STUCK, KNOWN,
    FOLD, TAKEN_BACK,
];

/// What the log alone can break.
pub fn of_the_log(
    before: &View,
    after: &View,
    record: &Record,
    verdict: RecordVerdict,
    rules: &Configuration,
) -> Option<&'static str> {
    let orders = after.fold.orders();
    if after.live > after.fold.total() {
        return Some(OVERSOLD);
    }
    if before.fold.orders().keys().any(|id| !orders.contains_key(id)) {
        return Some(STAYS);
    }
    let mut held: BTreeMap<_, u32> = BTreeMap::new();
    for order in orders.values().filter(|order| order.status.is_live()) {
        *held.entry(&order.buyer).or_default() += order.quantity;
    }
    if held.values().any(|units| *units > rules.limit) {
        return Some(LIMIT);
    }
    if after.by_key.len() < orders.len() {
        return Some(KEY);
    }
    if let (Record::Batch(batch), RecordVerdict::Accepted) = (record, verdict)
        && batch
            .iter()
            .any(|(id, order)| orders.contains_key(&id) && !after.has(id, &order.buyer, order.key))
    {
        return Some(NUMBER);
    }
    let (was, is) = (&before.fold, &after.fold);
    if was.cut().closed.is_some()
        && (was.orders().len() != orders.len() || was.total() != is.total() || was.cut() != is.cut())
    {
        return Some(CLOSED);
    }
    None
}

impl State {
    /// What is wrong with it.
    pub fn wrong(&self, rules: &Configuration) -> Option<&'static str> {
        self.wrong
            .or(self.log.view().wrong)
            .or_else(|| self.broken_promise())
            .or_else(|| self.wrong_after_the_end(rules))
            .or_else(|| self.wrong_at_rest(rules))
    }

    /// A number that was told and is not in the log, and can't come into it any more.
    fn broken_promise(&self) -> Option<&'static str> {
        let view = self.log.view();
        let selling = view.fold.cut().epoch();
        let lost = |(id, buyer, key): &(_, _, _)| -> bool {
            let id: &seckill_protocol::OrderId = id;
            !view.has(*id, buyer, *key) && selling != Some(id.epoch)
        };
        self.promised.iter().any(lost).then_some(PROMISE)
    }

    /// A buyer who asks after the end is told by the ledger: it must know every order.
    fn wrong_after_the_end(&self, rules: &Configuration) -> Option<&'static str> {
        let (ledger, log) = (self.ledger(), self.log.view());
        let says_so = ledger.fold.cut().closed.is_some() || self.past.listed_as_closed;
        if says_so && log.by_key.keys().any(|key| !ledger.by_key.contains_key(key)) {
            return Some(REFUSAL);
        }
        // The worker waits for an index, and none will come.
        let nobody_at_work = self.coordinators.iter().all(|c| *c == Coordinator::Idle);
        if self.ended() && nobody_at_work && self.redis.data.index.is_none() && !self.can_store(rules) {
            return Some(STUCK);
        }
        // Its index is gone: no effect finds it.
        if self.mysql.settled && !self.mysql.owed.is_empty() {
            return Some(STUCK);
        }
        None
    }

    /// Nobody is at work, the ledger has read the log, every effect was taken.
    fn wrong_at_rest(&self, rules: &Configuration) -> Option<&'static str> {
        let view = self.log.view();
        let resting = self.mysql.position == self.log.len()
            && self.mysql.owed.is_empty()
            && self.worker.is_empty()
            && self.coordinators.iter().all(|c| *c == Coordinator::Idle);
        if !resting || view.fold.cut().closed.is_some() {
            return None;
        }
        let index = self
            .redis
            .in_force()
            .filter(|index| Some(index.epoch) == view.fold.cut().epoch());
        if !self.ended() && self.need(rules) == Need::Nothing {
            let known = index.is_some_and(|index| self.mysql.live_epoch == Some(index.epoch));
            if !known {
                return Some(STUCK);
            }
        }
        let index = index?;
        let row = self.mysql.row;
        // Nobody has anything left to do about them.
        let told = row.state == self.wish(rules) && self.need(rules) == Need::Nothing;
        if told && index.terms.state != row.state {
            return Some(TERMS);
        }
        let in_flight = |batch: &Batch| batch.iter().any(|(id, _)| !view.fold.orders().contains_key(&id));
        if self.redis.data.outbox.iter().any(in_flight) {
            return None;
        }
        if index.total != view.fold.total() || index.left + view.live != index.total {
            return Some(BALANCE);
        }
        (index.holdings != view.holdings).then_some(INDEX)
    }

    /// R0.
    pub fn need(&self, rules: &Configuration) -> Need {
        let mut known = LedgerView {
            cut: self.ledger().fold.cut(),
            live_epoch: self.mysql.live_epoch,
            terms: self.mysql.row.terms(rules.limit),
        };
        let index = self.redis.data.index.as_ref();
        if rules.breaks(Rule::NeedSeesBarrier) && known.cut.closed.is_none() {
            known.cut.cur = None;
        }
        if rules.breaks(Rule::NeedSeesLiveEpoch) {
            known.live_epoch = index.map(|index| index.epoch);
        }
        if rules.breaks(Rule::TermsBeforePublication)
            && let Some(index) = index.filter(|index| known.live_epoch < Some(index.epoch))
        {
            known.terms = index.terms.clone();
        }
        match recovery::needed(self.redis.found(), &self.redis.server(), &known) {
            Need::Renumber(_) if rules.breaks(Rule::TermsOutnumberTheIndex) => Need::Nothing,
            need => need,
        }
    }

    /// What the FlashSale says.
    pub fn wish(&self, rules: &Configuration) -> SaleState {
        match usize::from(self.past.wishes) {
            0 => SaleState::Open,
            n => rules.wishes[n - 1],
        }
    }

    /// The index in force, if no barrier came after it and before CLOSE.
    pub fn index_at_the_end(&self) -> Option<&Index> {
        let latest = self.ledger().latest_barrier;
        self.redis.in_force().filter(|index| latest <= Some(index.epoch))
    }

    /// The sale's row says that it is over: no index is rebuilt any more.
    pub fn ended(&self) -> bool {
        self.mysql.row.state == SaleState::Closed
    }
}

pub fn all(rules: &Configuration) -> Vec<Property<Protocol>> {
    let mut properties = Vec::new();
    macro_rules! always {
        ($($i:literal)*) => {$(
            properties.push(Property::always(ALWAYS[$i], |model: &Protocol, state: &State| {
                !(state.wrong == Some(ALWAYS[$i]) && model.is_first_wrong(state))
            }));
        )*};
    }
    always!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    properties.push(Property::sometimes("all is sold", |_, state: &State| {
        let view = state.log.view();
        view.live == view.fold.total()
    }));
    if rules.barriers > 0 && (rules.redis_losses > 0 || rules.needless) {
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
    if rules.cancels > 0 && (rules.buyers > 1 || rules.keys > 1) {
        properties.push(Property::sometimes(
            "a returned unit is sold again",
            |_, state: &State| {
                let view = state.log.view();
                view.live == view.fold.total() && view.fold.orders().values().any(|order| !order.status.is_live())
            },
        ));
    }
    if !rules.totals.is_empty() {
        properties.push(Property::sometimes(
            "a unit more than at the beginning is sold",
            |model: &Protocol, state: &State| state.log.view().live > model.rules.total,
        ));
    }
    if rules.wishes.contains(&SaleState::Closed) {
        properties.push(Property::sometimes(
            "a sale that sold is settled",
            |_, state: &State| state.mysql.settled && state.log.view().live > 0,
        ));
    }
    properties
}
