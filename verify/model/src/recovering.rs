//! Coordinators, which put an index in force: R0 to R5. Each step is atomic.
use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::index::{Index, Terms};
use seckill_protocol::install::{Applied, Install, WrittenHoldings, apply, install, write};
use seckill_protocol::rebuild::{BuyerHoldings, Delta, HoldingCounts};
use seckill_protocol::recovery::Need;
use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{Epoch, Offset, OrderId, SaleCut};

use crate::configuration::Rule;
use crate::log::{Log, SALE, View};
use crate::property;
use crate::protocol::{Action, Protocol, barrier};
use crate::state::{Coordinator, RedisData, RedisServer, Side, State, TermsRow};

/// What R2 and R3 make of the ledger and the log.
#[derive(PartialEq)]
struct Streamed {
    cut: SaleCut,
    total: u64,
    counts: HoldingCounts,
    buyers: Vec<BuyerHoldings>,
}

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
        let position = state.mysql.position;
        let fold = match self.config.breaks(Rule::FoldToTheBarrier) {
            true => position,
            false => position.max(epoch.0 as usize + 1),
        };
        let expected = state.log.up_to(fold);
        if self.config.broken.is_empty() || self.config.breaks(Rule::DeltaChangesStored) {
            let streamed = self.streamed(&state.log, position, position, fold)?;
            let buyers = holdings_of(expected);
            let expected = Streamed {
                cut: expected.fold.cut(),
                total: expected.fold.total(),
                counts: counts_of(&buyers),
                buyers,
            };
            if streamed != expected {
                state.violated = Some(property::FOLD);
            }
        }
        state.coordinators[coordinator] = match expected.fold.cut().closed {
            Some(_) => Coordinator::Idle,
            None => Coordinator::Write {
                epoch,
                fold,
                position: self.config.breaks_writing().then_some(position),
                row,
            },
        };
        Some(())
    }

    /// What R3 streams: the orders of the ledger up to the record `stored`, with the log from `position` to `end` applied.
    fn streamed(&self, log: &Log, position: usize, stored: usize, end: usize) -> Option<Streamed> {
        let ledger = &log.up_to(position).fold;
        let stored = log.up_to(stored).fold.orders();
        let mut delta = Delta::starting_from(SALE, ledger.cut(), ledger.total(), []);
        for offset in position..end {
            let record = log.record(offset)?;
            let changes_stored = record.changed_order().is_some_and(|id| stored.contains_key(&id));
            if !(changes_stored && self.config.breaks(Rule::DeltaChangesStored)) {
                delta.read(offset as Offset, record);
            }
        }
        let mut rows: Vec<(OrderId, FoldedOrder)> = stored.iter().map(|(id, order)| (*id, order.clone())).collect();
        rows.sort_by(|(a, order), (b, other)| (&order.buyer, a).cmp(&(&other.buyer, b)));
        let (cut, total) = (delta.cut(), delta.total());
        let (mut merge, mut buyers) = (delta.merge(), Vec::new());
        for (id, order) in rows {
            merge.stored(id, order, &mut buyers);
        }
        let counts = merge.finish(&mut buyers);
        Some(Streamed {
            cut,
            total,
            counts,
            buyers,
        })
    }

    /// What R3 writes and counts if the way of writing is as it should be: the fold.
    fn folded(&self, view: &View) -> (Vec<BuyerHoldings>, HoldingCounts) {
        let mut holdings = holdings_of(view);
        if self.config.breaks(Rule::RebuildKeepsCancelled) {
            for (_, held) in &mut holdings {
                held.retain(|holding| !holding.cancelled);
            }
            holdings.retain(|(_, held)| !held.is_empty());
        }
        if self.config.breaks(Rule::RebuildKeepsTier) {
            for holding in holdings.iter_mut().flat_map(|(_, held)| held) {
                holding.tier = GENERAL;
            }
        }
        let counts = counts_of(&holdings);
        (holdings, counts)
    }

    /// R3.
    pub(crate) fn write(&self, state: &mut State, coordinator: usize, on: Side) -> Option<()> {
        let Coordinator::Write {
            epoch,
            fold,
            position,
            row,
        } = state.coordinators[coordinator]
        else {
            return None;
        };
        let (buyers, counts) = match position {
            None => self.folded(state.log.up_to(fold)),
            Some(position) => {
                let stored = match self.config.breaks(Rule::OrdersOfTheSnapshot) {
                    true => state.mysql.position,
                    false => position,
                };
                let streamed = self.streamed(&state.log, position, stored, fold)?;
                (streamed.buyers, streamed.counts)
            }
        };
        let data = state.server_mut(on)?.data_mut();
        let written = match &mut data.index {
            // Only the barrier of another coordinator can have an index already.
            Some(index) if index.epoch == epoch => {
                let mut written = uncounted(index);
                let result = self.write_calls(&mut written, &buyers);
                index.holdings = written.holdings;
                result
            }
            _ => self.write_calls(data.written.entry(epoch).or_default(), &buyers),
        };
        state.coordinators[coordinator] = match written {
            Some(()) => Coordinator::Install {
                epoch,
                fold,
                counts,
                row,
            },
            None => Coordinator::Idle,
        };
        Some(())
    }

    /// None if a buyer was written twice.
    fn write_calls(&self, written: &mut WrittenHoldings, buyers: &[BuyerHoldings]) -> Option<()> {
        if !self.config.breaks(Rule::BuyersWrittenWhole) {
            return write(written, buyers).ok();
        }
        // A call for each order. The replies are ignored, so only INSTALL can find the missing orders.
        for (buyer, held) in buyers {
            for holding in held {
                let _ = write(written, &[(buyer.clone(), vec![*holding])]);
            }
        }
        Some(())
    }

    /// R4.
    pub(crate) fn install(&self, state: &mut State, coordinator: usize, on: Side, replied: bool) -> Option<()> {
        let Coordinator::Install {
            epoch,
            fold,
            counts,
            row,
        } = state.coordinators[coordinator]
        else {
            return None;
        };
        let server = state.server(on)?;
        let total = state.log.up_to(fold).fold.total();
        let installed = self.installed(total, counts, server, epoch, row);
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
    fn installed(
        &self,
        total: u64,
        counts: HoldingCounts,
        server: &RedisServer,
        epoch: Epoch,
        row: TermsRow,
    ) -> Option<Index> {
        let mut current = server.data.index.as_ref();
        let mut found = match current {
            Some(index) if index.epoch == epoch => uncounted(index),
            _ => server.data.written.get(&epoch).cloned().unwrap_or_default(),
        };
        let terms = self.installed_terms(row);
        let mut new = Install {
            epoch,
            total,
            left: total.checked_sub(counts.units)?,
            holders: counts.holders,
            orders: counts.orders,
            taken: counts.taken(&terms),
            terms,
        };
        if self.config.breaks(Rule::RebuildCountsTaken) {
            new.taken.fill(0);
        }
        if self.config.breaks(Rule::RebuildCountsOrders) {
            (new.orders, found.orders) = (0, 0);
        }
        let in_force = current.filter(|_| self.config.breaks(Rule::RebuildFromLog));
        if let Some(index) = in_force {
            (new.total, new.left, found) = (index.total, index.left, uncounted(index));
            new.taken = index.taken.clone();
        }
        if in_force.is_some() || self.config.breaks(Rule::InstallCountsHolders) {
            new.holders = found.holdings.len() as u64;
        }
        if in_force.is_some() || self.config.breaks(Rule::InstallCountsOrders) {
            (found.orders, found.units) = (new.orders, new.total.saturating_sub(new.left));
        }
        if self.config.breaks(Rule::InstallNewerOnly) {
            current = None;
        }
        install(current, &server.server(), SALE, &new, found).ok()
    }

    /// The terms that INSTALL gets.
    fn installed_terms(&self, row: TermsRow) -> Terms {
        let mut terms = row.terms(&self.config);
        if self.config.breaks(Rule::InstallHasTiers) {
            terms.tiers.clear();
        }
        terms
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
        if applied.is_in_force() || self.config.breaks(Rule::TermsReachTheIndex) {
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

fn holdings_of(view: &View) -> Vec<BuyerHoldings> {
    let holdings = view.holdings.iter().map(|(buyer, held)| (buyer.clone(), held.clone()));
    holdings.collect()
}

fn counts_of(buyers: &[BuyerHoldings]) -> HoldingCounts {
    let mut counts = HoldingCounts::default();
    for (_, held) in buyers {
        counts.add(held);
    }
    counts
}

/// The keys of an index in force. INSTALL deletes the counts.
fn uncounted(index: &Index) -> WrittenHoldings {
    WrittenHoldings {
        holdings: index.holdings.clone(),
        ..WrittenHoldings::default()
    }
}
