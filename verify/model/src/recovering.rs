//! Coordinators, which put an index in force: R0 to R5. Each step is atomic.
use seckill_protocol::index::{Holdings, Index};
use seckill_protocol::install::{Applied, Install, apply, install};
use seckill_protocol::recovery::Need;
use seckill_protocol::{Epoch, Fold};

use crate::configuration::Rule;
use crate::log::{SALE, View};
use crate::property;
use crate::protocol::{Action, Protocol, barrier};
use crate::state::{Coordinator, RedisData, RedisServer, Side, State, TermsRow};

impl Protocol {
    pub(crate) fn recoveries(&self, state: &State, actions: &mut Vec<Action>) {
        for (coordinator, phase) in state.coordinators.iter().enumerate() {
            // Equal coordinators have equal actions.
            if coordinator > 0 && state.coordinators[coordinator - 1] == *phase {
                continue;
            }
            let mut on_servers = |action: fn(usize, Side) -> Action| {
                let reached = |on: &Side| *on == Side::Current || self.config.coordinators_reach_old;
                actions.extend(state.sides().filter(reached).map(|on| action(coordinator, on)));
            };
            match phase {
                Coordinator::Idle => {
                    if !state.ended() {
                        actions.push(Action::Observe { coordinator });
                        if self.config.needless && self.may_begin(state) {
                            actions.push(Action::RebuildNeedlessly { coordinator });
                        }
                    }
                    continue;
                }
                Coordinator::Barrier { .. } => {
                    if self.may_begin(state) {
                        actions.push(Action::Barrier { coordinator });
                    }
                    if self.config.breaks(Rule::OwnBarrier) {
                        actions.push(Action::AdoptBarrier { coordinator });
                    }
                }
                Coordinator::Fold { .. } => actions.push(Action::Fold { coordinator }),
                Coordinator::Write { .. } => on_servers(|coordinator, on| Action::Write { coordinator, on }),
                Coordinator::Install { .. } => {
                    on_servers(|coordinator, on| Action::Install { coordinator, on });
                    if self.config.breaks(Rule::InstallOnce) {
                        on_servers(|coordinator, on| Action::InstallUnanswered { coordinator, on });
                    }
                }
                Coordinator::ReadTerms { .. } => actions.push(Action::ReadTerms { coordinator }),
                Coordinator::Apply { .. } => actions.push(Action::Apply { coordinator }),
                Coordinator::Publish { .. } => actions.push(Action::PublishEpoch { coordinator }),
            }
            if self.config.deaths {
                actions.push(Action::CoordinatorDies { coordinator });
            }
        }
    }

    fn may_begin(&self, state: &State) -> bool {
        self.has_room(state) && state.log.view().barriers <= self.config.barriers
    }

    pub(crate) fn observe(&self, state: &mut State, coordinator: usize) -> Option<()> {
        state.coordinators[coordinator] = match state.need(&self.config) {
            // Changes of the terms are actions of their own.
            Need::Nothing | Need::Apply | Need::Renumber(_) => return None,
            Need::Rebuild if !self.may_begin(state) => return None,
            Need::Rebuild => Coordinator::Barrier { row: state.mysql.row },
            Need::Publish(epoch) => Coordinator::Publish { epoch },
        };
        Some(())
    }

