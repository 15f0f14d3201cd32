//! Migrations, and the check that they were applied.
use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions, Connection};

use crate::connection::{Ledger, connect_options};
use crate::error::LedgerError;

const NO_SUCH_TABLE: &str = "42S02";

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// The schema version that this program needs.
fn wanted() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or_default()
}

/// Applies what is missing and returns the version that the schema has then. Several may run at once, one works.
pub async fn migrate(url: &str) -> Result<i64, LedgerError> {
    let mut connection = connect_options(url)?.connect().await?;
    let migrator = Migrator {
        // A newer release was here before; its changes are such that this one can live with them.
        ignore_missing: true,
        ..Migrator::with_migrations(MIGRATOR.iter().cloned().collect())
    };
    migrator.run(&mut connection).await?;
    connection.close().await?;
    Ok(wanted())
}

impl Ledger {
    /// Says whether the migrations that this program needs were applied. A newer schema is fine.
    pub async fn check_schema(&self) -> Result<(), LedgerError> {
        let wanted = wanted();
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

    /// Says whether the server takes what is written: a server that is a replica, or read-only for an upgrade, refuses
    /// also what changes nothing.
    pub async fn check_writable(&self) -> Result<(), LedgerError> {
        self.query(async |connection| {
            let nothing = sqlx::query("UPDATE sales SET version = version WHERE id = 0");
            match nothing.execute(connection).await {
                Ok(_) => Ok(()),
                Err(sqlx::Error::Database(error)) => Err(LedgerError::NotWritable(error.message().to_owned())),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}
