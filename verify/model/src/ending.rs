//! The other work of the operator: the terms of the sale follow the FlashSale, and the end of the sale.
use std::sync::Arc;

use seckill_protocol::Record;
use seckill_protocol::index::SaleState;
use seckill_protocol::recovery::Need;
use seckill_protocol::settlement::{Closing, Settlement, settle};

use crate::configuration::Rule;
use crate::log::SALE;
use crate::property;
use crate::protocol::{Action, Protocol};
use crate::state::{State, TermsRow};

impl Protocol {
    pub(crate) fn ends(&self, state: &State, actions: &mut Vec<Action>) {
        if !self.config.terms_change() {
            return;
        }
        if usize::from(state.past.changes) < self.config.desired_states.len() {
            actions.push(Action::ChangeFlashSale);
        }
        let row = state.mysql.row;
        let closed = state.ledger().fold.cut().closed.is_some();
        if row.state != state.desired_state(&self.config) && row.state != SaleState::Closed {
            actions.push(Action::UpdateTerms);
        }
        if matches!(state.need(&self.config), Need::Apply | Need::Renumber(_)) {
            actions.push(Action::ApplyTerms);
        }
        if row.state == SaleState::Closed && !closed && !state.past.closing && self.drained(state) {
            actions.push(Action::DecideClose);
        }
        if state.past.closing && self.has_room(state) {
            actions.push(Action::Close);
        }
        if closed && !state.mysql.settled {
            actions.push(Action::Settle);
        }
    }

    pub(crate) fn update_terms(&self, state: &mut State) -> Option<()> {
        let desired = state.desired_state(&self.config);
        let version = state.mysql.row.version + 1;
        state.mysql_mut().row = TermsRow {
            version,
            state: desired,
        };
        Some(())
    }

    pub(crate) fn apply_terms(&self, state: &mut State) -> Option<()> {
        match state.need(&self.config) {
            Need::Renumber(version) => state.mysql_mut().row.version = version,
            Need::Apply => {
                let (row, index) = (state.mysql.row, state.redis.in_force()?.epoch);
                self.apply_row(state, index, row);
            }
            Need::Nothing | Need::Rebuild | Need::Publish(_) => return None,
        }
        Some(())
    }

    /// No index sells any more, and the ledger has all orders of the last one.
    fn drained(&self, state: &State) -> bool {
        match state.need(&self.config) {
            // No index is in force, and none is rebuilt for the end.
            Need::Rebuild => true,
            Need::Apply | Need::Renumber(_) | Need::Publish(_) => false,
            Need::Nothing => in_flight(state) == 0 || self.config.breaks(Rule::CloseAfterOutbox),
        }
    }

    pub(crate) fn close(&self, state: &mut State) -> Option<()> {
        self.append(state, Record::Close { sale: SALE })?;
        let closes = state
            .log
            .records()
            .filter(|r| matches!(r, Record::Close { .. }))
            .count();
        state.past.closing = closes <= self.config.copies;
        Some(())
    }

    /// The ledger has read CLOSE: its units are compared with the index, and the keys of the index are deleted.
    pub(crate) fn settle(&self, state: &mut State) -> Option<()> {
        let ledger = state.ledger();
        let closed = ledger.fold.cut().closed?;
        let then = match self.config.breaks(Rule::SettledAsOfClose) {
            true => ledger,
            false => state.log.up_to(closed as usize + 1),
        };
        let of_units = state
            .mysql
            .adjustments
            .iter()
            .filter(|row| row.adjustment.changes_units());
        let pending_adjustments = of_units.count();
        if let Some(index) = state.index_at_the_end() {
            let closing = Closing {
                total: then.fold.total(),
                live: then.live,
                pending_adjustments,
                left: index.left,
                in_flight: match self.config.breaks(Rule::SettledWithInFlight) {
                    true => 0,
                    false => in_flight(state),
                },
            };
            match settle(&closing) {
                Settlement::Wait => return None,
                Settlement::Even { .. } => {}
                Settlement::Uneven { .. } => state.violated = Some(property::SETTLEMENT),
            }
        }
        state.mysql_mut().settled = true;
        state.mysql_mut().adjustments.clear();
        state.worker_memory.clear();
        state.redis.data = Arc::default();
        Some(())
    }
}

/// Units in the outbox that the ledger does not have.
pub(crate) fn in_flight(state: &State) -> u64 {
    let stored = state.ledger().fold.orders();
    let outbox = state.redis.data.outbox.iter().flat_map(|batch| batch.iter());
    let missing = outbox.filter(|(id, _)| !stored.contains_key(id));
    missing.map(|(_, order)| u64::from(order.quantity)).sum()
}
