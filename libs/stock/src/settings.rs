//! How the server is set up, for checks before a sale.
use seckill_clock::Clock;

use crate::client::{StockClient, StockError};

/// Bytes that a unit takes once it is sold, to a buyer who has no other, with its part of an outbox that nobody has
/// published yet.
pub const BYTES_A_UNIT: u64 = 320;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// What the server removes when its memory is full; `noeviction`: nothing.
    pub eviction: String,
    /// Bytes; 0 = no limit of its own.
    pub max_memory: u64,
    pub used_memory: u64,
    /// The last snapshot, or the last write of the append-only file, failed: by default the server refuses writes then.
    pub persistence_fails: bool,
    /// After a restart it reads that file before it answers.
    pub append_only_file: bool,
    /// How far its clock is ahead of ours, in milliseconds, give or take half of the round trip.
    pub clock_ahead_ms: i64,
    pub round_trip_ms: u64,
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
        let clock = Clock::system();
        let asked = clock.now();
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let answered = clock.now();
        let theirs = seconds * 1000 + micros / 1000;
        let ours = asked.midpoint(answered).cast_signed();
        let failed = |status| Ok::<_, StockError>(field(&persistence, status)? != "ok");
        Ok(ServerSettings {
            eviction: field(&memory, "maxmemory_policy")?.to_owned(),
            max_memory: bytes(&memory, "maxmemory")?,
            used_memory: bytes(&memory, "used_memory")?,
            persistence_fails: failed("rdb_last_bgsave_status")? || failed("aof_last_write_status")?,
            append_only_file: field(&persistence, "aof_enabled")? == "1",
            clock_ahead_ms: theirs - ours,
            round_trip_ms: answered.abs_diff(asked),
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
