//! `cargo xtask picture`: runs a sale of 10,000 units for 20,000 buyers, and draws what a Prometheus has of it: docs/sale.svg.
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::demo::{self, DrawnSale};
use crate::scope::Scope;
use crate::test::prometheus::{Prometheus, Sample};
use crate::up::up;
use crate::workspace;

const FILE: &str = "docs/sale.svg";
/// How often Prometheus asks, and the time between two points of a line.
const SCRAPE_INTERVAL: &str = "250ms";
/// Where data are missing for longer, a line is interrupted.
const MAX_GAP_SECONDS: f64 = 1.5;
const STEP_SECONDS: f64 = 0.25;
/// Before the start and after the settlement.
const MARGIN_SECONDS: f64 = 5.0;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const PLOT_WIDTH: f64 = 770.0;
const PLOT_HEIGHT: f64 = 120.0;
/// From one panel to the next.
const PANEL_HEIGHT: f64 = 190.0;
const FIRST_TOP: f64 = 70.0;

/// Lines over the same time.
struct Panel {
    title: &'static str,
    /// Name, colour and query. `SALE` stands for the labels of the sale.
    lines: &'static [(&'static str, &'static str, &'static str)],
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Units",
        lines: &[
            ("left", "#2a9d5c", "max(seckill_sale_remaining_units{SALE})"),
            (
                "reserved and not in MySQL yet",
                "#e9a23b",
                "max(seckill_sale_in_flight_units{SALE})",
            ),
        ],
    },
    Panel {
        title: "Answers per second",
        lines: &[
            (
                "sold",
                "#2a9d5c",
                "sum(rate(seckill_api_answers_total{status=\"201\"}[1s]))",
            ),
            (
                "sold out",
                "#8896a5",
                "sum(rate(seckill_api_answers_total{code=\"sold_out\"}[1s]))",
            ),
            (
                "not started",
                "#5b8def",
                "sum(rate(seckill_api_answers_total{code=\"not_started\"}[1s]))",
            ),
            (
                "ended",
                "#b9a7d9",
                "sum(rate(seckill_api_answers_total{code=\"ended\"}[1s]))",
            ),
        ],
    },
    Panel {
        title: "Milliseconds from the request of a purchase to its outcome",
        lines: &[
            (
                "p50",
                "#5b8def",
                "1000 * histogram_quantile(0.5, sum by (le) (rate(seckill_api_purchase_seconds_bucket[1s])))",
            ),
            (
                "p99",
                "#c8372d",
                "1000 * histogram_quantile(0.99, sum by (le) (rate(seckill_api_purchase_seconds_bucket[1s])))",
            ),
        ],
    },
    Panel {
        title: "Orders stored in MySQL per second",
        lines: &[("stored", "#2a9d5c", "sum(rate(seckill_worker_orders_stored_total[1s]))")],
    },
];

pub fn picture() -> Result<()> {
    let env = up(Scope::Stores)?;
    let prometheus = Prometheus::start(&env, &json!({"groups": []}), SCRAPE_INTERVAL)?;
    let result = demo::sale_to_draw(&env, |sale| {
        let svg = draw(&prometheus, sale)?;
        let file = workspace::folder()?.join(FILE);
        fs::write(&file, svg).with_context(|| file.display().to_string())?;
        println!("wrote {FILE}");
        Ok(())
    });
    result.and(prometheus.stop())
}

