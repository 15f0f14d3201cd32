//! A thousand sales at the same time: `cargo xtask bench operator`.
//!
//! In 20 namespaces of a real API server, 450 sales are open, 500 are scheduled, and 50 start in the same second. The
//! variable `SECKILL_BENCH_SALES` changes the total. The benchmark prints how long before their start the 50 sales were
//! ready, when each sold its first unit, the CPU and memory use, the requests to the API server, the number of writes while
//! nothing changes, and how long the emergency stop takes.
#[path = "../tests/life/harness.rs"]
#[allow(dead_code, reason = "only the tests use all of it")]
mod harness;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{StreamExt as _, future, stream};
use harness::Harness;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::{Api, Client, Config, ResourceExt as _};
use seckill_crds::{FlashSale, Phase};
use seckill_ledger::Sale;
use seckill_operator::args::{Args, Command};
use seckill_protocol::index::{Decision, Request};
use seckill_protocol::{Buyer, KeyHash};
use seckill_service::args::parse_from;
use seckill_service::shutdown::Shutdown;
use serde_json::json;
use tower::util::MapRequestLayer;

const NAMESPACES: usize = 20;
const LEAD_TIME_SECONDS: i64 = 60;
/// How long the writes are counted while nothing changes.
const IDLE_PERIOD: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(bench());
}

/// The number of requests to the API server, by verb and resource.
type RequestCounts = Arc<Mutex<BTreeMap<String, u64>>>;

async fn bench() {
    let sales: usize = std::env::var("SECKILL_BENCH_SALES").map_or(1000, |n| n.parse().expect("a number of sales"));
    let (starting, scheduled) = (sales / 20, sales / 2);
    let open = sales - starting - scheduled;
    let harness = Harness::new().await;
    let counts = RequestCounts::default();
    let namespaces: Vec<String> = (0..NAMESPACES).map(|n| format!("{}-{n}", harness.name)).collect();
    for name in &namespaces {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
        let all: Api<Namespace> = Api::all(harness.kube.clone());
        all.create(&PostParams::default(), &namespace).await.expect("created");
    }
    let before = resident_mib();
    let shutdown = Shutdown::new();
    let operator = tokio::spawn(seckill_operator::run::run_until_shutdown(
        args(&harness),
        counting_client(counts.clone()).await,
        seckill_service::Clock::system(),
        shutdown.clone(),
    ));
    let worker = harness.worker();

    // Create the open and the scheduled sales.
    let started = Instant::now();
    let hour = 3600;
    let opening = (0..open).map(|n| (format!("open-{n}"), -1, hour));
    let later = (0..scheduled).map(|n| (format!("scheduled-{n}"), hour, 2 * hour));
    create(&harness, &namespaces, opening.chain(later)).await;
    until(&harness, Phase::Open, open).await;
    until(&harness, Phase::Scheduled, scheduled).await;
    let (setup_time, setup) = (started.elapsed(), take_counts(&counts));

    let starts = Timestamp::now().as_second() + LEAD_TIME_SECONDS + 15;
    let starts_in = starts - Timestamp::now().as_second();
    let together = (0..starting).map(|n| (format!("starting-{n}"), starts_in, hour));
    create(&harness, &namespaces, together).await;
    let ready = until(&harness, Phase::Ready, starting).await;
    let lead_times = ready.iter().map(|sale| {
        let ready = sale.status.as_ref().and_then(|status| status.ready_at.clone());
        ready.map_or(f64::NEG_INFINITY, |at| (starts - at.0.as_second()) as f64)
    });
    let lead_times = Spread::of(lead_times.collect());
    let firsts = future::join_all(ready.iter().map(|sale| first_unit(&harness, sale, starts))).await;
    let early = firsts.iter().filter(|ms| **ms < 0.0).count();
    let firsts = Spread::of(firsts);
    until(&harness, Phase::Open, open + starting).await;
    let start = take_counts(&counts);

    // Wait for late samples and the last changes of conditions.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let _ = take_counts(&counts);
    let versions = versions(&harness).await;
    let cpu = cpu_seconds();
    tokio::time::sleep(IDLE_PERIOD).await;
    let cpu = (cpu_seconds() - cpu) / IDLE_PERIOD.as_secs_f64();
    let idle = take_counts(&counts);
    let written = self::versions(&harness)
        .await
        .iter()
        .filter(|one| !versions.contains(one))
        .count();
    let after = resident_mib();
    let stopped = harness.emergency_stop("suspend").await;
    let resumed = harness.emergency_stop("resume").await;

    println!(
        "{} sales in {NAMESPACES} namespaces: {open} are open, {scheduled} are scheduled, {starting} start together",
        versions.len()
    );
    println!(
        "  time until {} sales existed and {open} were open    {:.1} s",
        open + scheduled,
        setup_time.as_secs_f64()
    );
    println!("  {starting} sales ready before their start ({LEAD_TIME_SECONDS} s requested)   {lead_times} s");
    println!("  first unit sold after the start                   {firsts} ms; {early} before the start");
    println!("  memory of operator, worker and this benchmark     {before} MiB before, {after} MiB with all sales");
    println!(
        "  one minute without changes: {written} FlashSales written, {:.0} % of a core",
        100.0 * cpu
    );
    println!("  operator suspend --all: {stopped}");
    println!("  operator resume --all: {resumed}");
    for (period, counts, sales) in [
        ("during setup", setup, open + scheduled),
        ("around the common start", start, starting),
        ("in the minute without changes", idle, versions.len()),
    ] {
        let all: u64 = counts.values().sum();
        println!(
            "  requests to the API server {period}: {all}, {:.2} per sale",
            all as f64 / sales as f64
        );
        for (request, count) in counts {
            println!("    {count:>6}  {request}");
        }
    }

    shutdown.cancel();
    operator.await.expect("no panic").expect("no error");
    worker.stop().await;
    for name in &namespaces {
        let all: Api<Namespace> = Api::all(harness.kube.clone());
        all.delete(name, &DeleteParams::default()).await.expect("deleted");
    }
    harness.drop().await;
}

