//! What the readers of a FlashSale are told. docs/operator.md explains each reason.
use seckill_protocol::index::Millis;
use strum::IntoStaticStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr)]
pub enum ConditionType {
    Accepted,
    Preflight,
    StockPreheated,
    WorkloadsScaled,
    /// Stock, pods and preflight: whether the sale can open as intended.
    Prepared,
    /// Whether buyers can buy now.
    Sellable,
    /// Whether everything that the current phase needs is there.
    Ready,
    LedgerBalanced,
    Settled,
    Reconciling,
    Stalled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
pub enum Reason {
    Accepted,
    Invalid,
    Adopted,
    NameUsed,
    OtherCluster,
    LedgerBehind,
    NewerFormatNeeded,
    UnknownFields,
    IdentityMismatch,
    NotYetDue,
    Scheduled,
    Passed,
    ProblemsFound,
    NotChecked,
    Checking,
    Preheating,
    Preheated,
    LedgerUnavailable,
    LogUnavailable,
    RedisUnavailable,
    LogReplaced,
    Oversold,
    Scaling,
    Scaled,
    CeilingReached,
    LeftToAutoscaler,
    NotManaged,
    ClusterUnknown,
    ClocksDiffer,
    StockMissing,
    WorkloadsMissing,
    ReadyToSell,
    Selling,
    SoldOut,
    OrdersExhausted,
    Suspended,
    EmergencyStop,
    HeldByPreflight,
    Ended,
    Balanced,
    InFlight,
    Imbalanced,
    ComparedWithoutIndex,
    NothingCounted,
    Running,
    Draining,
    Closing,
    Settled,
    Progressing,
    UpToDate,
}

/// Where a sale is in its life: a summary of the conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub enum Phase {
    Scheduled,
    Preheating,
    Ready,
    Open,
    SoldOut,
    Suspended,
    Ended,
    Settled,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub type_: ConditionType,
    pub status: ConditionStatus,
    pub reason: Reason,
    pub message: String,
}

impl Condition {
    pub fn new(type_: ConditionType, status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Self {
        Condition {
            type_,
            status,
            reason,
            message: message.into(),
        }
    }
}

/// The part of a FlashSale's status that a plan decides.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusReport {
    /// `None`: the FlashSale is refused.
    pub phase: Option<Phase>,
    /// Of a FlashSale that is refused: the sale that its last phase describes is still its own. The rules of the API server
    /// about edits and deletions read the phase.
    pub keeps_phase: bool,
    pub conditions: Vec<Condition>,
    /// Becomes the conditions `Reconciling` and `Stalled`.
    pub progress: Progress,
    /// When the phase changes next without anybody's action.
    pub next_transition_at: Option<Millis>,
}

impl StatusReport {
    pub fn condition(&self, type_: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }
}

/// Why the last reconciles of a sale failed, for its readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    pub reason: Reason,
    pub message: String,
}

/// Whether the operator has work to do for a sale, or is kept from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Everything that the current phase needs is done.
    UpToDate,
    Working {
        reason: Reason,
        message: String,
    },
    /// Something keeps the operator from the next step. It may pass by itself.
    Blocked {
        reason: Reason,
        message: String,
    },
    /// Nothing goes on until a person acts.
    Stopped {
        reason: Reason,
        message: String,
    },
}

impl Progress {
    /// Why reconciles fail.
    pub fn of(blocker: &Blocker) -> Self {
        let Blocker { reason, message } = blocker.clone();
        match reason {
            Reason::LogReplaced | Reason::Oversold | Reason::IdentityMismatch => Progress::Stopped { reason, message },
            _ => Progress::Blocked { reason, message },
        }
    }

    /// Of a sale that is not up to date.
    pub fn reason(&self) -> Option<(Reason, &str)> {
        match self {
            Progress::UpToDate => None,
            Progress::Working { reason, message }
            | Progress::Blocked { reason, message }
            | Progress::Stopped { reason, message } => Some((*reason, message)),
        }
    }
}
