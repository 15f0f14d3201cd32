use seckill_protocol::admission::Stop;
use seckill_protocol::format::{NotSpoken, TooOld};
use seckill_protocol::{Offset, SaleId};
use sqlx::mysql::MySqlDatabaseError;

use crate::diagnosis::ConnectStep;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("MySQL: {0}")]
    Database(#[from] sqlx::Error),
    /// Without the text of the driver, which repeats a value.
    #[error(
        "the URL of MySQL has an invalid parameter: ssl-mode is DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY"
    )]
    Url,
    /// The query may have run.
    #[error("MySQL: no answer within {0} s")]
    TimedOut(u64),
    #[error("MySQL at {address}: not connected within {seconds} s: {step}")]
    ConnectTimedOut {
        address: String,
        seconds: u64,
        step: ConnectStep,
    },
    #[error("waiting for migration {wanted}, found {found}: run order-worker migrate")]
    SchemaBehind { found: i64, wanted: i64 },
    /// The server answers and refuses writes.
    #[error("{0}")]
    NotWritable(String),
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Another program or a newer version wrote into the tables.
    #[error("column {column} holds {value:?}, which this version never writes")]
    Content { column: &'static str, value: String },
    #[error("no sale {0} in the ledger")]
    NoSale(SaleId),
    #[error("another writer changed total or sold of sale {0} while its orders were stored")]
    SaleChanged(SaleId),
    #[error("no free sale id found in {0} random draws")]
    NoFreeId(u32),
    #[error(transparent)]
    NotSpoken(#[from] NotSpoken),
    #[error(transparent)]
    TooOld(#[from] TooOld),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process stored for this partition, or an earlier call with an unknown outcome did.
    #[error("the position of partition {partition} is no longer {from}: read it again")]
    PositionMoved { partition: u32, from: Offset },
    /// Everything before `offset` is stored. Nothing is stored from there on until a person has removed the cause.
    #[error("partition {partition} stops at offset {offset}: {stop}")]
    Stopped { partition: u32, offset: Offset, stop: Stop },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::Ledger(error.into())
    }
}

/// Whether and how to retry after a failure of MySQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Retry {
    /// A deadlock or a lock timeout: run the whole transaction again.
    AtOnce,
    /// The server refuses the content and will refuse it again.
    Refused(String),
    /// Any other failure: the server is away, full or read-only.
    Later,
}

const LOCK_WAIT_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;

impl Retry {
    pub(crate) fn of(error: &LedgerError) -> Self {
        let LedgerError::Database(sqlx::Error::Database(error)) = error else {
            return Retry::Later;
        };
        let number = error
            .try_downcast_ref::<MySqlDatabaseError>()
            .map(MySqlDatabaseError::number);
        if matches!(number, Some(LOCK_WAIT_TIMEOUT | DEADLOCK)) {
            return Retry::AtOnce;
        }
        // Data exceptions, violated constraints, and what a trigger raises.
        let class = error.code().map(|state| state.chars().take(2).collect::<String>());
        let refused = matches!(class.as_deref(), Some("22" | "23" | "45"))
            || !matches!(error.kind(), sqlx::error::ErrorKind::Other);
        if refused {
            Retry::Refused(error.message().to_string())
        } else {
            Retry::Later
        }
    }
}
