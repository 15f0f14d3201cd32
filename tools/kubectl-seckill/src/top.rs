//! `top`: what running sales and the programs do, between two samples of their metrics.
use std::io::{IsTerminal as _, Write as _};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use seckill_crds::{FlashSale, Phase};

use crate::kubectl::Kubectl;
use crate::metrics::{Metrics, increase, quantile};
use crate::release::{Program, ProgramPod, pods};
use crate::table::{Table, count};

const PURCHASE: &str = "seckill_api_purchase_seconds";
/// Pods that are asked at the same time.
const CONCURRENT: usize = 16;

/// Everything at one time.
struct Snapshot {
    at: Instant,
    sales: Vec<FlashSale>,
    /// With the pods that do not answer.
    programs: Vec<(ProgramPod, Option<Metrics>)>,
    /// Why the first of those pods does not answer.
    problem: Option<String>,
}

pub fn top(kubectl: &Kubectl, interval: Duration, once: bool) -> Result<()> {
    let clears = std::io::stdout().is_terminal() && !once;
    let mut before = sample(kubectl)?;
    loop {
        sleep(interval.saturating_sub(before.at.elapsed()));
        let after = match sample(kubectl) {
            Ok(after) => after,
            // The API server may be away for a moment, just when somebody watches.
            Err(error) if !once => {
                eprintln!("{error:#}");
                before.at = Instant::now();
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut out = std::io::stdout().lock();
        if clears {
            write!(out, "\x1b[H\x1b[2J")?;
        }
        write!(out, "{}", shown(&before, &after))?;
        out.flush()?;
        if once {
            return Ok(());
        }
        before = after;
    }
}

fn sample(kubectl: &Kubectl) -> Result<Snapshot> {
    let mut pods = pods(kubectl)?;
    pods.retain(|pod| pod.running);
    let at = Instant::now();
    let mut answers = Vec::new();
    // At the same time, so that the figures belong together.
    for pods in pods.chunks(CONCURRENT) {
        answers.extend(thread::scope(|scope| {
            let reads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| pod.metrics(kubectl))).collect();
            let answers = reads
                .into_iter()
                .map(|read| read.join().unwrap_or_else(|_| bail!("a panic")));
            answers.collect::<Vec<Result<String>>>()
        }));
    }
    let problem = pods.iter().zip(&answers).find_map(|(pod, answer)| {
        let error = answer.as_ref().err()?;
        Some(format!("\nno metrics of {}: {error:#}\n", pod.name))
    });
    let parsed = answers
        .into_iter()
        .map(|answer| answer.ok().as_deref().map(Metrics::parse));
    Ok(Snapshot {
        at,
        sales: kubectl.list("flashsales")?,
        programs: pods.into_iter().zip(parsed).collect(),
        problem,
    })
}

fn shown(before: &Snapshot, after: &Snapshot) -> String {
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let tables = [
        sales(before, after, seconds),
        apis(before, after, seconds),
        workers(before, after, seconds),
    ];
    tables.map(|table| table.to_string()).join("\n") + after.problem.as_deref().unwrap_or_default()
}

fn sales(before: &Snapshot, after: &Snapshot, seconds: f64) -> Table {
    let header = ["NAMESPACE", "NAME", "PHASE", "STOCK", "LEFT", "IN FLIGHT", "SOLD/S"];
    let mut table = Table::new(&header, &[3, 4, 5, 6]);
    for sale in &after.sales {
        let status = sale.status.clone().unwrap_or_default();
        let Some(phase @ (Phase::Ready | Phase::Open | Phase::SoldOut | Phase::Suspended | Phase::Ended)) =
            status.phase
        else {
            continue;
        };
        let (namespace, name) = (sale.metadata.namespace.as_deref(), sale.metadata.name.as_deref());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        let of_sale = |snapshot: &Snapshot, metric: &str| {
            let known = snapshot.programs.iter().filter_map(|(_, metrics)| metrics.as_ref());
            known
                .filter_map(|metrics| metrics.of_sale(metric, namespace, name))
                .next()
        };
        let remaining = of_sale(after, "seckill_sale_remaining_units");
        let sold = of_sale(before, "seckill_sale_remaining_units").zip(remaining);
        let figure = |figure: Option<f64>| figure.map_or("-".into(), whole);
        table.row(vec![
            namespace.to_owned(),
            name.to_owned(),
            format!("{phase:?}"),
            count(sale.spec.stock),
            figure(remaining),
            figure(of_sale(after, "seckill_sale_in_flight_units")),
            figure(sold.map(|(before, after)| ((before - after) / seconds).max(0.0))),
        ]);
    }
    table
}

fn apis(before: &Snapshot, after: &Snapshot, seconds: f64) -> Table {
    let header = ["API", "SOLD/S", "OTHER/S", "5XX/S", "P50", "P99", "IN FLIGHT"];
    let mut table = Table::new(&header, &[1, 2, 3, 4, 5, 6]);
    rows(before, after, Program::Api, &mut table, |before, after| {
        let answers = |accepts: &dyn Fn(&str) -> bool| {
            let of = |metrics: &Metrics| metrics.sum("seckill_api_answers_total", |label| accepts(&label("status")));
            whole(increase(of(before), of(after)) / seconds)
        };
        let latency = |share| match quantile(before, after, PURCHASE, share) {
            Some(seconds) => format!("{:.0} ms", seconds * 1000.0),
            None => "-".into(),
        };
        vec![
            answers(&|status| status == "201"),
            answers(&|status| status != "201" && !status.starts_with('5')),
            answers(&|status| status.starts_with('5')),
            latency(0.5),
            latency(0.99),
            whole(after.total("seckill_api_requests_in_flight")),
        ]
    });
    table
}

fn workers(before: &Snapshot, after: &Snapshot, seconds: f64) -> Table {
    let mut table = Table::new(&["WORKER", "STORED/S", "LAG"], &[1, 2]);
    rows(before, after, Program::Worker, &mut table, |before, after| {
        let stored = |metrics: &Metrics| metrics.total("seckill_worker_orders_stored_total");
        let rate = increase(stored(before), stored(after)) / seconds;
        vec![whole(rate), whole(after.total("seckill_worker_lag"))]
    });
    table
}

/// A row for each pod of a program: its name, and the figures of `figures`, or a dash for each if it did not answer.
fn rows(
    before: &Snapshot,
    after: &Snapshot,
    program: Program,
    table: &mut Table,
    figures: impl Fn(&Metrics, &Metrics) -> Vec<String>,
) {
    let none = Metrics::default();
    for (pod, metrics) in after.programs.iter().filter(|(pod, _)| pod.program == program) {
        let earlier = before.programs.iter().find(|(other, _)| other.name == pod.name);
        // Nothing is known of the time before of a new pod.
        let earlier = earlier.and_then(|(_, metrics)| metrics.as_ref()).or(metrics.as_ref());
        let cells = match metrics {
            Some(metrics) => figures(earlier.unwrap_or(&none), metrics),
            None => figures(&none, &none).iter().map(|_| "-".to_owned()).collect(),
        };
        let ready = if pod.ready { "" } else { " (not ready)" };
        table.row([vec![format!("{}{ready}", pod.name)], cells].concat());
    }
}

fn whole(figure: f64) -> String {
    count(figure.round() as i64)
}
