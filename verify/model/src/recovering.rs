//! Coordinators, who put an index in force: R0 to R5, each step atomic by itself.
use seckill_protocol::index::Holdings;
use seckill_protocol::install::{Applied, Install, apply, install};
use seckill_protocol::recovery::Need;
use seckill_protocol::{Epoch, Fold};

use crate::configuration::Rule;
use crate::log::{SALE, View};
use crate::properties;
use crate::protocol::{Action, Protocol, barrier};
use crate::state::{Coordinator, Data, Row, Side, State};

impl Protocol {
    pub(crate) fn recoveries(&self, state: &State, actions: &mut Vec<Action>) {
        for (coordinator, phase) in state.coordinators.iter().enumerate() {
            // Like coordinators do the same.
            if coordinator > 0 && state.coordinators[coordinator - 1] == *phase {
                continue;
            }
            let mut on_servers = |action: fn(usize, Side) -> Action| {
                let reached = |on: &Side| *on == Side::Current || self.rules.coordinators_reach_old;
                actions.extend(state.sides().filter(reached).map(|on| action(coordinator, on)));
            };
            match phase {
                Coordinator::Idle => {
                    if !state.ended() {
                        actions.push(Action::Look { coordinator });
                        if self.rules.needless && self.may_begin(state) {
                            actions.push(Action::Needless { coordinator });
                        }
                    }
                    continue;
                }
                Coordinator::Barrier { .. } => {
                    if self.may_begin(state) {
                        actions.push(Action::Barrier { coordinator });
                    }
                    if self.rules.breaks(Rule::OwnBarrier) {
                        actions.push(Action::AdoptBarrier { coordinator });
                    }
                }
                Coordinator::Fold { .. } => actions.push(Action::Fold { coordinator }),
                Coordinator::Write { .. } => on_servers(|coordinator, on| Action::Write { coordinator, on }),
                Coordinator::Install { .. } => {
                    on_servers(|coordinator, on| Action::Install { coordinator, on });
                    if self.rules.breaks(Rule::InstallOnce) {
                        on_servers(|coordinator, on| Action::InstallUnanswered { coordinator, on });
                    }
                }
                Coordinator::ReadTerms { .. } => actions.push(Action::ReadTerms { coordinator }),
                Coordinator::Apply { .. } => actions.push(Action::Apply { coordinator }),
                Coordinator::Publish { .. } => actions.push(Action::Publicise { coordinator }),
            }
            if self.rules.deaths {
                actions.push(Action::CoordinatorDies { coordinator });
            }
        }
    }

    fn may_begin(&self, state: &State) -> bool {
        self.has_room(state) && state.log.view().barriers <= self.rules.barriers
    }

    pub(crate) fn look(&self, state: &mut State, coordinator: usize) -> Option<()> {
        state.coordinators[coordinator] = match state.need(&self.rules) {
            // Terms are changed at once, by a step of their own.
            Need::Nothing | Need::Apply | Need::Renumber(_) => return None,
            Need::Rebuild if !self.may_begin(state) => return None,
            Need::Rebuild => Coordinator::Barrier { row: state.mysql.row },
            Need::Publish(epoch) => Coordinator::Publish { epoch },
        };
        Some(())
    }

    pub(crate) fn needless(&self, state: &mut State, coordinator: usize) -> Option<()> {
        state.coordinators[coordinator] = Coordinator::Barrier { row: state.mysql.row };
        Some(())
    }

    /// R1: the barrier is appended and read back at its offset.
    pub(crate) fn begin_epoch(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::Barrier { row } = state.coordinators[coordinator] else {
            return None;
        };
        let epoch = Epoch(state.log.end());
        self.append(state, barrier())?;
        state.coordinators[coordinator] = match state.mysql.live_epoch {
            // The log was replaced.
            Some(live) if epoch <= live => Coordinator::Idle,
            _ => Coordinator::Fold { epoch, row },
        };
        Some(())
    }

    pub(crate) fn adopt_barrier(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::Barrier { row } = state.coordinators[coordinator] else {
            return None;
        };
        let epoch = state.log.view().latest_barrier?;
        state.coordinators[coordinator] = Coordinator::Fold { epoch, row };
        Some(())
    }

    /// R2: the ledger's snapshot, and the log from there up to the barrier.
    pub(crate) fn fold(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::Fold { epoch, row } = state.coordinators[coordinator] else {
            return None;
        };
        let ledger = state.ledger();
        let orders = ledger.fold.orders().iter().map(|(id, order)| (*id, order.clone()));
        let mut fold = Fold::starting_from(SALE, ledger.fold.cut(), ledger.fold.total(), orders);
        let mut length = state.mysql.position;
        if !self.rules.breaks(Rule::FoldToTheBarrier) {
            while (length as i64) <= epoch.0 {
                fold.read(length as i64, state.log.record(length)?);
                length += 1;
            }
        }
        let expected = &state.log.up_to(length).fold;
        let same = (fold.cut(), fold.total(), fold.orders()) == (expected.cut(), expected.total(), expected.orders());
        if !same && self.rules.broken.is_empty() {
            state.wrong = Some(properties::FOLD);
        }
        state.coordinators[coordinator] = match expected.cut().closed {
            Some(_) => Coordinator::Idle,
            None => Coordinator::Write {
                epoch,
                fold: length,
                row,
            },
        };
        Some(())
    }

