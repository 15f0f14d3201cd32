//! `order-worker quarantine`: for the person who is told of a record that could not be folded.
use std::io::Write;

use anyhow::Context;
use seckill_ledger::{Ledger, QuarantinedRecord};

use crate::args::{QuarantineArgs, QuarantineCommand, QuarantinedAt};

/// More are not listed at once.
const MOST: u32 = 1000;

pub async fn quarantine(args: QuarantineArgs) -> anyhow::Result<()> {
    let ledger = Ledger::connect(args.mysql.mysql_url.expose(), 1)
        .await
        .context("connecting to MySQL")?;
    ledger.check_schema().await?;
    let mut out = std::io::stdout().lock();
    match args.command {
        QuarantineCommand::List => {
            let records = ledger.quarantined(MOST).await?;
            if records.is_empty() {
                writeln!(out, "Nothing is in quarantine.")?;
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
            if records.len() == MOST as usize {
                writeln!(out, "... and perhaps more: the first {MOST} are listed")?;
            }
        }
        QuarantineCommand::Show(QuarantinedAt { partition, offset }) => {
            let records = ledger.quarantined(MOST).await?;
            let record = records.iter().find(|r| (r.part, r.offset) == (partition, offset));
            let record = record.with_context(|| {
                format!("there is nothing in quarantine at partition {partition}, offset {offset}; list what is there")
            })?;
            writeln!(out, "{}", record.reason)?;
            writeln!(out, "{}", String::from_utf8_lossy(&record.payload))?;
        }
        QuarantineCommand::Replay(QuarantinedAt { partition, offset }) => {
            let stored = ledger.replay(partition, offset).await?;
            writeln!(
                out,
                "Folded: {} new orders, {} that were there before.",
                stored.orders, stored.duplicates
            )?;
        }
        QuarantineCommand::Dismiss(QuarantinedAt { partition, offset }) => {
            ledger.dismiss(partition, offset).await?;
            writeln!(out, "Thrown away. The log still has it.")?;
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
        record.part, record.offset, record.reason
    )
}