fn draw(prometheus: &Prometheus, sale: &DrawnSale) -> Result<String> {
    let seconds = |time: jiff::Timestamp| time.as_millisecond() as f64 / 1000.0;
    let axis = Axis {
        zero: seconds(sale.starts_at),
        from: seconds(sale.starts_at) - MARGIN_SECONDS,
        to: seconds(sale.settled_at) + MARGIN_SECONDS,
    };
    let labels = format!("namespace=\"{}\",name=\"{}\"", sale.namespace, sale.name);
    let height = FIRST_TOP + PANELS.len() as f64 * PANEL_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = "20,000 buyers for 10,000 units on one machine with 2 cores, as its own Prometheus saw it; seconds from the start";
    text(&mut svg, LEFT, 20.0, "start", title);
    for (n, panel) in PANELS.iter().enumerate() {
        let top = FIRST_TOP + n as f64 * PANEL_HEIGHT;
        let read = |(name, colour, query): &(&'static str, &'static str, &str)| -> Result<Line> {
            let query = query.replace("SALE", &labels);
            let samples = prometheus.samples(&query, axis.from, axis.to, STEP_SECONDS)?;
            ensure!(!samples.is_empty(), "no data: {query}");
            Ok((name, colour, samples))
        };
        let lines = panel.lines.iter().map(read).collect::<Result<Vec<Line>>>()?;
        draw_panel(&mut svg, panel.title, top, &axis, &lines);
        // End and settlement are near to each other.
        for (time, what, anchor, beside) in [
            (sale.starts_at, "start", "middle", 0.0),
            (sale.ends_at, "end", "end", -4.0),
            (sale.settled_at, "settled", "start", 4.0),
        ] {
            let x = axis.x(seconds(time));
            line(&mut svg, (x, top), (x, top + PLOT_HEIGHT), "#999");
            if n == 0 {
                text(&mut svg, x + beside, top - 30.0, anchor, what);
            }
        }
    }
    svg += "</svg>\n";
    Ok(svg)
}

type Line = (&'static str, &'static str, Vec<Sample>);

/// Unix seconds.
struct Axis {
    /// The start of the sale.
    zero: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + PLOT_WIDTH * (seconds - self.from) / (self.to - self.from)
    }
}

fn draw_panel(svg: &mut String, title: &str, top: f64, axis: &Axis, lines: &[Line]) {
    let values = lines
        .iter()
        .flat_map(|(_, _, samples)| samples)
        .map(|sample| sample.value);
    let most = round_up(values.fold(0.0, f64::max));
    text(svg, LEFT, top - 14.0, "start", title);
    for share in [0.0, 0.5, 1.0] {
        let y = top + PLOT_HEIGHT * (1.0 - share);
        line(svg, (LEFT, y), (LEFT + PLOT_WIDTH, y), "#ddd");
        text(svg, LEFT - 8.0, y + 4.0, "end", &format!("{}", share * most));
    }
    let mut tick = ((axis.from - axis.zero) / 5.0).ceil() * 5.0;
    while axis.zero + tick <= axis.to {
        text(
            svg,
            axis.x(axis.zero + tick),
            top + PLOT_HEIGHT + 18.0,
            "middle",
            &format!("{tick}"),
        );
        tick += 5.0;
    }
    let mut legend = LEFT + PLOT_WIDTH;
    for (name, colour, samples) in lines {
        let point = |sample: &Sample| {
            let y = top + PLOT_HEIGHT * (1.0 - sample.value / most);
            format!("{:.1},{y:.1}", axis.x(sample.at))
        };
        for part in samples.chunk_by(|sample, next| next.at - sample.at < MAX_GAP_SECONDS) {
            let points: Vec<String> = part.iter().map(point).collect();
            // Writing into a String does not fail.
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                points.join(" ")
            );
        }
        text(svg, legend, top - 14.0, "end", name);
        legend -= 6.5 * name.len() as f64 + 6.0;
        line(svg, (legend - 14.0, top - 18.0), (legend, top - 18.0), colour);
        legend -= 26.0;
    }
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// The next of 1, 2, 5, 10, 20, ...
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        for (value, most) in [
            (0.0, 1.0),
            (1.1, 2.0),
            (49.0, 50.0),
            (10_000.0, 10_000.0),
            (10_001.0, 20_000.0),
        ] {
            assert_eq!(round_up(value), most, "{value}");
        }
    }

    #[test]
    fn a_line_goes_from_the_left_to_the_right() {
        let axis = Axis {
            zero: 1000.0,
            from: 995.0,
            to: 1045.0,
        };
        let samples = [(995.0, 0.0), (996.0, 100.0)].map(|(at, value)| Sample { at, value });
        let mut svg = String::new();
        draw_panel(&mut svg, "Units", 70.0, &axis, &[("left", "#000", samples.into())]);
        assert!(svg.contains("points=\"70.0,190.0 85.4,70.0\""), "{svg}");
        assert!(svg.contains(">-5<") && svg.contains(">45<"), "{svg}");
    }
}
