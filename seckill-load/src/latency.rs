//! Latencies without loss: HDR histograms with three significant digits.
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency told apart from a longer one.
const LONGEST: Duration = Duration::from_secs(3600);

/// The latencies of the buyers who were answered.
pub(crate) struct Histograms {
    from_send: Histogram<u64>,
    from_schedule: Histogram<u64>,
}

impl Histograms {
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, 3);
        Ok(Histograms {
            from_send: histogram()?,
            from_schedule: histogram()?,
        })
    }

    pub fn record(&mut self, from_send: Duration, from_schedule: Duration) {
        self.from_send.saturating_record(micros(from_send));
        self.from_schedule.saturating_record(micros(from_schedule));
    }

    pub fn summary(&self) -> Latency {
        Latency {
            from_send: quantiles(&self.from_send),
            from_schedule: quantiles(&self.from_schedule),
        }
    }
}

/// Both latencies; see the crate's documentation for what each of them is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub from_send: Quantiles,
    pub from_schedule: Quantiles,
}

/// Milliseconds.
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
    fn the_quantiles_are_those_of_what_was_recorded() {
        let mut histograms = Histograms::new().expect("valid bounds");
        for ms in 1..=1000 {
            histograms.record(Duration::from_millis(ms), Duration::from_millis(2 * ms));
        }
        let Latency {
            from_send,
            from_schedule,
        } = histograms.summary();
        let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 0.002, "{found} for {wanted}");
        near(from_send.p50_ms, 500.0);
        near(from_send.p99_ms, 990.0);
        near(from_send.max_ms, 1000.0);
        near(from_schedule.p50_ms, 1000.0);
    }

    #[test]
    fn latencies_out_of_bounds_are_kept_at_the_bound() {
        let mut histograms = Histograms::new().expect("valid bounds");
        histograms.record(Duration::ZERO, Duration::MAX);
        let summary = histograms.summary();
        assert_eq!(summary.from_send.max_ms, 0.001);
        assert!(summary.from_schedule.max_ms >= 3_600_000.0);
    }
}
