//! The start of the sale, and the clock of the server.
use std::time::Duration;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{Request, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use crate::connections::Connections;
use crate::plan::{Plan, Route};

/// The time that a server gives is rounded down to this.
const PRECISION: Duration = Duration::from_millis(1);

/// The times of a sale could not be read.
#[derive(Debug, thiserror::Error)]
#[error("GET {path}: {reason}; the check of the openings needs the start of the sale and the header Server-Time")]
pub struct UnknownTimes {
    path: String,
    reason: String,
}

/// When the sale starts, and what time it was for the server when a request was sent.
#[derive(Debug, Clone, Copy)]
pub struct SaleTimes {
    starts_at: Timestamp,
    asked: Instant,
    server_time: Timestamp,
}

#[derive(Deserialize)]
struct Sale {
    starts_at: Timestamp,
}

impl SaleTimes {
    pub async fn read(plan: &Plan) -> Result<Self, UnknownTimes> {
        let path = match &plan.route {
            Route::V1 { namespace, name, .. } => format!("/v1/sales/{namespace}/{name}"),
            Route::Legacy { .. } => "/".into(), // has no tokens
        };
        let asked = Instant::now();
        let unknown = |reason: String| UnknownTimes {
            path: path.clone(),
            reason,
        };
        // The name of the sale is validated, so the path is valid.
        let request = Request::get(&path).header(CACHE_CONTROL, "no-cache");
        let request = request.body(Full::<Bytes>::default()).unwrap_or_default();
        let connections = Connections::to(plan.target.clone());
        let answer = timeout(plan.timeout, connections.exchange(request)).await;
        let answer = answer.map_err(|_| unknown("no answer".into()))?;
        let answer = answer.map_err(|error| unknown(error.reason()))?;
        if answer.status() != StatusCode::OK {
            return Err(unknown(format!("{} {:?}", answer.status(), answer.body())));
        }
        let server_time = answer
            .headers()
            .get("server-time")
            .and_then(|time| time.to_str().ok()?.parse().ok());
        let server_time = server_time.ok_or_else(|| unknown("no header Server-Time".into()))?;
        let sale: Sale = serde_json::from_slice(answer.body()).map_err(|error| unknown(error.to_string()))?;
        Ok(SaleTimes {
            starts_at: sale.starts_at,
            asked,
            server_time,
        })
    }

    /// Whether the sale was surely not open at this moment, if it opens so long before its start. The server may have read its
    /// clock as soon as it was asked, so it was not later there.
    pub(crate) fn is_before_opening(&self, at: Instant, opens_before: Duration) -> bool {
        self.server_time + (at - self.asked) + PRECISION + opens_before < self.starts_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_as_early_only_if_it_surely_was() {
        let asked = Instant::now();
        let server_time = Timestamp::UNIX_EPOCH;
        let starts_at = server_time + Duration::from_secs(60);
        let times = SaleTimes {
            starts_at,
            asked,
            server_time,
        };
        let early = |at_ms, before_s| {
            times.is_before_opening(asked + Duration::from_millis(at_ms), Duration::from_secs(before_s))
        };
        assert!(early(59_998, 0) && !early(59_999, 0));
        assert!(early(49_998, 10) && !early(49_999, 10));
    }
}
