//! The worker, its effects on the index, and those who append cancels and totals.
use std::collections::BTreeSet;

use seckill_protocol::adjustment::{AdjustmentOutcome, StockAdjustment, apply_adjustment};
use seckill_protocol::{Epoch, OrderId, PendingAdjustment, Record};

use crate::configuration::{Configuration, Rule};
use crate::properties;
use crate::protocol::{Action, Protocol};
use crate::state::{Side, State};

impl State {
    /// Whether the worker goes on: only if effects come before the transaction may it have to wait.
    pub(crate) fn can_store(&self, rules: &Configuration) -> bool {
        if !rules.breaks(Rule::EffectsAfterCommit) || self.mysql.position == self.log.len() {
            return true;
        }
        let owed = &self.log.up_to(self.mysql.position + 1).owed;
        owed.as_ref().is_none_or(|owed| self.worker.contains(owed))
    }
}

impl Protocol {
    pub(crate) fn changes(&self, state: &State, actions: &mut Vec<Action>) {
        let view = state.log.view();
        if self.has_room(state) {
            let cancels = state
                .log
                .records()
                .filter(|r| matches!(r, Record::Cancel { .. }))
                .count();
            if cancels < self.rules.cancels {
                // In an order that is the same each time.
                let orders: BTreeSet<OrderId> = view.fold.orders().keys().copied().collect();
                actions.extend(orders.into_iter().map(Action::Cancel));
            }
            // In their order, but for late copies.
            for total in self.rules.totals {
                let is_it = |r: &&Record| matches!(r, Record::Total { total: t, .. } if t == total);
                let copies = state.log.records().filter(is_it).count();
                if copies <= self.rules.copies {
                    actions.push(Action::Total(*total));
                }
                if copies == 0 {
                    break;
                }
            }
        }
        if state.mysql.position < state.log.len() {
            actions.push(Action::Store);
        }
        for owed in 0..self.due(state).len() {
            for on in state.sides() {
                actions.push(Action::StockAdjustment { on, owed });
            }
        }
        for (i, owed) in state.mysql.owed.iter().enumerate() {
            if state.worker.contains(owed) {
                actions.push(Action::Forget { owed: i });
            }
        }
        if !state.worker.is_empty() {
            actions.push(Action::WorkerCrashes);
        }
    }

    pub(crate) fn cancel(&self, state: &mut State, order: OrderId) -> Option<()> {
        let OrderId { sale, epoch, seq } = order;
        let reason = "buyer".to_owned();
        self.append(
            state,
            Record::Cancel {
                sale,
                epoch,
                seq,
                reason,
            },
        )
    }

    /// The effects that the index has still to be told of.
    fn due(&self, state: &State) -> Vec<PendingAdjustment> {
        if self.rules.breaks(Rule::EffectsAreRows) {
            return state.worker.clone();
        }
        if self.rules.breaks(Rule::EffectsAfterCommit) {
            let next = (state.mysql.position < state.log.len())
                .then(|| state.log.up_to(state.mysql.position + 1).owed.clone())
                .flatten();
            return next.into_iter().filter(|owed| !state.worker.contains(owed)).collect();
        }
        let answered = |owed: &&PendingAdjustment| !state.worker.contains(owed);
        state.mysql.owed.iter().filter(answered).cloned().collect()
    }

    /// One transaction: position, orders, effects.
    pub(crate) fn store(&self, state: &mut State) -> Option<()> {
        if !self.rules.worker_steps() {
            state.mysql_mut().position = state.log.len();
            return Some(());
        }
        let position = state.mysql.position + 1;
        let view = state.log.up_to(position);
        let closed = view.fold.cut().closed.is_some();
        if let Some(owed) = view.owed.clone() {
            if self.rules.breaks(Rule::EffectsAreRows) {
                state.worker.push(owed);
            } else if self.rules.breaks(Rule::EffectsAfterCommit) {
                // It waits until the index has answered.
                state.can_store(&self.rules).then_some(())?;
                state.worker.retain(|told| *told != owed);
            } else {
                state.mysql_mut().owed.push(owed);
            }
        }
        // What is owed then goes at the settlement.
        if closed && self.rules.breaks(Rule::SettledWhenNothingIsOwed) {
            state.mysql_mut().owed.clear();
            state.worker.clear();
        }
        state.mysql_mut().position = position;
        Some(())
    }

    pub(crate) fn effect(&self, state: &mut State, on: Side, owed: usize) -> Option<()> {
        let owed = self.due(state).get(owed)?.clone();
        let server = state.server(on)?;
        let seen = match self.rules.breaks(Rule::EffectFence) {
            true => server.unfenced(),
            false => server.server(),
        };
        let since = match self.rules.breaks(Rule::EffectWaitsForEpoch) {
            true => Epoch(0),
            false => owed.since,
        };
        let mut data = (*server.data).clone();
        let mut effect = owed.adjustment.clone();
        if let (StockAdjustment::Return { buyer, epoch, seq }, Some(index)) = (&mut effect, &data.index)
            && self.rules.breaks(Rule::ReturnByEpochAndSeq)
        {
            // The first of the buyer's orders with this number, whatever its epoch.
            let held = index
                .holdings
                .get(buyer)
                .into_iter()
                .flatten()
                .find(|held| held.seq == *seq && !held.cancelled);
            *epoch = held.map_or(*epoch, |held| held.epoch);
        }
        match apply_adjustment(data.index.as_mut(), &seen, since, &effect) {
            AdjustmentOutcome::NotYet => return None,
            AdjustmentOutcome::NoSuchOrder => state.wrong = Some(properties::KNOWN),
            AdjustmentOutcome::Done | AdjustmentOutcome::Already => {}
        }
        if let (StockAdjustment::Return { buyer, epoch, seq }, Some(index)) = (&effect, &mut data.index)
            && self.rules.breaks(Rule::ReturnMarks)
        {
            let held = index.holdings.get_mut(buyer).into_iter().flatten();
            for holding in held.filter(|held| (held.epoch, held.seq) == (*epoch, *seq)) {
                holding.cancelled = false;
            }
        }
        *state.server_mut(on)?.data_mut() = data;
        if self.rules.breaks(Rule::EffectsAreRows) {
            state.worker.retain(|known| *known != owed);
        } else {
            state.worker.push(owed);
        }
        Some(())
    }

    pub(crate) fn forget(&self, state: &mut State, owed: usize) -> Option<()> {
        let owed = state.mysql_mut().owed.remove(owed);
        state.worker.retain(|known| *known != owed);
        Some(())
    }
}
