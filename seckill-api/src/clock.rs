//! The current time, and times as buyers see them.
use jiff::Timestamp;
use seckill_protocol::index::Millis;
use seckill_service::Clock;

pub fn now() -> Millis {
    Clock::system().now()
}

/// RFC 3339, in UTC. A time after the last one that a calendar can show becomes that last time.
pub fn rfc3339(at: Millis) -> String {
    let at = i64::try_from(at)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_893_492_000_500), "2030-01-01T10:00:00.5Z");
        assert_eq!(rfc3339(Millis::MAX), Timestamp::MAX.to_string());
    }
}
