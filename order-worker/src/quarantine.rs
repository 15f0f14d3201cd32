//! `order-worker quarantine`: shows, replays and dismisses records that could not be folded.
use std::io::Write;

use anyhow::Context;
use seckill_ledger::{Ledger, QuarantinedRecord};

use crate::args::{QuarantineArgs, QuarantineCommand, QuarantinedAt};

/// Limit of one list.
const MAX_LISTED: u32 = 1000;

pub async fn quarantine(args: QuarantineArgs) -> anyhow::Result<()> {
    let ledger = Ledger::connect(&args.mysql.expose(), 1)
        .await
        .context("connecting to MySQL")?;
    ledger.check_schema().await?;
    let mut out = std::io::stdout().lock();
    match args.command {
        QuarantineCommand::List => {
            let records = ledger.quarantined(MAX_LISTED).await?;
            if records.is_empty() {
                writeln!(out, "The quarantine is empty.")?;
                return Ok(());
            }
            writeln!(
                out,
                "{:>9} {:>12}  {:<10} {:>6}  REASON",
                "PARTITION", "OFFSET", "SALE", "ORDERS"
            )?;
            for record in &records {
                writeln!(out, "{}", line(record))?;
            }
            if records.len() == MAX_LISTED as usize {
                writeln!(out, "... only the first {MAX_LISTED} records are listed")?;
            }
        }
        QuarantineCommand::Show(QuarantinedAt { partition, offset }) => {
            let records = ledger.quarantined(MAX_LISTED).await?;
            let record = records.iter().find(|r| (r.partition, r.offset) == (partition, offset));
            let record = record.with_context(|| {
                format!(
                    "no quarantined record at partition {partition}, offset {offset}; see order-worker quarantine list"
                )
            })?;
            writeln!(out, "{}", record.reason)?;
            writeln!(out, "{}", String::from_utf8_lossy(&record.payload))?;
        }
        QuarantineCommand::Replay(QuarantinedAt { partition, offset }) => {
            let stored = ledger.replay(partition, offset).await?;
            writeln!(
                out,
                "Replayed: {} new orders, {} already stored.",
                stored.orders, stored.duplicates
            )?;
        }
        QuarantineCommand::Dismiss(QuarantinedAt { partition, offset }) => {
            ledger.dismiss(partition, offset).await?;
            writeln!(out, "Dismissed. The log still holds the record.")?;
        }
    }
    Ok(())
}

fn line(record: &QuarantinedRecord) -> String {
    let (sale, orders) = match record.promised {
        Some((sale, first, last)) => (sale.to_string(), (last + 1 - first).to_string()),
        None => ("-".to_owned(), "0".to_owned()),
    };
    format!(
        "{:>9} {:>12}  {sale:<10} {orders:>6}  {}",
        record.partition, record.offset, record.reason
    )
}
