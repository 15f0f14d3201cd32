//! Runs migrations and checks that they were applied.
use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions, Connection};

use crate::connection::{Ledger, connect_options};
use crate::error::LedgerError;

const NO_SUCH_TABLE: &str = "42S02";

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// The schema version that this program needs.
fn required_version() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or_default()
}

/// Applies missing migrations and returns the version of the schema. Several processes may call it at once; one of them
/// does the work.
pub async fn migrate(url: &str) -> Result<i64, LedgerError> {
    let mut connection = connect_options(url)?.connect().await?;
    let migrator = Migrator {
        // A newer release has migrated before. Its changes are compatible with this one.
        ignore_missing: true,
        ..Migrator::with_migrations(MIGRATOR.iter().cloned().collect())
    };
    migrator.run(&mut connection).await?;
    connection.close().await?;
    Ok(required_version())
}

impl Ledger {
    /// Checks that the migrations of this version were applied. A newer schema is accepted.
    pub async fn check_schema(&self) -> Result<(), LedgerError> {
        let wanted = required_version();
        let found = self
            .query(async |connection| {
                let found: Result<Option<i64>, sqlx::Error> =
                    sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations WHERE success")
                        .fetch_one(connection)
                        .await;
                match found {
                    Ok(found) => Ok(found.unwrap_or_default()),
                    Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some(NO_SUCH_TABLE) => Ok(0),
                    Err(e) => Err(e.into()),
                }
            })
            .await?;
        if found >= wanted {
            Ok(())
        } else {
            Err(LedgerError::SchemaBehind { found, wanted })
        }
    }

    /// Checks that the server accepts writes. A replica, or a server that is read-only for an upgrade, refuses even an
    /// update that changes no row.
    pub async fn check_writable(&self) -> Result<(), LedgerError> {
        self.query(async |connection| {
            let no_change = sqlx::query("UPDATE sales SET version = version WHERE id = 0");
            match no_change.execute(connection).await {
                Ok(_) => Ok(()),
                Err(sqlx::Error::Database(error)) => Err(LedgerError::NotWritable(error.message().to_owned())),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}