    pub(crate) fn rebuild_needlessly(&self, state: &mut State, coordinator: usize) -> Option<()> {
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
        if !self.config.breaks(Rule::FoldToTheBarrier) {
            while (length as i64) <= epoch.0 {
                fold.read(length as i64, state.log.record(length)?);
                length += 1;
            }
        }
        let expected = &state.log.up_to(length).fold;
        let same = (fold.cut(), fold.total(), fold.orders()) == (expected.cut(), expected.total(), expected.orders());
        if !same && self.config.broken.is_empty() {
            state.violated = Some(property::FOLD);
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
        if self.config.breaks(Rule::RebuildKeepsCancelled) {
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
    pub(crate) fn install(&self, state: &mut State, coordinator: usize, on: Side, replied: bool) -> Option<()> {
        let Coordinator::Install { epoch, fold, row } = state.coordinators[coordinator] else {
            return None;
        };
        let server = state.server(on)?;
        let installed = self.installed(state.log.up_to(fold), server, epoch, row);
        let next = if installed.is_some() && self.config.terms_change() {
            Coordinator::ReadTerms { epoch }
        } else if installed.is_some() {
            // The terms never change in this configuration: nothing to read and apply.
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
        if replied {
            state.coordinators[coordinator] = next;
        }
        Some(())
    }

    /// The index that the server has after INSTALL, None if it refuses.
    fn installed(&self, view: &View, server: &RedisServer, epoch: Epoch, row: TermsRow) -> Option<Index> {
        let (total, live) = (view.fold.total(), view.live);
        if live > total {
            return None;
        }
        let mut current = server.data.index.as_ref();
        let mut found = match current {
            Some(index) if index.epoch == epoch => index.holdings.clone(),
            _ => server.data.written.get(&epoch).cloned().unwrap_or_default(),
        };
        let mut new = Install {
            epoch,
            total,
            left: total.saturating_sub(live),
            holders: self.holdings(view).len() as u64,
            orders: self.holdings(view).values().flatten().count() as u64,
            terms: row.terms(&self.config),
        };
        if self.config.breaks(Rule::RebuildCountsOrders) {
            new.orders = 0;
        }
        if self.config.breaks(Rule::InstallCountsHolders) {
            new.holders = found.len() as u64;
        }
        if let Some(index) = current.filter(|_| self.config.breaks(Rule::RebuildFromLog)) {
            (new.total, new.left, found) = (index.total, index.left, index.holdings.clone());
            new.holders = found.len() as u64;
        }
        if self.config.breaks(Rule::InstallNewerOnly) {
            current = None;
        }
        install(current, &server.server(), SALE, &new, found).ok()
    }

    /// R5, the first part: the newest terms are read.
    pub(crate) fn read_terms(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::ReadTerms { epoch } = state.coordinators[coordinator] else {
            return None;
        };
        if state.mysql.settled {
            // The settlement could not delete an index that was not installed yet.
            *state.redis.data_mut() = RedisData::default();
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
        // Another server may reply by now. An index without these terms must not be published.
        let applied = self.apply_row(state, epoch, row);
        if applied != Applied::NotHere || self.config.breaks(Rule::TermsReachTheIndex) {
            state.coordinators[coordinator] = Coordinator::Publish { epoch };
        } else {
            state.coordinators[coordinator] = Coordinator::Idle;
        }
        Some(())
    }

    /// Applies the terms in the row of the sale to the index of this epoch.
    pub(crate) fn apply_row(&self, state: &mut State, epoch: Epoch, row: TermsRow) -> Applied {
        let server = state.redis.server();
        let data = state.redis.data_mut();
        if let Some(index) = data.index.as_mut().filter(|_| self.config.breaks(Rule::ApplyNewerOnly)) {
            index.terms.version = 0;
        }
        let applied = apply(data.index.as_mut(), &server, epoch, &row.terms(&self.config));
        // Terms take effect only in the current epoch.
        let sells = data.index.as_ref().map(|index| index.epoch) == state.log.view().fold.cut().epoch();
        if applied == Applied::Done && sells && self.config.mysql_losses == 0 {
            state.past.applied_version = state.past.applied_version.max(row.version);
        }
        applied
    }

    /// R5, the last part: API processes may read the epoch from the ledger.
    pub(crate) fn publish_epoch(&self, state: &mut State, coordinator: usize) -> Option<()> {
        let Coordinator::Publish { epoch } = state.coordinators[coordinator] else {
            return None;
        };
        if state.mysql.live_epoch < Some(epoch) || self.config.breaks(Rule::LiveEpochOnlyRises) {
            state.mysql_mut().live_epoch = Some(epoch);
        }
        state.coordinators[coordinator] = Coordinator::Idle;
        Some(())
    }
}
