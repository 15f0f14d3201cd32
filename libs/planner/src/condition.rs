//! What the readers of a FlashSale are told. docs/operator.md explains each reason.
use seckill_protocol::index::Millis;
use strum::IntoStaticStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr)]
pub enum ConditionType {
    Accepted,
    Preflight,
    StockPreheated,
    WorkloadsScaled,
    Ready,
    LedgerBalanced,
    Settled,
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
    /// `None`: the sale is not accepted, so it has no phase.
    pub phase: Option<Phase>,
    pub conditions: Vec<Condition>,
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
