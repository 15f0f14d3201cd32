//! The run as an SVG picture: answers over time, and latencies.
use std::fmt::Write as _;

use seckill_load::{Counts, Outcome, SLICE_LENGTH};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const PLOT_WIDTH: f64 = 760.0;
const PLOT_HEIGHT: f64 = 220.0;
const TOP: [f64; 2] = [60.0, 370.0];

/// Name, colour and value of one kind of answer.
type Series = (&'static str, &'static str, fn(&Counts) -> u64);
/// From the bottom of the stack to its top.
const SERIES: [Series; 7] = [
    ("won", "#2a9d5c", |c| c.won),
    ("sold out", "#8896a5", |c| c.sold_out),
    ("not started", "#5b8def", |c| c.not_started),
    ("ended", "#b9a7d9", |c| c.ended),
    ("limit reached", "#4fb3bf", |c| c.limit_reached),
    ("other", "#e9a23b", |c| c.other),
    ("unanswered", "#c8372d", |c| c.unanswered),
];

pub fn svg(outcome: &Outcome) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"640\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    over_time(&mut svg, outcome);
    latencies(&mut svg, outcome);
    svg += "</svg>\n";
    svg
}

/// Answers per second in each slice of the run, stacked by kind.
fn over_time(svg: &mut String, outcome: &Outcome) {
    let per_second = 1.0 / SLICE_LENGTH.as_secs_f64();
    let slices = &outcome.timeline;
    let most = slices
        .iter()
        .map(|slice| slice.counts.finished())
        .max()
        .unwrap_or_default();
    let scale = Scale::up_to(most as f64 * per_second);
    title(svg, TOP[0], "Answers per second, by the time since the first buyer");
    scale.draw(svg, TOP[0]);
    let width = PLOT_WIDTH / slices.len().max(1) as f64;
    for (n, slice) in slices.iter().enumerate() {
        let mut below = 0.0;
        for (_, colour, of) in SERIES {
            let height = scale.height(of(&slice.counts) as f64 * per_second);
            if height > 0.0 {
                below += height;
                rectangle(
                    svg,
                    LEFT + n as f64 * width,
                    TOP[0] + PLOT_HEIGHT - below,
                    width,
                    height,
                    colour,
                );
            }
        }
    }
    let seconds = slices.len() as f64 / per_second;
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        label_below(
            svg,
            LEFT + share * PLOT_WIDTH,
            TOP[0],
            &format!("{:.1} s", share * seconds),
        );
    }
    let mut at = LEFT + PLOT_WIDTH;
    for (name, colour, of) in SERIES.iter().rev().filter(|(_, _, of)| of(&outcome.counts) > 0) {
        let text = format!("{} {name}", of(&outcome.counts));
        at -= 7.0 * text.len() as f64 + 26.0;
        rectangle(svg, at, TOP[0] - 24.0, 11.0, 11.0, colour);
        text_at(svg, at + 15.0, TOP[0] - 14.0, "start", &text);
    }
}

/// The share of the buyers in each bucket.
fn latencies(svg: &mut String, outcome: &Outcome) {
    let buckets = &outcome.latencies;
    let all = buckets.iter().map(|bucket| bucket.buyers).sum::<u64>().max(1) as f64;
    let percent = |buyers: u64| 100.0 * buyers as f64 / all;
    let most = buckets.iter().map(|bucket| percent(bucket.buyers)).fold(0.0, f64::max);
    let scale = Scale::up_to(most);
    let q = &outcome.latency.from_schedule;
    title(
        svg,
        TOP[1],
        &format!(
            "Buyers (%) by the time from arrival to answer: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            q.p50_ms, q.p90_ms, q.p99_ms, q.max_ms
        ),
    );
    scale.draw(svg, TOP[1]);
    let width = PLOT_WIDTH / buckets.len().max(1) as f64;
    for (n, bucket) in buckets.iter().enumerate() {
        let (x, height) = (LEFT + n as f64 * width, scale.height(percent(bucket.buyers)));
        rectangle(
            svg,
            x + 2.0,
            TOP[1] + PLOT_HEIGHT - height,
            width - 4.0,
            height,
            "#5b8def",
        );
        label_below(svg, x + width, TOP[1], &format!("{} ms", bucket.up_to_ms));
    }
}

/// An axis from 0 to a round number.
struct Scale {
    most: f64,
}

impl Scale {
    fn up_to(value: f64) -> Self {
        let power = 10f64.powf(value.max(1.0).log10().floor());
        let most = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
        Scale {
            most: most.into_iter().find(|most| *most >= value).unwrap_or(10.0 * power),
        }
    }

    fn height(&self, value: f64) -> f64 {
        PLOT_HEIGHT * value / self.most
    }

    fn draw(&self, svg: &mut String, top: f64) {
        for part in 0..=4 {
            let share = f64::from(part) / 4.0;
            let y = top + PLOT_HEIGHT * (1.0 - share);
            let x = LEFT + PLOT_WIDTH;
            // Writing into a String does not fail.
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{x}\" y2=\"{y}\" stroke=\"#ddd\"/>"
            );
            text_at(svg, LEFT - 8.0, y + 4.0, "end", &format!("{}", share * self.most));
        }
    }
}

fn title(svg: &mut String, top: f64, text: &str) {
    text_at(svg, LEFT, top - 34.0, "start", text);
}

fn label_below(svg: &mut String, x: f64, top: f64, text: &str) {
    text_at(svg, x, top + PLOT_HEIGHT + 18.0, "middle", text);
}

fn text_at(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn rectangle(svg: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{colour}\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_at_the_next_round_number() {
        for (value, most) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (49.0, 50.0),
            (51.0, 100.0),
            (20_001.0, 50_000.0),
        ] {
            assert_eq!(Scale::up_to(value).most, most, "{value}");
        }
    }
}
