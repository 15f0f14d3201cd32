//! Whether this operator speaks the format that the ledger requires. Each read of a sale checks that; here it is checked for
//! the process as a whole, so that its readiness says it and another operator can lead.
use std::time::Duration;

use seckill_ledger::{Format, Ledger, LedgerError, NotSpoken};
use seckill_service::config::MysqlArgs;
use seckill_service::health::Gate;
use seckill_service::{FailureLog, periodic};
use tokio::sync::watch;

use crate::args::CheckFormatArgs;
use crate::context::Connections;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the heartbeats of pods that were killed are deleted.
const DELETE_INTERVAL: Duration = Duration::from_secs(3600);
/// How long a leader that is too old reports that in the statuses of the FlashSales, before it lets another one lead.
const REPORT_TIME: Duration = Duration::from_secs(10);

/// Whether this operator is too old for the ledger.
pub type TooOld = watch::Receiver<Option<NotSpoken>>;

/// Checks the format until the process ends. What can't be read stays as it was.
pub async fn watch_format(connections: Connections, gate: Gate, too_old: watch::Sender<Option<NotSpoken>>) {
    let (mut checks, mut deletions) = (periodic(CHECK_INTERVAL), periodic(DELETE_INTERVAL));
    let mut failures = FailureLog::first_only();
    loop {
        tokio::select! {
            _ = checks.tick() => check(&connections, &gate, &too_old).await,
            _ = deletions.tick() => {
                if let Ok(ledger) = connections.ledger() {
                    failures.note("deleting old heartbeats", ledger.delete_old_heartbeats().await);
                }
            }
        }
    }
}

async fn check(connections: &Connections, gate: &Gate, too_old: &watch::Sender<Option<NotSpoken>>) {
    let Ok(ledger) = connections.ledger() else { return };
    let now = match ledger.check_format().await {
        Ok(()) => {
            gate.ready();
            None
        }
        Err(LedgerError::NotSpoken(not_spoken)) => {
            gate.not_ready(not_spoken.to_string());
            Some(not_spoken)
        }
        Err(_) => return,
    };
    if too_old.send_replace(now) != now {
        match now {
            Some(not_spoken) => tracing::error!("{not_spoken}"),
            None => tracing::info!("this program speaks the format that the ledger requires"),
        }
    }
}

/// Returns when a leader has been too old for so long that the FlashSales say so.
pub async fn stand_down(mut too_old: TooOld) {
    loop {
        if too_old.wait_for(Option::is_some).await.is_err() {
            return std::future::pending().await;
        }
        let speaks = too_old.wait_for(Option::is_none);
        if tokio::time::timeout(REPORT_TIME, speaks).await.is_err() {
            tracing::warn!("standing down, so that a newer operator can lead");
            return;
        }
    }
}

/// The subcommand: an error if the ledger requires a format that this version does not speak.
pub async fn check_format(args: CheckFormatArgs) -> anyhow::Result<()> {
    let CheckFormatArgs {
        mysql,
        format,
        timeout_seconds,
    } = args;
    let limit = Duration::from_secs(timeout_seconds);
    let mut failure = "no answer".to_owned();
    let checked = tokio::time::timeout(limit, check_until_known(&mysql, format.spoken_format, &mut failure)).await;
    checked.unwrap_or_else(|_| {
        anyhow::bail!("SECKILL_MYSQL_URL: the required format is still unknown after {timeout_seconds} s: {failure}")
    })
}

/// Tries until MySQL answers.
async fn check_until_known(mysql: &MysqlArgs, spoken: Format, failure: &mut String) -> anyhow::Result<()> {
    loop {
        let checked = async {
            let ledger = Ledger::connect(&mysql.expose(), 1).await?;
            ledger.speaking(spoken).check_format_of_any_schema().await
        };
        match checked.await {
            Ok(()) => {
                println!("this version speaks format {spoken}, and the ledger requires no newer one");
                return Ok(());
            }
            Err(LedgerError::NotSpoken(not_spoken)) => anyhow::bail!("{not_spoken}"),
            Err(error) => *failure = error.to_string(),
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
