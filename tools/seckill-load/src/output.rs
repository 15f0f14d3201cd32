//! Output of the run, as text or JSON.
use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use seckill_load::check::Check;
use seckill_load::{Bucket, Counts, Outcome, Plan, Progress, Quantiles, Route};
use serde::Serialize;

use crate::args::OutputKind;

/// The report at the end of the run.
#[derive(Serialize)]
pub struct Report<'a> {
    target: String,
    sale: String,
    #[serde(flatten)]
    outcome: &'a Outcome,
    /// Units sold, according to the answers.
    units_won: u64,
    checks: Vec<Check>,
}

impl<'a> Report<'a> {
    pub fn new(plan: &Plan, outcome: &'a Outcome, checks: Vec<Check>) -> Self {
        Report {
            target: plan.target.to_string(),
            sale: sale(plan),
            outcome,
            units_won: outcome.counts.won * u64::from(plan.route.quantity()),
            checks,
        }
    }
}

#[derive(Serialize)]
struct ProgressLine {
    buyers: u64,
    arrived: u64,
    in_flight: u64,
    #[serde(flatten)]
    counts: Counts,
}

pub enum Output {
    Text(ProgressBar),
    Json,
}

impl Output {
    pub fn new(kind: OutputKind, buyers: u64) -> Self {
        match kind {
            OutputKind::Json => Output::Json,
            OutputKind::Text => {
                let bar = ProgressBar::new(buyers);
                // The template is fixed. If it is wrong, the default style is good enough.
                if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:30} {pos}/{len} {msg}") {
                    bar.set_style(style);
                }
                Output::Text(bar)
            }
        }
    }

    pub fn begin(&self, plan: &Plan) {
        if let Output::Text(bar) = self {
            bar.println(format!("{} buyers for {} at {}", plan.buyers, sale(plan), plan.target));
        }
    }

    pub fn progress(&self, progress: Progress) {
        let counts = progress.counts;
        match self {
            Output::Text(bar) => {
                bar.set_position(counts.finished());
                bar.set_message(format!("{} in flight · {}", progress.in_flight, kinds(&counts)));
            }
            Output::Json => print_line(&serde_json::json!({ "progress": ProgressLine {
                buyers: progress.buyers,
                arrived: progress.arrived,
                in_flight: progress.in_flight,
                counts,
            }})),
        }
    }

    pub fn end(&self, report: &Report) {
        match self {
            Output::Text(bar) => {
                bar.finish_and_clear();
                print!("{}", text(report));
            }
            Output::Json => print_line(&serde_json::json!({ "report": report })),
        }
    }
}

/// Prints one line of JSON. If the output is closed, the exit code still tells the result.
fn print_line(value: &serde_json::Value) {
    _ = writeln!(std::io::stdout(), "{value}");
}

fn text(report: &Report) -> String {
    let outcome = report.outcome;
    let mut lines = vec![
        format!("{} at {}", report.sale, report.target),
        format!(
            "  {} buyers in {:.1?}, {} connections, at most {} in flight, {} retries",
            outcome.buyers,
            Duration::from_secs_f64(outcome.took_s),
            outcome.connections,
            outcome.peak_in_flight,
            outcome.retries
        ),
        format!("  {}", kinds(&outcome.counts)),
        String::new(),
        format!(
            "  {:<26}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "latency (ms)", "p50", "p90", "p99", "p99.9", "max"
        ),
        latency("from send to answer", &outcome.latency.from_send),
        latency("from scheduled arrival *", &outcome.latency.from_schedule),
        "  * including the wait for a permit in flight and all retries:".into(),
    ];
    lines.extend(bars(&outcome.latencies));
    lines.push(String::new());
    for sample in &outcome.samples {
        lines.push(format!("  {} x {}", sample.buyers, sample.said));
    }
    for check in &report.checks {
        let sign = if check.passed { "ok  " } else { "FAIL" };
        lines.push(format!("  {sign} {}", check.what));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn latency(name: &str, q: &Quantiles) -> String {
    format!(
        "  {name:<26}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>10.1}",
        q.p50_ms, q.p90_ms, q.p99_ms, q.p999_ms, q.max_ms
    )
}

/// The number of buyers by latency, one line for each bucket.
fn bars(buckets: &[Bucket]) -> impl Iterator<Item = String> {
    const WIDTH: u64 = 40;
    let all: u64 = buckets.iter().map(|bucket| bucket.buyers).sum::<u64>().max(1);
    let most = buckets
        .iter()
        .map(|bucket| bucket.buyers)
        .max()
        .unwrap_or_default()
        .max(1);
    buckets.iter().map(move |Bucket { up_to_ms, buyers }| {
        let bar = "#".repeat((WIDTH * buyers).div_ceil(most) as usize);
        let percent = 100.0 * *buyers as f64 / all as f64;
        format!("  {:>14} {percent:>5.1} %  {bar}", format!("< {up_to_ms} ms"))
    })
}

/// The number of answers of each kind, without the zeros.
fn kinds(counts: &Counts) -> String {
    let named = [
        (counts.won, "won"),
        (counts.sold_out, "sold out"),
        (counts.not_started, "not started"),
        (counts.ended, "ended"),
        (counts.limit_reached, "limit reached"),
        (counts.other, "other"),
        (counts.unanswered, "unanswered"),
    ];
    let present: Vec<_> = named
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    present.join(", ")
}

fn sale(plan: &Plan) -> String {
    match &plan.route {
        Route::V1 { namespace, name, .. } => format!("{namespace}/{name}"),
        Route::Legacy { item_id } => format!("item {item_id} (legacy route)"),
    }
}
