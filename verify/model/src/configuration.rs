//! The size of the modelled system, what may happen in it, and which rules are broken.
use std::fmt;

use seckill_protocol::Quantity;
use seckill_protocol::index::SaleState;

use crate::tier_plan::TierPlan;

/// A rule of the protocol. A configuration that breaks one must be refuted. Otherwise the rule is not needed, or the model
/// does not cover its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A number is given out only after its record was published, not when the index reserved the unit.
    AnswerAfterPublishing,
    /// A number is given out only after its record was read back. The producer's acknowledgement is not enough.
    AnswerAfterReadBack,
    /// An order that this epoch already has under the key is given out only after its read-back.
    ReplayAfterReadBack,
    /// After a void record the buyer is sent to the index again. Void does not mean "failed".
    VoidIsNotFailed,
    /// The index checks the key before it checks the state of the sale.
    ReplayBeforeState,
    /// A refusal counts only if the log names the epoch of the index that refused.
    RefusalOfTheCurrentEpoch,
    /// After the end "nothing was bought" and the missing row are read in one snapshot.
    EndedFromOneSnapshot,
    /// An API process keeps the keys of all orders only after the ledger has folded CLOSE.
    KeysKeptAfterClose,
    /// ... and reads them in the snapshot in which it sees CLOSE.
    KeysFromOneSnapshot,

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
    /// The fold continues from the ledger's position to the barrier.
    FoldToTheBarrier,
    /// A rebuilt index holds cancelled orders too.
    RebuildKeepsCancelled,
    /// A coordinator uses its own barrier only.
    OwnBarrier,
    /// INSTALL refuses an epoch that is not newer than the one in force.
    InstallNewerOnly,
    /// R3 applies the changes that the log makes to orders of the ledger.
    DeltaChangesStored,
    /// R3 reads the orders of the ledger in the snapshot that gave R2 its position.
    OrdersOfTheSnapshot,
    /// R3 writes each buyer once, with all orders.
    BuyersWrittenWhole,
    /// INSTALL counts the buyers in the written index.
    InstallCountsHolders,
    /// INSTALL counts the orders and the units that R3 wrote.
    InstallCountsOrders,
    /// INSTALL runs at most once for an epoch.
    InstallOnce,
    /// APPLY refuses terms that are not newer.
    ApplyNewerOnly,
    /// R5 publishes the epoch only if APPLY found its index.
    TermsReachTheIndex,
    /// `live_epoch` only rises.
    LiveEpochOnlyRises,
    /// R0 checks whether a barrier is newer than the index.
    NeedSeesBarrier,
    /// R0 checks whether the index was published.
    NeedSeesLiveEpoch,
    /// R0 does so also after the end.
    NeedSeesLiveEpochAfterTheEnd,

    /// Pending stock adjustments are rows, written with the position.
    AdjustmentsAreRows,
    /// Adjustments are applied after the commit.
    AdjustmentsAfterCommit,
    /// An adjustment is fenced by the replication id.
    AdjustmentFence,
    /// An adjustment waits for an index that has reached its offset in the log.
    AdjustmentWaitsForEpoch,
    /// RETURN compares the epoch too.
    ReturnByEpochAndSeq,
    /// RETURN marks the holding.
    ReturnMarks,
    /// The adjustments of a sale are applied in the order of the log.
    AdjustmentsInOrder,
    /// Every CANCEL before CLOSE leaves an adjustment, also one that changes nothing.
    EveryCancelIsARow,

    /// Cancelled orders stay in the count of orders ever made.
    CancelledOrdersCount,
    /// A rebuilt index continues the count of orders ever made.
    RebuildCountsOrders,
    /// The bound on orders is that of the index, not one that the API process brings along.
    BoundInTheIndex,
    /// The limit is that of a buyer, not of a key.
    LimitByBuyer,

    /// A tier has a limit of its own: that of the buyer's present token.
    LimitOfTheTier,
    /// A tier opens at an instant of its own.
    OpeningOfTheTier,
    /// A reserve keeps units from the others.
    ReserveKeeps,
    /// After its release a reserve keeps nothing.
    ReleaseEndsReserve,
    /// A retry publishes the tier of the holding, not that of the token.
    TierOfTheHolding,
    /// ... and the quantity of the holding, not that of the request.
    QuantityOfTheHolding,
    /// A purchase counts for the reserve of its tier.
    PurchaseRaisesTaken,
    /// A returned unit no longer counts for the reserve of its tier.
    ReturnLowersTaken,
    /// A rebuilt index continues the count of each tier's live units.
    RebuildCountsTaken,
    /// A rebuilt index holds the tier of each order.
    RebuildKeepsTier,
    /// INSTALL has the terms of the tiers.
    InstallHasTiers,

    /// CLOSE waits until the ledger has the outbox.
    CloseAfterOutbox,
    /// An index has the newest terms before it is published.
    TermsBeforePublication,
    /// If the ledger lost terms that the index has, the next terms get a higher version.
    TermsOutnumberTheIndex,
    /// The settlement waits until no stock adjustment is pending.
    SettledWithoutPendingAdjustments,
    /// The settlement counts units in flight that missed CLOSE.
    SettledWithInFlight,
    /// The settlement compares with the units that were live at the offset of CLOSE.
    SettledAsOfClose,

    /// The worker's transaction compares the position with the one it read from.
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
    /// The most units a buyer may hold. With tiers: a general buyer.
    pub limit: Quantity,
    /// The units that an order may have.
    pub quantities: &'static [Quantity],
    /// `None`: the sale has no tiers, and time has no influence.
    pub tiers: Option<TierPlan>,
    /// The most orders ever made; 0 = no bound.
    pub orders_ever_max: u64,
    pub apis: usize,
    pub coordinators: usize,
    /// The most records in the log. The first two are there at the beginning: the total and the first barrier.
    pub log: usize,
    /// The most barriers after the first.
    pub barriers: usize,
    /// How many late copies of a record may be appended.
    pub copies: usize,
    /// The most batches that an API process holds.
    pub pending: usize,
    /// The most requests in one script call.
    pub batch: usize,
    /// How often Redis restarts, fails over or is flushed.
    pub redis_losses: u8,
    /// A failover leaves the old primary alive, and API processes and the worker may reach it.
    pub split_brain: bool,
    /// Coordinators may reach the old primary too.
    pub coordinators_reach_old: bool,
    /// All clients may be sent back to the old primary.
    pub flip_back: bool,
    /// A restart or a failover may find data from any earlier time, and API processes may reach a replica that lags.
    /// Otherwise a failover finds the newest data.
    pub redis_lags: bool,
    /// The most CANCEL records.
    pub cancels: usize,
    /// TOTAL records, in this order except for late copies.
    pub totals: &'static [u64],
    /// The states of the FlashSale after [`SaleState::Open`], one after the other.
    pub desired_states: &'static [SaleState],
    /// How often MySQL fails over and loses its tail.
    pub mysql_losses: u8,
    /// Refusals are checked.
    pub refusals: bool,
    /// An API process keeps the keys of all orders after the end, and refuses all others from memory.
    pub keys_kept: bool,
    /// Coordinators may die.
    pub deaths: bool,
    /// Coordinators may rebuild without need.
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
        quantities: &[1],
        tiers: None,
        orders_ever_max: 0,
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
        desired_states: &[],
        mysql_losses: 0,
        refusals: false,
        keys_kept: false,
        deaths: true,
        needless: false,
        broken: &[],
    };

    pub fn breaks(&self, rule: Rule) -> bool {
        self.broken.contains(&rule)
    }

    /// Whether the way of R3 is broken, so that what it writes has to be computed again from the ledger's position.
    pub fn breaks_writing(&self) -> bool {
        let rules = [
            Rule::DeltaChangesStored,
            Rule::OrdersOfTheSnapshot,
            Rule::BuyersWrittenWhole,
        ];
        rules.into_iter().any(|rule| self.breaks(rule))
    }

    /// Whether the terms of the sale ever change.
    pub fn terms_change(&self) -> bool {
        !self.desired_states.is_empty()
    }

    /// Whether the worker reads one record at a time. If its position has no influence, it reads to the end at once.
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
        count(usize::from(self.tiers.is_some()), "tier", "tiers");
        if self.keys > 1 {
            count(usize::from(self.keys), "key each", "keys each");
        }
        if self.quantities.len() > 1 {
            count(self.quantities.len(), "quantity", "quantities");
        }
        count(self.orders_ever_max as usize, "order at most", "orders at most");
        count(self.apis, "API", "APIs");
        count(self.coordinators, "coordinator", "coordinators");
        count(self.log, "record", "records");
        count(self.barriers, "rebuild", "rebuilds");
        count(usize::from(self.redis_losses), "loss of Redis", "losses of Redis");
        count(usize::from(self.mysql_losses), "loss of MySQL", "losses of MySQL");
        count(self.cancels, "cancel", "cancels");
        count(self.totals.len(), "new total", "new totals");
        count(
            self.desired_states.len(),
            "change of the FlashSale",
            "changes of the FlashSale",
        );
        count(self.copies, "late copy", "late copies");
        f.write_str(&parts.join(", "))
    }
}
