//! Output of the run, as text or JSON.
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use seckill_load::check::Check;
use seckill_load::{Bucket, Counts, Outcome, Plan, Progress, Quantiles, Route};
use serde::Serialize;

use crate::args::OutputKind;
use crate::view::View;

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
    /// Of the answers since the last line; 0: there were none.
    recent_p99_ms: f64,
    /// What a terminal shows below its bar, for a program that shows it.
    view: String,
}

pub struct Output {
    kind: Kind,
    view: Mutex<View>,
    started: Instant,
}

enum Kind {
    Text(ProgressBar),
    Json,
}

impl Output {
    /// `units`: the stock of the sale, if it is known. `quantity`: units of each order.
    pub fn new(kind: OutputKind, buyers: u64, units: Option<u64>, quantity: u32) -> Self {
        let kind = match kind {
            OutputKind::Json => Kind::Json,
            OutputKind::Text => {
                let bar = ProgressBar::new(buyers);
                // The template is fixed. If it is wrong, the default style is good enough.
                if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:30} {pos}/{len}\n{msg}") {
                    bar.set_style(style);
                }
                Kind::Text(bar)
            }
        };
        Output {
            kind,
            view: Mutex::new(View::new(units, quantity)),
            started: Instant::now(),
        }
    }

    pub fn begin(&self, plan: &Plan) {
        if let Kind::Text(bar) = &self.kind {
            bar.println(format!("{} buyers for {} at {}", plan.buyers, sale(plan), plan.target));
        }
    }

    pub fn progress(&self, progress: Progress) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.add(&progress, self.started.elapsed());
        let counts = progress.counts;
        match &self.kind {
            Kind::Text(bar) => {
                bar.set_position(counts.finished());
                bar.set_message(view.to_string());
            }
            Kind::Json => print_line(&serde_json::json!({ "progress": ProgressLine {
                buyers: progress.buyers,
                arrived: progress.arrived,
                in_flight: progress.in_flight,
                counts,
                recent_p99_ms: progress.recent.p99_ms,
                view: view.to_string(),
            }})),
        }
    }

    pub fn end(&self, report: &Report) {
        match &self.kind {
            Kind::Text(bar) => {
                bar.finish_and_clear();
                print!("{}", text(report));
            }
            Kind::Json => print_line(&serde_json::json!({ "report": report })),
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
        format!("  {}", outcome.counts),
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

fn sale(plan: &Plan) -> String {
    match &plan.route {
        Route::V1 { namespace, name, .. } => format!("{namespace}/{name}"),
        Route::Legacy { item_id } => format!("item {item_id} (legacy route)"),
    }
}
