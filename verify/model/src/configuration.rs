//! How large the modelled world is, what may happen in it, and which rules are broken in it.
use std::fmt;

use seckill_protocol::index::SaleState;

/// A rule of the protocol. A configuration that breaks one must be refuted: otherwise the rule is not needed, or the
/// model does not see what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A number is told only when its record was published: not when the index took the unit.
    AnswerAfterPublishing,
    /// A number is told only when its record was read back: the producer's acknowledgement is not enough.
    AnswerAfterReadBack,
    /// What this epoch sold under the key before is told only when it was read back.
    ReplayAfterReadBack,
    /// A record that was read as void sends the buyer back to the index; it does not mean "failed".
    VoidIsNotFailed,
    /// The index is asked for the key before its state is looked at.
    ReplayBeforeState,
    /// A refusal counts only if the log names the epoch of the index that refused.
    RefusalOfTheCurrentEpoch,
    /// After the end "nothing was bought" and the missing row are read in one snapshot.
    EndedFromOneSnapshot,

    /// A batch counts only under the latest barrier.
    BarrierEndsEpoch,
    /// ... under exactly that one, not one at or after it.
    EpochEquals,
    /// CLOSE is final.
    CloseIsFinal,
    /// Duplicates are dropped for each order, not for each record.
    DuplicatesByOrder,
    /// Duplicates are dropped against orders of every status.
    DuplicatesOfEveryStatus,
    /// The total only rises.
    TotalOnlyRises,

    /// A purchase is fenced by the replication id.
    PurchaseFence,
    /// A purchase is fenced by the server's role.
    PurchaseRole,
    /// A purchase is fenced by the epoch that its caller knows.
    PurchaseEpoch,
    /// The index is rebuilt from the log, not from what Redis came back with.
    RebuildFromLog,
    /// The fold goes on from the ledger's position to the barrier.
    FoldToTheBarrier,
    /// A rebuilt index holds cancelled orders too.
    RebuildKeepsCancelled,
    /// A coordinator uses its own barrier only.
    OwnBarrier,
    /// INSTALL refuses an epoch that is not newer than the one in force.
    InstallNewerOnly,
    /// INSTALL counts the buyers that it finds.
    InstallCountsHolders,
    /// INSTALL runs at most once for an epoch.
    InstallOnce,
    /// APPLY refuses terms that are not newer.
    ApplyNewerOnly,
    /// R5 tells nobody of the epoch unless APPLY met its index.
    TermsReachTheIndex,
    /// `live_epoch` only rises.
    LiveEpochOnlyRises,
    /// R0 sees that a barrier is newer than the index.
    NeedSeesBarrier,
    /// R0 sees that nobody was told of the index.
    NeedSeesLiveEpoch,

    /// Effects are rows, written with the position.
    EffectsAreRows,
    /// The log first, the index after.
    EffectsAfterCommit,
    /// An effect is fenced by the replication id.
    EffectFence,
    /// An effect waits for an index that has reached its place in the log.
    EffectWaitsForEpoch,
    /// RETURN compares the epoch too.
    ReturnByEpochAndSeq,
    /// RETURN marks the holding.
    ReturnMarks,

    /// CLOSE waits until the ledger has the outbox.
    CloseAfterOutbox,
    /// An index has the newest terms before anybody is told of it.
    TermsBeforePublication,
    /// Terms that the ledger lost and the index did not are outnumbered.
    TermsOutnumberTheIndex,
    /// The settlement waits until nothing is owed to the index.
    SettledWhenNothingIsOwed,
    /// The settlement counts units that were sold too late.
    SettledWithInFlight,
    /// The settlement compares with what was live where CLOSE stands.
    SettledAsOfClose,

    /// The worker's transaction compares the position that it read from.
    PositionCompared,
    /// A reader of the log takes its position and its cuts from one snapshot.
    StartFromOneSnapshot,
}