    fn holdings(&self, view: &View) -> Holdings {
        let mut holdings = view.holdings.clone();
        if self.rules.breaks(Rule::RebuildKeepsCancelled) {
            for held in holdings.values_mut() {
                held.retain(|holding| !holding.cancelled);
            }
            holdings.retain(|_, held| !held.is_empty());
        }
        holdings
    }

    /// R3.
    pub(crate) fn write(&self, state: &mut State, coordinator: usize, on: Side) -> Option<()> {
        let Coordinator::Write { epoch, fold, row } = state.coordinators[coordinator] else {
            return None;
        };
        let holdings = self.holdings(state.log.up_to(fold));
        let data = state.server_mut(on)?.data_mut();
        match &mut data.index {
            Some(index) if index.epoch == epoch => index.holdings = holdings,
            _ => {
                data.written.insert(epoch, holdings);
            }
        }
        state.coordinators[coordinator] = Coordinator::Install { epoch, fold, row };
        Some(())
    }

    /// R4.
    pub(crate) fn install(&self, state: &mut State, coordinator: usize, on: Side, answered: bool) -> Option<()> {
        let Coordinator::Install { epoch, fold, row } = state.coordinators[coordinator] else {
            return None;
        };
        let view = state.log.up_to(fold);
        let (total, live) = (view.fold.total(), view.live);
        let written = self.holdings(view);
        let server = state.server(on)?;
        let mut found = match &server.data.index {
            Some(index) if index.epoch == epoch => index.holdings.clone(),
            _ => server.data.written.get(&epoch).cloned().unwrap_or_default(),
        };
        let mut what = Install {
            epoch,
            total,
            left: total.saturating_sub(live),
            holders: written.len() as u64,
            terms: row.terms(self.rules.limit),
        };
        if self.rules.breaks(Rule::InstallCountsHolders) {
            what.holders = found.len() as u64;
        }
        if let Some(index) = server
            .data
            .index
            .as_ref()
            .filter(|_| self.rules.breaks(Rule::RebuildFromLog))
        {
            (what.total, what.left, found) = (index.total, index.left, index.holdings.clone());
            what.holders = found.len() as u64;
        }
        let current = server
            .data
            .index
            .as_ref()
            .filter(|_| !self.rules.breaks(Rule::InstallNewerOnly));
        let installed = match live <= total {
            true => install(current, &server.server(), SALE, &what, found).ok(),
            false => None,
        };
        let next = if installed.is_some() && self.rules.terms_change() {
            Coordinator::ReadTerms { epoch }
        } else if installed.is_some() {
            // Nobody changes the terms: there is nothing to read and to apply.
            Coordinator::Publish { epoch }
        } else {
            Coordinator::Idle
        };
        if let Some(index) = installed {
            let data = state.server_mut(on)?.data_mut();
            data.written.retain(|written, _| *written > epoch);
            data.outbox.clear();
            data.index = Some(index);
        }
        if answered {
            state.coordinators[coordinator] = next;
        }
        Some(())
    }

    /// R5, the newest terms.
    pub(crate) fn read_terms(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::ReadTerms { epoch } = state.coordinators[coordinator] else {
            return None;
        };
        if state.mysql.settled {
            // Whoever settled it could not free what was not there yet.
            *state.redis.data_mut() = Data::default();
            state.coordinators[coordinator] = Coordinator::Idle;
        } else {
            let row = state.mysql.row;
            state.coordinators[coordinator] = Coordinator::Apply { epoch, row };
        }
        Some(())
    }

    pub(crate) fn apply(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::Apply { epoch, row } = state.coordinators[coordinator] else {
            return None;
        };
        // Another server may answer by now: of an index that has not got the terms nobody is told.
        let applied = self.apply_row(state, epoch, row);
        if applied != Applied::NotHere || self.rules.breaks(Rule::TermsReachTheIndex) {
            state.coordinators[coordinator] = Coordinator::Publish { epoch };
        } else {
            state.coordinators[coordinator] = Coordinator::Idle;
        }
        Some(())
    }

    /// Tells the index of this epoch the terms in the sale's row.
    pub(crate) fn apply_row(&self, state: &mut State, epoch: Epoch, row: Row) -> Applied {
        let server = state.redis.server();
        let data = state.redis.data_mut();
        if let Some(index) = data.index.as_mut().filter(|_| self.rules.breaks(Rule::ApplyNewerOnly)) {
            index.terms.version = 0;
        }
        let applied = apply(data.index.as_mut(), &server, epoch, &row.terms(self.rules.limit));
        // They take effect where the log lets sell.
        let sells = data.index.as_ref().map(|index| index.epoch) == state.log.view().fold.cut().epoch();
        if applied == Applied::Done && sells && self.rules.mysql_losses == 0 {
            state.past.told_version = state.past.told_version.max(row.version);
        }
        applied
    }

    /// R5, the end: API processes may know.
    pub(crate) fn publicise(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::Publish { epoch } = state.coordinators[coordinator] else {
            return None;
        };
        if state.mysql.live_epoch < Some(epoch) || self.rules.breaks(Rule::LiveEpochOnlyRises) {
            state.mysql_mut().live_epoch = Some(epoch);
        }
        state.coordinators[coordinator] = Coordinator::Idle;
        Some(())
    }
}
