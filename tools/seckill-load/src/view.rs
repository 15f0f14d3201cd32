//! What a terminal shows while the crowd buys.
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use seckill_load::Progress;

/// The number of looks that the rate is of, and the number of those that the sparkline shows. A look is some 200 ms long.
const RATE_LOOKS: usize = 5;
const SPARKLINE_LOOKS: usize = 50;
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Lines below the bar: units, rates, and the latency over the last seconds.
pub struct View {
    /// The stock, if it is known.
    units: Option<u64>,
    /// Units of each order.
    quantity: u64,
    latest: Option<Progress>,
    /// Times, units sold and answers.
    looks: VecDeque<(Duration, u64, u64)>,
    p99_ms: VecDeque<f64>,
}

impl View {
    pub fn new(units: Option<u64>, quantity: u32) -> Self {
        View {
            units,
            quantity: quantity.into(),
            latest: None,
            looks: VecDeque::new(),
            p99_ms: VecDeque::new(),
        }
    }

    pub fn add(&mut self, progress: &Progress, at: Duration) {
        self.latest = Some(*progress);
        push(
            &mut self.looks,
            (at, progress.counts.won * self.quantity, progress.counts.finished()),
            RATE_LOOKS + 1,
        );
        push(&mut self.p99_ms, progress.recent.p99_ms, SPARKLINE_LOOKS);
    }

    /// Sales and answers per second.
    fn rates(&self) -> Option<(f64, f64)> {
        let ((from, sold_before, before), (to, sold, answered)) = (*self.looks.front()?, *self.looks.back()?);
        let seconds = to.checked_sub(from)?.as_secs_f64();
        let rate = |before: u64, after: u64| (after - before) as f64 / seconds;
        (seconds > 0.0).then(|| (rate(sold_before, sold), rate(before, answered)))
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(latest) = &self.latest else {
            return Ok(());
        };
        let (sold_rate, rate) = self.rates().unwrap_or_default();
        let sold = latest.counts.won * self.quantity;
        write!(f, "     sold     {sold:>9} {sold_rate:>9.0}/s")?;
        if let Some(units) = self.units {
            write!(f, "   {} of {units} units left", units.saturating_sub(sold))?;
        }
        let finished = latest.counts.finished();
        writeln!(f, "\n     answers  {finished:>9} {rate:>9.0}/s   {}", latest.counts)?;
        writeln!(f, "     waiting  {:>9}", latest.in_flight)?;
        let p99 = latest.recent.p99_ms;
        write!(f, "     p99      {p99:>6.1} ms   {}", sparkline(&self.p99_ms))
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, length: usize) {
    queue.push_back(item);
    if queue.len() > length {
        queue.pop_front();
    }
}

/// The largest value has the highest bar.
fn sparkline(values: &VecDeque<f64>) -> String {
    let highest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let spark = |value: &f64| SPARKS[(value / highest * (SPARKS.len() - 1) as f64).round() as usize];
    values.iter().map(spark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_load::{Counts, Quantiles};

    fn progress(won: u64, sold_out: u64, p99_ms: f64) -> Progress {
        Progress {
            buyers: 100,
            arrived: 100,
            in_flight: 7,
            counts: Counts {
                won,
                sold_out,
                ..Counts::default()
            },
            recent: Quantiles {
                p50_ms: 1.0,
                p90_ms: 1.0,
                p99_ms,
                p999_ms: p99_ms,
                max_ms: p99_ms,
            },
        }
    }

    #[test]
    fn the_view_shows_units_rates_and_the_latency_over_time() {
        let mut view = View::new(Some(50), 1);
        assert_eq!(view.to_string(), "");
        for (seconds, (won, sold_out, p99_ms)) in [(0, 0, 0.0), (20, 0, 10.0), (40, 20, 70.0)].into_iter().enumerate() {
            view.add(&progress(won, sold_out, p99_ms), Duration::from_secs(seconds as u64));
        }
        let shown = view.to_string();
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["sold", "40", "20/s", "10", "of", "50", "units", "left"]);
        assert_eq!(lines[1][..3], ["answers", "60", "30/s"]);
        assert_eq!(lines[2], ["waiting", "7"]);
        assert_eq!(lines[3], ["p99", "70.0", "ms", "▁▂█"]);
    }

    #[test]
    fn rates_are_of_the_last_second() {
        let mut view = View::new(None, 1);
        for look in 0..100 {
            view.add(
                &progress(if look < 50 { look } else { 50 }, 0, 1.0),
                Duration::from_millis(200 * look),
            );
        }
        assert_eq!(view.rates(), Some((0.0, 0.0)));
        assert_eq!(view.p99_ms.len(), SPARKLINE_LOOKS);
    }
}
