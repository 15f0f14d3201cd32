//! The worker and its stock adjustments, cancels and totals.
use std::collections::BTreeSet;

use seckill_protocol::adjustment::{AdjustmentOutcome, StockAdjustment, apply_adjustments};
use seckill_protocol::{Epoch, OrderId, PendingAdjustment, Record};

use crate::configuration::{Configuration, Rule};
use crate::property;
use crate::protocol::{Action, Protocol};
use crate::state::{Side, State};

impl State {
    /// Whether the worker can store the next record. It may have to wait if adjustments come before the transaction.
    pub(crate) fn can_store(&self, config: &Configuration) -> bool {
        if !config.breaks(Rule::AdjustmentsAfterCommit) || self.mysql.position == self.log.len() {
            return true;
        }
        let adjustment = &self.log.up_to(self.mysql.position + 1).adjustment;
        adjustment
            .as_ref()
            .is_none_or(|adjustment| self.worker_memory.contains(adjustment))
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
            if cancels < self.config.cancels {
                // The order must be the same each time.
                let orders: BTreeSet<OrderId> = view.fold.orders().keys().copied().collect();
                actions.extend(orders.into_iter().map(Action::Cancel));
            }
            // In their order, except for late copies.
            for total in self.config.totals {
                let is_it = |r: &&Record| matches!(r, Record::Total { total: t, .. } if t == total);
                let copies = state.log.records().filter(is_it).count();
                if copies <= self.config.copies {
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
        let due = self.due_adjustments(state).len();
        let choices = match self.config.breaks(Rule::AdjustmentsInOrder) {
            true => due,
            false => due.min(1),
        };
        for adjustment in 0..choices {
            for on in state.sides() {
                actions.push(Action::Adjust { on, adjustment });
            }
        }
        for (adjustment, row) in state.mysql.adjustments.iter().enumerate() {
            if state.worker_memory.contains(row) {
                actions.push(Action::ForgetAdjustment { adjustment });
            }
        }
        if !state.worker_memory.is_empty() {
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

    /// The adjustments that are still to be applied to the index.
    fn due_adjustments(&self, state: &State) -> Vec<PendingAdjustment> {
        if self.config.breaks(Rule::AdjustmentsAreRows) {
            return state.worker_memory.clone();
        }
        if self.config.breaks(Rule::AdjustmentsAfterCommit) {
            let next = (state.mysql.position < state.log.len())
                .then(|| state.log.up_to(state.mysql.position + 1).adjustment.clone())
                .flatten();
            return next
                .into_iter()
                .filter(|adjustment| !state.worker_memory.contains(adjustment))
                .collect();
        }
        let answered = |adjustment: &&PendingAdjustment| !state.worker_memory.contains(adjustment);
        state.mysql.adjustments.iter().filter(answered).cloned().collect()
    }

    /// One transaction: position, orders, pending adjustments.
    pub(crate) fn store(&self, state: &mut State) -> Option<()> {
        if !self.config.worker_steps() {
            state.mysql_mut().position = state.log.len();
            return Some(());
        }
        let position = state.mysql.position + 1;
        let view = state.log.up_to(position);
        let closed = view.fold.cut().closed.is_some();
        if let Some(adjustment) = view.adjustment.clone() {
            if self.config.breaks(Rule::AdjustmentsAreRows) {
                state.worker_memory.push(adjustment);
            } else if self.config.breaks(Rule::AdjustmentsAfterCommit) {
                // The worker waits until the index has replied.
                state.can_store(&self.config).then_some(())?;
                state.worker_memory.retain(|known| *known != adjustment);
            } else {
                state.mysql_mut().adjustments.push(adjustment);
            }
        }
        // What is adjustment then goes at the settlement.
        if closed && self.config.breaks(Rule::SettledWithoutPendingAdjustments) {
            state.mysql_mut().adjustments.clear();
            state.worker_memory.clear();
        }
        state.mysql_mut().position = position;
        Some(())
    }

    pub(crate) fn adjust(&self, state: &mut State, on: Side, adjustment: usize) -> Option<()> {
        let pending = self.due_adjustments(state).get(adjustment)?.clone();
        let server = state.server(on)?;
        let seen = match self.config.breaks(Rule::AdjustmentFence) {
            true => server.unfenced(),
            false => server.server(),
        };
        let since = match self.config.breaks(Rule::AdjustmentWaitsForEpoch) {
            true => Epoch(0),
            false => pending.since,
        };
        let mut data = (*server.data).clone();
        let mut sent = PendingAdjustment {
            since,
            ..pending.clone()
        };
        if let (StockAdjustment::Return { buyer, epoch, seq }, Some(index)) = (&mut sent.adjustment, &data.index)
            && self.config.breaks(Rule::ReturnByEpochAndSeq)
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
        let taken = data.index.as_ref().map(|index| index.taken.clone());
        match apply_adjustments(data.index.as_mut(), &seen, std::slice::from_ref(&sent)).first()? {
            AdjustmentOutcome::NotYet | AdjustmentOutcome::Replica => return None,
            AdjustmentOutcome::NoSuchOrder => state.violated = Some(property::ADJUSTMENT),
            AdjustmentOutcome::Done if self.config.breaks(Rule::CancelledOrdersCount) => {
                let index = data.index.as_mut()?;
                index.ever = index.ever.map(|ever| ever.saturating_sub(1));
            }
            AdjustmentOutcome::Done | AdjustmentOutcome::Already => {}
        }
        if let (StockAdjustment::Return { buyer, epoch, seq }, Some(index)) = (&sent.adjustment, &mut data.index)
            && self.config.breaks(Rule::ReturnMarks)
        {
            let held = index.holdings.get_mut(buyer).into_iter().flatten();
            for holding in held.filter(|held| (held.epoch, held.seq) == (*epoch, *seq)) {
                holding.cancelled = false;
            }
        }
        if let (Some(index), Some(taken)) = (&mut data.index, taken)
            && self.config.breaks(Rule::ReturnLowersTaken)
        {
            index.taken = taken;
        }
        *state.server_mut(on)?.data_mut() = data;
        if self.config.breaks(Rule::AdjustmentsAreRows) {
            state.worker_memory.retain(|known| *known != pending);
        } else {
            state.worker_memory.push(pending);
        }
        Some(())
    }

    pub(crate) fn forget_adjustment(&self, state: &mut State, adjustment: usize) -> Option<()> {
        let applied = state.mysql_mut().adjustments.remove(adjustment);
        state.worker_memory.retain(|known| *known != applied);
        Some(())
    }
}
