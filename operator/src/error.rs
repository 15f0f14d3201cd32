//! Why a reconcile fails.
use seckill_ledger::LedgerError;
use seckill_order_log::LogError;
use seckill_planner::Reason;
use seckill_planner::condition::Blocker;
use seckill_planner::observation::cannot_install;
use seckill_protocol::install::InstallRefused;
use seckill_protocol::{Epoch, InvalidIdentity, SaleId};
use seckill_service::connect::NotConnected;
use seckill_stock::StockError;

/// A server of a sale's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Mysql,
    Kafka,
    Redis,
}

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("not connected yet: {why}")]
    NotConnected { server: Server, why: NotConnected },
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Stock(#[from] StockError),
    #[error("failed to rebuild the index: {0}")]
    Rebuild(#[from] RebuildError),
    #[error(
        "the log has records of sale {0} that order-worker has not read; the offer is changed after that, if it still can be"
    )]
    Unread(SaleId),
    #[error("Kubernetes: {0}")]
    Kube(#[from] kube::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Stock(#[from] StockError),
    #[error("the barrier at offset {0} is gone: the order log was replaced or truncated; restore it before selling")]
    BarrierLost(i64),
    #[error(
        "the new epoch {new} is not greater than epoch {live}, under which the sale sold: the order log was replaced or \
         truncated; restore it before selling"
    )]
    LogReplaced { new: Epoch, live: Epoch },
    #[error(
        "the ledger has read its partition up to offset {position} without meeting the new epoch {new}: the order log was \
         replaced or truncated; restore it before selling"
    )]
    LedgerAhead { new: Epoch, position: i64 },
    #[error(
        "the ledger, read up to offset {position}, is more than {most} orders behind the order log; waiting for order-worker"
    )]
    LedgerBehind { position: i64, most: usize },
    #[error(
        "sale {sale} can't begin: the log has sale {other} under the same name, which MySQL has lost; order-worker stops at \
         its record and its log says what to do"
    )]
    NameTaken { sale: SaleId, other: SaleId },
    #[error("the row of the sale can't be written to the log: {0}")]
    Identity(#[from] InvalidIdentity),
    #[error("{sold} units are sold, but only {total} are offered; selling stays stopped until someone investigates")]
    Oversold { sold: u64, total: u64 },
    /// No barrier was appended, or its index was not installed.
    #[error("{}", cannot_install(*.0))]
    NoServer(InstallRefused),
    #[error("Redis refused the index: {0}; retrying")]
    Refused(String),
    #[error("the sale has ended meanwhile")]
    Ended,
}

impl ReconcileError {
    /// A bounded label for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            ReconcileError::NotConnected { server, .. } => match server {
                Server::Mysql => "ledger",
                Server::Kafka => "log",
                Server::Redis => "stock",
            },
            ReconcileError::Ledger(_)
            | ReconcileError::Unread(_)
            | ReconcileError::Rebuild(RebuildError::Ledger(_)) => "ledger",
            ReconcileError::Log(_) | ReconcileError::Rebuild(RebuildError::Log(_)) => "log",
            ReconcileError::Stock(_) | ReconcileError::Rebuild(RebuildError::Stock(_)) => "stock",
            ReconcileError::Rebuild(_) => "rebuild",
            ReconcileError::Kube(_) => "kubernetes",
        }
    }

    /// What the readers of the FlashSale are told; `None`: nothing that they need to know, or they can't be told.
    pub fn blocker(&self) -> Option<Blocker> {
        let reason = match self {
            ReconcileError::NotConnected { server, .. } => match server {
                Server::Mysql => Reason::LedgerUnavailable,
                Server::Kafka => Reason::LogUnavailable,
                Server::Redis => Reason::RedisUnavailable,
            },
            ReconcileError::Ledger(LedgerError::NotSpoken(_) | LedgerError::TooOld(_)) => Reason::NewerFormatNeeded,
            ReconcileError::Ledger(_)
            | ReconcileError::Unread(_)
            | ReconcileError::Rebuild(RebuildError::Ledger(_) | RebuildError::LedgerBehind { .. }) => {
                Reason::LedgerUnavailable
            }
            ReconcileError::Log(_) | ReconcileError::Rebuild(RebuildError::Log(_)) => Reason::LogUnavailable,
            ReconcileError::Stock(_) | ReconcileError::Rebuild(RebuildError::Stock(_) | RebuildError::NoServer(_)) => {
                Reason::RedisUnavailable
            }
            ReconcileError::Rebuild(
                RebuildError::BarrierLost(_) | RebuildError::LogReplaced { .. } | RebuildError::LedgerAhead { .. },
            ) => Reason::LogReplaced,
            ReconcileError::Rebuild(RebuildError::Oversold { .. }) => Reason::Oversold,
            ReconcileError::Rebuild(RebuildError::NameTaken { .. } | RebuildError::Identity(_)) => {
                Reason::IdentityMismatch
            }
            // Another coordinator was faster, or Redis restarted meanwhile: the next reconcile resolves it.
            ReconcileError::Rebuild(RebuildError::Refused(_) | RebuildError::Ended) | ReconcileError::Kube(_) => {
                return None;
            }
        };
        Some(Blocker {
            reason,
            message: self.to_string(),
        })
    }
}
