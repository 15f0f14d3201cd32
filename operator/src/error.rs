//! What can go wrong with a look at a sale.
use seckill_ledger::LedgerError;
use seckill_order_log::LogError;
use seckill_stock::StockError;

use crate::plan::Reason;
use crate::rebuild::RebuildError;

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Stock(#[from] StockError),
    #[error("the index can't be rebuilt: {0}")]
    Rebuild(#[from] RebuildError),
    #[error("Kubernetes: {0}")]
    Kube(#[from] kube::Error),
}

/// Why a sale does not get on, for its readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub reason: Reason,
    pub message: String,
}

impl OperatorError {
    /// For metrics: few values.
    pub fn label(&self) -> &'static str {
        match self {
            OperatorError::Ledger(_) | OperatorError::Rebuild(RebuildError::Ledger(_)) => "ledger",
            OperatorError::Log(_) | OperatorError::Rebuild(RebuildError::Log(_)) => "log",
            OperatorError::Stock(_) | OperatorError::Rebuild(RebuildError::Stock(_)) => "stock",
            OperatorError::Rebuild(_) => "rebuild",
            OperatorError::Kube(_) => "kubernetes",
        }
    }

    /// `None`: it is nothing that a reader has to know, or they can't be told.
    pub fn trouble(&self) -> Option<Trouble> {
        let reason = match self {
            OperatorError::Ledger(_) | OperatorError::Rebuild(RebuildError::Ledger(_)) => Reason::LedgerUnavailable,
            OperatorError::Log(_) | OperatorError::Rebuild(RebuildError::Log(_)) => Reason::LogUnavailable,
            OperatorError::Stock(_) | OperatorError::Rebuild(RebuildError::Stock(_)) => Reason::RedisUnavailable,
            OperatorError::Rebuild(
                RebuildError::BarrierLost(_) | RebuildError::LogReplaced { .. } | RebuildError::LedgerAhead { .. },
            ) => Reason::LogReplaced,
            OperatorError::Rebuild(RebuildError::Oversold { .. }) => Reason::Oversold,
            // Another coordinator was quicker, or Redis began a new life meanwhile: the next look sorts it out.
            OperatorError::Rebuild(RebuildError::Refused(_) | RebuildError::Ended) | OperatorError::Kube(_) => {
                return None;
            }
        };
        Some(Trouble {
            reason,
            message: self.to_string(),
        })
    }
}
