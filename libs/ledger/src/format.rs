//! The format that the ledger requires, and the heartbeats of the programs that run.
//!
//! A sale that needs a newer format than the ledger requires is created, or changed so before it is preheated, if every
//! heartbeat of the last 30 s speaks it. The transaction that writes its row raises the required format, with the row of
//! that locked. The heartbeats keep a rolling upgrade from shutting out the pods that are not upgraded yet. They are not
//! needed for safety: a program that starts just then, or whose heartbeats do not arrive, is missed, and refuses to act by
//! itself:
//!
//! - Every read of a sale has the required format as well, so a program that is too old learns of no sale that it does not
//!   understand. What it learned before the raise is older than that sale, or than its first index.
//! - order-worker reads the required format in the statement that moves the position. What it has read of the log by then
//!   was written before, so it has nothing in a format that a later raise allows.
//!
//! A program writes its first heartbeat before it reads a sale. So it either is counted, or reads what was raised.
use seckill_protocol::Format;
use seckill_protocol::format::{Heartbeat, check};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{MySqlConnection, Row};

use crate::connection::Ledger;
use crate::error::LedgerError;

/// The required format as part of another query. The table has one row; without it nothing was ever raised.
macro_rules! required_format {
    () => {
        "(SELECT COALESCE(MAX(format), 1) FROM required_format)"
    };
}
pub(crate) use required_format;

/// A program without a heartbeat for this long does not run any more.
macro_rules! heartbeat_valid {
    () => {
        "INTERVAL 30 SECOND"
    };
}

const NO_SUCH_TABLE: u16 = 1146;

/// Which formats are required and spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formats {
    pub required: Format,
    /// The heartbeats of the programs that run.
    pub running: Vec<Heartbeat>,
}

impl Ledger {
    /// An error if the ledger requires a format that this program does not speak.
    pub async fn check_format(&self) -> Result<(), LedgerError> {
        let required = self.query(async |connection| required(connection).await).await?;
        Ok(check(required, self.spoken)?)
    }

    /// Like [`Self::check_format`]; a ledger without the migrations for formats requires none.
    pub async fn check_format_of_any_schema(&self) -> Result<(), LedgerError> {
        match self.check_format().await {
            Err(LedgerError::Database(sqlx::Error::Database(error)))
                if error
                    .try_downcast_ref::<MySqlDatabaseError>()
                    .is_some_and(|error| error.number() == NO_SUCH_TABLE) =>
            {
                Ok(())
            }
            checked => checked,
        }
    }

    /// An error if this program does not speak the required format.
    pub async fn formats(&self) -> Result<Formats, LedgerError> {
        let formats = self.query(async |connection| formats(connection).await).await?;
        check(formats.required, self.spoken)?;
        Ok(formats)
    }

    /// Writes that this program runs.
    pub async fn beat(&self, program: &str, instance: &str) -> Result<(), LedgerError> {
        self.query(async |connection| {
            sqlx::query(
                "INSERT INTO heartbeats (program, instance, format, at) VALUES (?, ?, ?, UTC_TIMESTAMP(3)) \
                 ON DUPLICATE KEY UPDATE format = ?, at = UTC_TIMESTAMP(3)",
            )
            .bind(program)
            .bind(instance)
            .bind(self.spoken.0)
            .bind(self.spoken.0)
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }

    /// Deletes the heartbeat of a program that stops.
    pub async fn end_heartbeat(&self, program: &str, instance: &str) -> Result<(), LedgerError> {
        self.query(async |connection| {
            let query = sqlx::query("DELETE FROM heartbeats WHERE program = ? AND instance = ?");
            query.bind(program).bind(instance).execute(connection).await?;
            Ok(())
        })
        .await
    }

    /// Deletes heartbeats that are older than a day, of pods that were killed.
    pub async fn delete_old_heartbeats(&self) -> Result<(), LedgerError> {
        self.query(async |connection| {
            sqlx::query("DELETE FROM heartbeats WHERE at < UTC_TIMESTAMP(3) - INTERVAL 1 DAY")
                .execute(connection)
                .await?;
            Ok(())
        })
        .await
    }
}

async fn required(connection: &mut MySqlConnection) -> Result<Format, LedgerError> {
    let query = sqlx::query_scalar(concat!("SELECT CAST(", required_format!(), " AS UNSIGNED)"));
    let format: u64 = query.fetch_one(connection).await?;
    Ok(Format(u16::try_from(format).unwrap_or(u16::MAX)))
}

/// An error if the ledger requires a format that this program does not speak.
pub(crate) async fn check_now(connection: &mut MySqlConnection, spoken: Format) -> Result<(), LedgerError> {
    Ok(check(required(connection).await?, spoken)?)
}

async fn formats(connection: &mut MySqlConnection) -> Result<Formats, LedgerError> {
    let required = required(connection).await?;
    let query = sqlx::query(concat!(
        "SELECT program, instance, format FROM heartbeats WHERE at > UTC_TIMESTAMP(3) - ",
        heartbeat_valid!(),
        " ORDER BY program, instance"
    ));
    let mut running = Vec::new();
    for row in query.fetch_all(connection).await? {
        running.push(Heartbeat {
            program: row.try_get("program")?,
            instance: row.try_get("instance")?,
            format: Format(row.try_get("format")?),
        });
    }
    Ok(Formats { required, running })
}

/// Locks the required format until the end of the transaction, and returns what it becomes by a sale that needs this one.
pub(crate) async fn raise_for(
    connection: &mut MySqlConnection,
    needed: Format,
    spoken: Format,
) -> Result<Raise, LedgerError> {
    // Its own sale must not shut out the operator that creates it.
    check(needed, spoken)?;
    sqlx::query("SELECT format FROM required_format FOR UPDATE")
        .execute(&mut *connection)
        .await?;
    let Formats { required, running } = formats(connection).await?;
    check(required, spoken)?;
    let to = seckill_protocol::format::raise(required, needed, &running)?;
    Ok(Raise { from: required, to })
}

/// A change of the required format.
pub(crate) struct Raise {
    from: Format,
    to: Format,
}

impl Raise {
    pub(crate) async fn write(&self, connection: &mut MySqlConnection) -> Result<(), LedgerError> {
        if self.to > self.from {
            raise_to(connection, self.to).await?;
            tracing::info!(from = %self.from, to = %self.to, "raising the format that the ledger requires");
        }
        Ok(())
    }
}

/// Never lowers it.
pub(crate) async fn raise_to(connection: &mut MySqlConnection, format: Format) -> Result<(), LedgerError> {
    let raise = sqlx::query(
        "INSERT INTO required_format (id, format) VALUES (1, ?) ON DUPLICATE KEY UPDATE format = GREATEST(format, ?)",
    );
    raise.bind(format.0).bind(format.0).execute(connection).await?;
    Ok(())
}
