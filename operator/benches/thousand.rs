//! A thousand sales at once: `cargo xtask bench operator`.
//!
//! In 20 namespaces of a real API server: 450 sales sell, 500 are announced for later, and 50 start in the same second.
//! (`SECKILL_BENCH_SALES` says how many there are in all.)
//! Printed are how early these were ready, when each sold its first unit, what a look at a sale costs, what is asked of the
//! API server, and that nothing is written while nothing changes.
#[path = "../tests/life/harness.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
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
const LEAD: i64 = 30;
/// Nothing may be written for so long.
const STEADY: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(bench());
}

/// What was asked of the API server, by verb and resource.
type Asked = Arc<Mutex<BTreeMap<String, u64>>>;

async fn bench() {
    let sales: usize = std::env::var("SECKILL_BENCH_SALES").map_or(1000, |n| n.parse().expect("a number of sales"));
    let (together, later) = (sales / 20, sales / 2);
    let selling = sales - together - later;
    let harness = Harness::new().await;
    let asked = Asked::default();
    let namespaces: Vec<String> = (0..NAMESPACES).map(|n| format!("{}-{n}", harness.name)).collect();
    for name in &namespaces {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
        let all: Api<Namespace> = Api::all(harness.kube.clone());
        all.create(&PostParams::default(), &namespace).await.expect("created");
    }
    let before = resident_mib();
    let shutdown = Shutdown::new();
    let operator = tokio::spawn(seckill_operator::run::run_until(
        args(&harness),
        counting(asked.clone()).await,
        shutdown.clone(),
    ));
    let worker = harness.worker();

    // All that there is before the second that counts.
    let begun = Instant::now();
    let hour = 3600;
    let open = (0..selling).map(|n| (format!("selling-{n}"), -1, hour));
    let announced = (0..later).map(|n| (format!("later-{n}"), hour, 2 * hour));
    create(&harness, &namespaces, open.chain(announced)).await;
    until(&harness, Phase::Open, selling).await;
    until(&harness, Phase::Scheduled, later).await;
    let (made, setup) = (begun.elapsed(), taken(&asked));

    let starts = Timestamp::now().as_second() + LEAD + 15;
    let starts_in = starts - Timestamp::now().as_second();
    let starting = (0..together).map(|n| (format!("together-{n}"), starts_in, hour));
    create(&harness, &namespaces, starting).await;
    let ready = until(&harness, Phase::Ready, together).await;
    let leads = ready.iter().map(|sale| {
        let ready = sale.status.as_ref().and_then(|status| status.ready_at.clone());
        ready.map_or(f64::NEG_INFINITY, |at| (starts - at.0.as_second()) as f64)
    });
    let leads = Spread::of(leads.collect());
    let firsts = future::join_all(ready.iter().map(|sale| first_unit(&harness, sale, starts))).await;
    let early = firsts.iter().filter(|ms| **ms < 0.0).count();
    let firsts = Spread::of(firsts);
    until(&harness, Phase::Open, selling + together).await;
    let around = taken(&asked);

    // Figures that were sampled late, and conditions that turn once more.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let _ = taken(&asked);
    let versions = versions(&harness).await;
    let cpu = cpu_seconds();
    tokio::time::sleep(STEADY).await;
    let cpu = (cpu_seconds() - cpu) / STEADY.as_secs_f64();
    let steady = taken(&asked);
    let written = self::versions(&harness)
        .await
        .iter()
        .filter(|one| !versions.contains(one))
        .count();
    let after = resident_mib();

    println!(
        "{} sales in {NAMESPACES} namespaces: {selling} sell, {later} are announced, {together} start together",
        versions.len()
    );
    println!(
        "  {} are there and {selling} of them sell after   {:.1} s",
        selling + later,
        made.as_secs_f64()
    );
    println!("  the {together} were ready before their start ({LEAD} s asked)  {leads} s");
    println!("  their first unit was sold after the start     {firsts} ms; {early} before it");
    println!("  memory of operator, worker and this benchmark {before} MiB before, {after} MiB with all sales");
    println!(
        "  a minute in which nothing happens: {written} FlashSales written, {:.0} % of a core",
        100.0 * cpu
    );
    for (what, asked, sales) in [
        ("until they were there", setup, selling + later),
        ("around the common start", around, together),
        ("in that minute", steady, versions.len()),
    ] {
        let all: u64 = asked.values().sum();
        println!(
            "  asked of the API server {what}: {all}, {:.2} a sale",
            all as f64 / sales as f64
        );
        for (request, times) in asked {
            println!("    {times:>6}  {request}");
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
    let mut words = harness.operator_command("operator", 15);
    let at = words
        .iter()
        .position(|word| word == "--watch-namespaces")
        .expect("it is there");
    words.drain(at..at + 2);
    let Command::Run(args) = parse_from::<Args>(words).expect("right arguments").command else {
        unreachable!("it says run")
    };
    *args
}

async fn counting(asked: Asked) -> Client {
    let kubeconfig =
        kube::config::Kubeconfig::read_from(harness::server("SECKILL_TEST_KUBECONFIG")).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
        .await
        .expect("a context");
    let count = MapRequestLayer::new(move |request: http::Request<Body>| {
        let mut asked = asked.lock().expect("nobody panics");
        *asked.entry(named(&request)).or_default() += 1;
        request
    });
    let builder = ClientBuilder::try_from(config).expect("a client");
    builder.with_layer(&count).build()
}

/// `PATCH flashsales/status`, for example.
fn named(request: &http::Request<Body>) -> String {
    let path: Vec<&str> = request
        .uri()
        .path()
        .split('/')
        .filter(|word| !word.is_empty())
        .collect();
    // /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/SUBRESOURCE, or without some of it.
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

fn taken(asked: &Asked) -> BTreeMap<String, u64> {
    std::mem::take(&mut *asked.lock().expect("nobody panics"))
}

async fn create(harness: &Harness, namespaces: &[String], sales: impl Iterator<Item = (String, i64, i64)>) {
    let created = sales.enumerate().map(|(n, (name, starts_in, lasts))| {
        let api: Api<FlashSale> = Api::namespaced(harness.kube.clone(), &namespaces[n % namespaces.len()]);
        let object = harness.manifest(&name, starts_in, lasts, json!({"leadTimeSeconds": LEAD}));
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

/// Waits until so many sales are in a phase.
async fn until(harness: &Harness, phase: Phase, least: usize) -> Vec<FlashSale> {
    let begun = Instant::now();
    loop {
        let mut sales = all(harness).await;
        sales.retain(|sale| sale.status.as_ref().and_then(|status| status.phase) == Some(phase));
        if sales.len() >= least {
            return sales;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "{} of {least} are {phase:?}",
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

/// Asks for a unit again and again, from a second before the start; when it was sold, in milliseconds after the start.
async fn first_unit(harness: &Harness, sale: &FlashSale, starts: i64) -> f64 {
    let namespace = sale.namespace().expect("it has one");
    let row: Sale = harness
        .ledger
        .sale_by_name(&harness.name, &namespace, &sale.name_any())
        .await
        .expect("MySQL")
        .expect("the ledger knows it");
    let epoch = row.live_epoch.expect("it is ready");
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
            harness.log.append(row.part, &record).await.expect("Kafka");
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
        .expect("it is there");
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        / 1024
}

/// Of this process: user and system time.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |field: &str| field.parse::<f64>().expect("a number");
    (ticks(fields[11]) + ticks(fields[12])) / 100.0
}