fn args(harness: &Harness) -> seckill_operator::args::RunArgs {
    let mut args = harness.operator_args("operator", 15);
    let at = args
        .iter()
        .position(|word| word == "--watch-namespaces")
        .expect("the flag exists");
    args.drain(at..at + 2);
    let Command::Run(args) = parse_from::<Args>(args).expect("valid arguments").command else {
        unreachable!("the subcommand is run")
    };
    *args
}

/// A client that counts its requests.
async fn counting_client(counts: RequestCounts) -> Client {
    let kubeconfig =
        kube::config::Kubeconfig::read_from(harness::required_env("SECKILL_TEST_KUBECONFIG")).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
        .await
        .expect("a context");
    let count = MapRequestLayer::new(move |request: http::Request<Body>| {
        let mut counts = counts.lock().expect("nobody panics");
        *counts.entry(verb_and_resource(&request)).or_default() += 1;
        request
    });
    let builder = ClientBuilder::try_from(config).expect("a client");
    builder.with_layer(&count).build()
}

/// `PATCH flashsales/status`, for example.
fn verb_and_resource(request: &http::Request<Body>) -> String {
    let path: Vec<&str> = request
        .uri()
        .path()
        .split('/')
        .filter(|word| !word.is_empty())
        .collect();
    // /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/SUBRESOURCE; some parts can be missing.
    let start = if path.first() == Some(&"api") { 2 } else { 3 };
    let rest = path.get(start..).unwrap_or_default();
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let resource = rest.first().copied().unwrap_or_default();
    let verb = match (request.method().as_str(), request.uri().query()) {
        ("GET", Some(query)) if query.contains("watch=true") => "WATCH",
        ("GET", _) if rest.len() < 2 => "LIST",
        (method, _) => method,
    };
    match rest.get(2) {
        Some(sub) => format!("{verb} {resource}/{sub}"),
        None => format!("{verb} {resource}"),
    }
}

fn take_counts(counts: &RequestCounts) -> BTreeMap<String, u64> {
    std::mem::take(&mut *counts.lock().expect("nobody panics"))
}

async fn create(harness: &Harness, namespaces: &[String], sales: impl Iterator<Item = (String, i64, i64)>) {
    let created = sales.enumerate().map(|(n, (name, starts_in, lasts))| {
        let api: Api<FlashSale> = Api::namespaced(harness.kube.clone(), &namespaces[n % namespaces.len()]);
        let object = harness.manifest(&name, starts_in, lasts, json!({"leadTimeSeconds": LEAD_TIME_SECONDS}));
        async move { drop(api.create(&PostParams::default(), &object).await.expect("created")) }
    });
    stream::iter(created).buffer_unordered(16).collect::<Vec<()>>().await;
}

async fn all(harness: &Harness) -> Vec<FlashSale> {
    let api: Api<FlashSale> = Api::all(harness.kube.clone());
    let mut sales = api.list(&ListParams::default()).await.expect("listed").items;
    sales.retain(|sale| sale.spec.class_name == harness.name);
    sales
}

/// Waits until at least `least` sales are in a phase.
async fn until(harness: &Harness, phase: Phase, least: usize) -> Vec<FlashSale> {
    let started = Instant::now();
    loop {
        let mut sales = all(harness).await;
        sales.retain(|sale| sale.status.as_ref().and_then(|status| status.phase) == Some(phase));
        if sales.len() >= least {
            return sales;
        }
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "timed out: {} of {least} sales are {phase:?}",
            sales.len()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn versions(harness: &Harness) -> Vec<(Option<String>, Option<String>)> {
    all(harness)
        .await
        .iter()
        .map(|sale| (sale.uid(), sale.resource_version()))
        .collect()
}

/// Tries to buy a unit from one second before the start. Returns when it was sold, in milliseconds after the start.
async fn first_unit(harness: &Harness, sale: &FlashSale, starts: i64) -> f64 {
    let namespace = sale.namespace().expect("a namespace");
    let row: Sale = harness
        .ledger
        .sale_by_name(&harness.name, &namespace, &sale.name_any())
        .await
        .expect("MySQL")
        .expect("the ledger has the sale");
    let epoch = row.live_epoch.expect("a live epoch");
    let starts = UNIX_EPOCH + Duration::from_secs(starts.unsigned_abs());
    let wait = starts.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(wait.saturating_sub(Duration::from_secs(1))).await;
    let request = Request {
        buyer: Buyer::anonymous("first"),
        quantity: 1,
        tier: 0,
        key: KeyHash::of("first"),
    };
    loop {
        let decided = harness
            .stock
            .purchase(row.id, epoch, std::slice::from_ref(&request))
            .await
            .expect("Redis");
        let (answers, batch) = decided.expect("in force");
        if let [Decision::Reserved { .. }] = answers.as_slice() {
            let at = SystemTime::now();
            let record = seckill_protocol::Record::Batch(batch.expect("sold"));
            harness.log.append(row.partition, &record).await.expect("Kafka");
            return match at.duration_since(starts) {
                Ok(after) => after.as_secs_f64() * 1000.0,
                Err(before) => -before.duration().as_secs_f64() * 1000.0,
            };
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Spread(Vec<f64>);

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Spread(values)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spread(values) = self;
        let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
        write!(f, "{median:.0} (median; {least:.0} to {most:.0})")
    }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        / 1024
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |field: &str| field.parse::<f64>().expect("a number");
    (ticks(fields[11]) + ticks(fields[12])) / 100.0
}
