//! Reads the settings of the server, for checks before a sale.
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use seckill_protocol::index::Millis;

use crate::client::{StockClient, StockError};
use crate::connection::Connection;
use crate::login::try_fence;

/// Memory of the only order of a buyer, including its part of an unpublished outbox. Further orders of a buyer need less.
/// A cancelled order keeps its memory.
pub const BYTES_AN_ORDER: u64 = 320;

/// `None`: the server does not report it, as some managed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// The name of the server, if there are several.
    pub server: Option<String>,
    /// The eviction policy when memory is full. `noeviction` removes nothing.
    pub eviction: Option<String>,
    /// Bytes; 0 = no limit.
    pub max_memory: Option<u64>,
    pub used_memory: Option<u64>,
    /// The last snapshot or the last write of the append-only file failed. By default the server then refuses writes.
    pub persistence_fails: Option<bool>,
    /// The append-only file is enabled: after a restart the server reads it before it answers.
    pub append_only_file: Option<bool>,
    /// What its clock showed when the answer arrived, within half of the round trip.
    pub clock: Millis,
    pub round_trip: Duration,
}

impl StockClient {
    /// The settings of each primary. Each of them has to answer, because each has sales of its own.
    pub async fn settings(&self) -> Result<Vec<ServerSettings>, StockError> {
        try_join_all(
            self.primaries()
                .into_iter()
                .map(|(server, connection)| settings_of(server, connection)),
        )
        .await
    }
}

async fn settings_of(server: Option<String>, mut connection: Connection) -> Result<ServerSettings, StockError> {
    // The account may have lost its rights while connections stayed open.
    try_fence(&mut connection)
        .await
        .map_err(|error| connection.explain(&error))?;
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
    let bytes = |name| field(&memory, name)?.parse().ok();
    Ok(ServerSettings {
        server,
        eviction: field(&memory, "maxmemory_policy").map(str::to_owned),
        max_memory: bytes("maxmemory"),
        used_memory: bytes("used_memory"),
        persistence_fails: persistence_fails(&persistence),
        append_only_file: field(&persistence, "aof_enabled").map(|enabled| enabled == "1"),
        clock: sent_at + (round_trip / 2).as_millis() as Millis,
        round_trip,
    })
}

fn persistence_fails(persistence: &str) -> Option<bool> {
    let reported = ["rdb_last_bgsave_status", "aof_last_write_status"].map(|name| field(persistence, name));
    let known = reported.iter().any(Option::is_some);
    known.then(|| reported.into_iter().flatten().any(|status| status != "ok"))
}

/// A field of the answer to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_reported_is_no_failure() {
        assert_eq!(field("used_memory:1\r\nmaxmemory:2\r\n", "maxmemory"), Some("2"));
        assert_eq!(field("used_memory_peak:1\r\n", "used_memory"), None);
        assert_eq!(persistence_fails(""), None);
        assert_eq!(persistence_fails("rdb_last_bgsave_status:ok\r\n"), Some(false));
        let failing = "rdb_last_bgsave_status:ok\r\naof_last_write_status:err\r\n";
        assert_eq!(persistence_fails(failing), Some(true));
    }
}
