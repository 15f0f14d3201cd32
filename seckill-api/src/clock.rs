//! Times as they are told to buyers.
use jiff::Timestamp;
use seckill_protocol::index::Millis;

pub fn now() -> Millis {
    Millis::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// RFC 3339, in UTC. A time that no calendar holds is told as the last one that one does.
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
    fn a_time_is_told_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_893_492_000_500), "2030-01-01T10:00:00.5Z");
        assert_eq!(rfc3339(Millis::MAX), Timestamp::MAX.to_string());
    }
}
