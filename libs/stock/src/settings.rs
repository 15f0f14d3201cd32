//! Reads the settings of the server, for checks before a sale.
use std::time::{Duration, Instant};

use seckill_protocol::index::Millis;

use crate::client::{StockClient, StockError};

/// Memory of the only order of a buyer, including its part of an unpublished outbox. Further orders of a buyer need less.
/// A cancelled order keeps its memory.
pub const BYTES_AN_ORDER: u64 = 320;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// The eviction policy when memory is full. `noeviction` removes nothing.
    pub eviction: String,
    /// Bytes; 0 = no limit.
    pub max_memory: u64,
    pub used_memory: u64,
    /// The last snapshot or the last write of the append-only file failed. By default the server then refuses writes.
    pub persistence_fails: bool,
    /// The append-only file is enabled: after a restart the server reads it before it answers.
    pub append_only_file: bool,
    /// What its clock showed when the answer arrived, within half of the round trip.
    pub clock: Millis,
    pub round_trip: Duration,
}

impl StockClient {
    pub async fn settings(&self) -> Result<ServerSettings, StockError> {
        let mut connection = self.administration.clone();
        let (memory, persistence): (String, String) = redis::pipe()
            .cmd("INFO")
            .arg("memory")
            .cmd("INFO")
            .arg("persistence")
            .query_async(&mut connection)
            .await?;
        // A separate call, so that the time that INFO takes does not look like a late clock.
        let asked = Instant::now();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let round_trip = asked.elapsed();
        let sent_at = seconds * 1000 + micros / 1000;
        let failed = |status| Ok::<_, StockError>(field(&persistence, status)? != "ok");
        Ok(ServerSettings {
            eviction: field(&memory, "maxmemory_policy")?.to_owned(),
            max_memory: bytes(&memory, "maxmemory")?,
            used_memory: bytes(&memory, "used_memory")?,
            persistence_fails: failed("rdb_last_bgsave_status")? || failed("aof_last_write_status")?,
            append_only_file: field(&persistence, "aof_enabled")? == "1",
            clock: sent_at + (round_trip / 2).as_millis() as Millis,
            round_trip,
        })
    }
}

fn field<'a>(info: &'a str, name: &str) -> Result<&'a str, StockError> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value
        .map(str::trim)
        .ok_or_else(|| StockError::Reply(format!("INFO without {name}")))
}

fn bytes(info: &str, name: &str) -> Result<u64, StockError> {
    let text = field(info, name)?;
    text.parse()
        .map_err(|_| StockError::Reply(format!("{name} is {text:?} in INFO")))
}
