//! Latencies in HDR histograms with three significant digits.
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer latencies are recorded as this one.
const MAX_LATENCY: Duration = Duration::from_secs(3600);

/// The upper end of the first bucket. Each further bucket is twice as wide as the one before it.
const FIRST_BUCKET_END: Duration = Duration::from_micros(500);

/// The latencies of the buyers with an answer.
pub(crate) struct Histograms {
    from_send: Histogram<u64>,
    from_schedule: Histogram<u64>,
}

impl Histograms {
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = || Histogram::new_with_bounds(1, MAX_LATENCY.as_micros() as u64, 3);
        Ok(Histograms {
            from_send: histogram()?,
            from_schedule: histogram()?,
        })
    }

    pub fn record(&mut self, from_send: Duration, from_schedule: Duration) {
        self.from_send.saturating_record(micros(from_send));
        self.from_schedule.saturating_record(micros(from_schedule));
    }

    /// Buyers by the latency from the scheduled arrival.
    pub fn distribution(&self) -> Vec<Bucket> {
        let buckets = self.from_schedule.iter_log(FIRST_BUCKET_END.as_micros() as u64, 2.0);
        let buckets = buckets.map(|bucket| Bucket {
            up_to_ms: (bucket.value_iterated_to() + 1) as f64 / 1000.0,
            buyers: bucket.count_since_last_iteration(),
        });
        buckets.skip_while(|bucket| bucket.buyers == 0).collect()
    }

    /// What is recorded from now on is apart from what was recorded before.
    pub fn reset(&mut self) {
        self.from_send.reset();
        self.from_schedule.reset();
    }

    pub fn summary(&self) -> Latency {
        Latency {
            from_send: quantiles(&self.from_send),
            from_schedule: quantiles(&self.from_schedule),
        }
    }
}

/// Both latencies, as the documentation of the crate defines them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub from_send: Quantiles,
    pub from_schedule: Quantiles,
}

/// Buyers who waited for less than `up_to_ms`, and at least as long as the end of the previous bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bucket {
    pub up_to_ms: f64,
    pub buyers: u64,
}

/// In milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let ms = |q| histogram.value_at_quantile(q) as f64 / 1000.0;
    Quantiles {
        p50_ms: ms(0.5),
        p90_ms: ms(0.9),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        max_ms: ms(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantiles_match_the_recorded_latencies() {
        let mut histograms = Histograms::new().expect("valid bounds");
        for ms in 1..=1000 {
            histograms.record(Duration::from_millis(ms), Duration::from_millis(2 * ms));
        }
        let Latency {
            from_send,
            from_schedule,
        } = histograms.summary();
        let near = |found: f64, expected: f64| {
            assert!((found / expected - 1.0).abs() < 0.002, "{found} instead of {expected}")
        };
        near(from_send.p50_ms, 500.0);
        near(from_send.p99_ms, 990.0);
        near(from_send.max_ms, 1000.0);
        near(from_schedule.p50_ms, 1000.0);
    }

    #[test]
    fn every_buyer_is_in_one_bucket() {
        let mut histograms = Histograms::new().expect("valid bounds");
        for ms in [3, 3, 5, 40] {
            histograms.record(Duration::from_millis(1), Duration::from_millis(ms));
        }
        let buckets: Vec<_> = histograms
            .distribution()
            .iter()
            .map(|b| (b.up_to_ms, b.buyers))
            .collect();
        assert_eq!(buckets, [(4.0, 2), (8.0, 1), (16.0, 0), (32.0, 0), (64.0, 1)]);
    }

    #[test]
    fn latencies_out_of_bounds_are_recorded_at_the_bound() {
        let mut histograms = Histograms::new().expect("valid bounds");
        histograms.record(Duration::ZERO, Duration::MAX);
        let summary = histograms.summary();
        assert_eq!(summary.from_send.max_ms, 0.001);
        assert!(summary.from_schedule.max_ms >= 3_600_000.0);
    }
}