#[derive(Debug, Clone)]
pub struct Configuration {
    /// Units at the beginning.
    pub total: u64,
    pub buyers: u8,
    /// Idempotency keys that each buyer uses.
    pub keys: u8,
    /// The most units a buyer may hold; each order is of one unit.
    pub limit: u32,
    pub apis: usize,
    pub coordinators: usize,
    /// The most records in the log. The first two are there at the beginning: the total and the first barrier.
    pub log: usize,
    /// The most barriers after the first.
    pub barriers: usize,
    /// How many late copies of a record may land.
    pub copies: usize,
    /// The most batches that an API process holds.
    pub pending: usize,
    /// The most requests in one script call.
    pub batch: usize,
    /// Redis restarts, fails over or is flushed so often.
    pub redis_losses: u8,
    /// A failover leaves the old primary alive, and API processes and the worker may reach it.
    pub split_brain: bool,
    /// Coordinators may reach it too.
    pub coordinators_reach_old: bool,
    /// Everybody may be sent back to the old primary.
    pub flip_back: bool,
    /// A restart or a failover may find data from any earlier time, and API processes may reach a replica that lags;
    /// otherwise a failover finds what was there last.
    pub redis_lags: bool,
    /// The most CANCEL records.
    pub cancels: usize,
    /// TOTAL records, in this order but for late copies.
    pub totals: &'static [u64],
    /// What the FlashSale says after [`SaleState::Open`], one after the other.
    pub wishes: &'static [SaleState],
    /// MySQL fails over and loses its tail so often.
    pub mysql_losses: u8,
    /// Refusals are looked at.
    pub refusals: bool,
    /// Coordinators die.
    pub deaths: bool,
    /// Coordinators rebuild without need.
    pub needless: bool,
    pub broken: &'static [Rule],
}

impl Configuration {
    /// One unit, two buyers, one API process, one coordinator, nothing fails.
    pub const SMALL: Configuration = Configuration {
        total: 1,
        buyers: 2,
        keys: 1,
        limit: 1,
        apis: 1,
        coordinators: 1,
        log: 6,
        barriers: 0,
        copies: 1,
        pending: 1,
        batch: 1,
        redis_losses: 0,
        split_brain: false,
        coordinators_reach_old: false,
        flip_back: false,
        redis_lags: false,
        cancels: 0,
        totals: &[],
        wishes: &[],
        mysql_losses: 0,
        refusals: false,
        deaths: true,
        needless: false,
        broken: &[],
    };

    pub fn breaks(&self, rule: Rule) -> bool {
        self.broken.contains(&rule)
    }

    /// Whether the terms of the sale ever change.
    pub fn terms_change(&self) -> bool {
        !self.wishes.is_empty()
    }

    /// Whether the worker's position matters in itself. If not, it reads to the end at once.
    pub fn worker_steps(&self) -> bool {
        self.cancels > 0 || !self.totals.is_empty() || self.terms_change()
    }
}

impl fmt::Display for Configuration {
    /// The sizes, and what may happen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut count = |n: usize, one: &str, many: &str| match n {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            n => parts.push(format!("{n} {many}")),
        };
        count(self.total as usize, "unit", "units");
        count(usize::from(self.buyers), "buyer", "buyers");
        if self.keys > 1 {
            count(usize::from(self.keys), "key each", "keys each");
        }
        count(self.apis, "API", "APIs");
        count(self.coordinators, "coordinator", "coordinators");
        count(self.log, "record", "records");
        count(self.barriers, "rebuild", "rebuilds");
        count(usize::from(self.redis_losses), "loss of Redis", "losses of Redis");
        count(usize::from(self.mysql_losses), "loss of MySQL", "losses of MySQL");
        count(self.cancels, "cancel", "cancels");
        count(self.totals.len(), "new total", "new totals");
        count(self.wishes.len(), "change of the FlashSale", "changes of the FlashSale");
        count(self.copies, "late copy", "late copies");
        f.write_str(&parts.join(", "))
    }
}
