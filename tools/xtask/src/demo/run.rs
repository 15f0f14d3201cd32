//! Runs the sales of a demo, and compares what buyers were told with what Redis and MySQL have.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::load::{self, Answers, Progress};
use super::report::{self, Report, Sale};
use super::sales::{self, Planned, Window};
use super::screen::Screen;
use super::site::Site;
use super::stores::Ledger;
use super::watch::{self, Watch};

/// The number of buyers before the start, and again after the end.
const BUYERS_OUTSIDE_WINDOW: u64 = 20;

/// The delay from a sale's start to its crowd. The servers' clocks decide whether a request is too early, not ours.
const CROWD_DELAY: Duration = Duration::from_millis(300);

/// One of the two load cases.
pub struct Case {
    /// The name of the sale in `examples/demo.yaml`.
    sale: &'static str,
    pub buyers: u64,
    in_flight: u64,
}

const CASES: [Case; 2] = [
    Case {
        sale: "fifty-units",
        buyers: 300,
        in_flight: 300,
    },
    Case {
        sale: "ten-thousand-units",
        buyers: 20_000,
        in_flight: 3_000,
    },
];

/// The sale for the old demo's routes. Its start is in the past, so it opens immediately.
pub const OLD_ROUTES_SALE: &str = "old-routes";

/// When the sales start, from the apply on, and how long they last.
pub struct Schedule {
    old_routes_last: Duration,
    /// The second case starts after the first one's crowd, and is prepared during it.
    starts_after: [Duration; 2],
    last: Duration,
}

/// Pods take their time to start.
pub const ON_CLUSTER: Schedule = Schedule {
    old_routes_last: Duration::from_secs(60),
    starts_after: [Duration::from_secs(35), Duration::from_secs(50)],
    last: Duration::from_secs(25),
};

pub const AS_PROCESSES: Schedule = Schedule {
    old_routes_last: Duration::from_secs(12),
    starts_after: [Duration::from_secs(12), Duration::from_secs(17)],
    last: Duration::from_secs(12),
};

/// A case while it runs.
struct RunningCase {
    planned: Planned,
    sale: Sale,
    differences: Vec<String>,
}

/// The sales to run.
pub fn cases(small: bool) -> &'static [Case] {
    if small { &CASES[..1] } else { &CASES }
}

/// Runs the sales on a site where the release is installed, and accounts for every unit.
pub fn run_sales(site: &Site, screen: &Screen, cases: &[Case], schedule: &Schedule) -> Result<()> {
    let namespace = &site.names.sales;
    site.flash_sales.create_namespace(namespace)?;
    let watch = Watch::start(&site.flash_sales, namespace, screen)?;

    let now = Timestamp::now();
    // A demo that was killed leaves its sale behind, which may still be open under its own item id.
    let item_id = site.stores.new_item_id()?;
    let old_routes = apply(
        site,
        screen,
        OLD_ROUTES_SALE,
        OLD_ROUTES_SALE,
        item_id,
        window(now, Duration::ZERO, schedule.old_routes_last)?,
    )?;
    let mut running = Vec::new();
    for (case, starts_after) in cases.iter().zip(schedule.starts_after) {
        let planned = apply(
            site,
            screen,
            case.sale,
            case.sale,
            item_id,
            window(now, starts_after, schedule.last)?,
        )?;
        let sale = Sale {
            name: planned.name.clone(),
            ..Sale::default()
        };
        running.push(RunningCase {
            planned,
            sale,
            differences: Vec::new(),
        });
    }

    let mut differences = buy_by_old_routes(site, screen, &watch, &old_routes, item_id)?;
    for (case, running) in cases.iter().zip(&mut running) {
        test_before_start(site, screen, &watch, running)?;
        test_crowd(site, screen, &watch, case, running)?;
    }
    for running in &mut running {
        test_after_end(site, screen, &watch, running)?;
    }

    let mut report = Report {
        versions: site.versions()?,
        ..Report::default()
    };
    for case in running {
        differences.extend(case.differences);
        differences.extend(case.sale.differences(case.planned.units));
        report.sales.push(case.sale);
    }
    show(site, screen, &report)?;
    if !differences.is_empty() {
        bail!(
            "the results differ from the expected ones:\n  {}",
            differences.join("\n  ")
        );
    }
    screen.say("Every buyer got an answer, every unit is accounted for, and Redis and MySQL agree.");
    Ok(())
}

/// A sale that has been settled.
pub struct DrawnSale {
    pub namespace: String,
    pub name: String,
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    pub settled_at: Timestamp,
}

/// Runs the second case with a crowd that begins before the start and lasts longer than the stock.
pub fn run_to_draw(site: &Site, screen: &Screen) -> Result<DrawnSale> {
    const BEFORE_START: Duration = Duration::from_secs(2);
    let namespace = &site.names.sales;
    site.flash_sales.create_namespace(namespace)?;
    let watch = Watch::start(&site.flash_sales, namespace, screen)?;
    let [_, case] = &CASES;
    let times = window(Timestamp::now(), Duration::from_secs(15), Duration::from_secs(25))?;
    let (starts_at, ends_at) = (times.starts_at, times.ends_at);
    let planned = apply(site, screen, case.sale, case.sale, site.stores.new_item_id()?, times)?;
    let name = &planned.name;
    std::thread::sleep(until(starts_at).saturating_sub(BEFORE_START));
    let (sale, buyers) = (format!("{namespace}/{name}"), case.buyers.to_string());
    let arrivals = ["--buyers", &buyers, "--over", "20s", "--in-flight", "3000"];
    let args = [&[&site.api_url, "--sale", &sale], &arrivals[..]].concat();
    let answers = load::send(&site.load, &args, screen, || name.clone(), |_| ())?;
    screen.say(format!("{name}: {}", answers.counts));
    std::thread::sleep(until(ends_at));
    outsiders(site, screen, name)?;
    let settled = |history: &watch::SaleHistory| history.phase() == "Settled";
    let history = watch.wait_for(name, "Settled", Duration::from_secs(90), settled)?;
    // Prometheus asks once more.
    std::thread::sleep(Duration::from_secs(6));
    Ok(DrawnSale {
        namespace: namespace.clone(),
        name: name.clone(),
        starts_at,
        ends_at,
        settled_at: sales::time(&history.status, "settledAt")?,
    })
}

/// In whole seconds, as Kubernetes has times.
pub fn window(now: Timestamp, after: Duration, duration: Duration) -> Result<Window> {
    let starts_at = Timestamp::from_second(now.as_second())?.checked_add(SignedDuration::try_from(after)?)?;
    Ok(Window {
        starts_at,
        ends_at: starts_at.checked_add(SignedDuration::try_from(duration)?)?,
    })
}

/// Applies one of the example's sales under a name that is new to the ledger, because a sale runs once.
pub fn apply(site: &Site, screen: &Screen, sale: &str, as_name: &str, item_id: u64, window: Window) -> Result<Planned> {
    let namespace = &site.names.sales;
    let mut name = as_name.to_string();
    let mut next = 2;
    while site.stores.ledger(namespace, &name)?.is_some() {
        name = format!("{as_name}-{next}");
        next += 1;
    }
    let replacement = sales::Replacement {
        name: &name,
        namespace,
        class: &site.names.class,
        item_id,
        window,
    };
    let example = std::fs::read_to_string(site.example("demo.yaml")).context("examples/demo.yaml")?;
    let planned = sales::plan(&example, sale, replacement)?;
    let applied = site.flash_sales.apply(namespace, &name, &planned.manifest)?;
    let starts_in = planned.starts_at.duration_since(Timestamp::now()).as_secs();
    let when = if starts_in > 0 {
        format!("starts in {starts_in} s")
    } else {
        "starts now".into()
    };
    screen.say(format!("{applied}, {} units, {when}", planned.units));
    Ok(planned)
}

fn test_before_start(site: &Site, screen: &Screen, watch: &Watch, case: &mut RunningCase) -> Result<()> {
    let name = &case.planned.name;
    let starts_at = case.planned.starts_at;
    let left = until(starts_at);
    let history = screen.waiting(&format!("waiting until {name} is ready"), || {
        watch.wait_for(name, "Ready before its start", left, |history| {
            history.status["readyAt"].is_string()
        })
    })?;
    let lead = starts_at.duration_since(sales::time(&history.status, "readyAt")?);
    case.sale.ready_lead_s = thousandths(lead.as_secs_f64());
    screen.say(format!("{name}: ready {:.1} s before its start", lead.as_secs_f64()));

    let early = outsiders(site, screen, name)?;
    case.sale.not_started = early.counts.not_started;
    screen.say(format!(
        "{name}: {} buyers before the start: {}",
        early.buyers, early.counts
    ));
    if early.counts.not_started != early.buyers {
        let answers = samples(&early);
        case.differences
            .push(format!("{name}: before the start: {}{answers}", early.counts));
    }
    Ok(())
}

/// Sends the crowd, follows its orders into MySQL, and reads the stock left in Redis.
fn test_crowd(site: &Site, screen: &Screen, watch: &Watch, case: &Case, running: &mut RunningCase) -> Result<()> {
    let name = &running.planned.name;
    screen.waiting(&format!("waiting for the start of {name}"), || {
        std::thread::sleep(until(running.planned.starts_at) + CROWD_DELAY)
    });
    screen.say(format!(
        "{name}: {} buyers for {} units, over 1 s, at most {} in flight",
        case.buyers, running.planned.units, case.in_flight
    ));
    let numbers = site.state.join(format!("{name}.orders"));
    let (sale, buyers, in_flight) = (
        format!("{}/{name}", site.names.sales),
        case.buyers.to_string(),
        case.in_flight.to_string(),
    );
    let units = running.planned.units.to_string();
    let numbers_arg = numbers.display().to_string();
    let args = [
        &site.api_url,
        "--sale",
        &sale,
        "--buyers",
        &buyers,
        "--over",
        "1s",
        "--in-flight",
        &in_flight,
        "--units",
        &units,
        "--orders-file",
        &numbers_arg,
    ];

    let (sender, receiver) = mpsc::channel();
    let stored = AtomicU64::new(0);
    let title = || {
        let stored = stored.load(Ordering::Relaxed);
        format!("{name} · {} · {stored} orders in MySQL", watch.phase(name))
    };
    let (answers, drained) = std::thread::scope(|scope| {
        let draining = scope.spawn(|| drain(site, screen, name, receiver, &stored));
        let answers = load::send(&site.load, &args, screen, title, |progress| {
            _ = sender.send((Instant::now(), progress))
        });
        drop(sender);
        let drained = draining
            .join()
            .unwrap_or_else(|_| bail!("reading the orders from MySQL panicked"));
        Ok::<_, anyhow::Error>((answers?, drained?))
    })?;
    screen.say(format!(
        "{name}: {}; answer time p50 {:.1} ms, p99 {:.1} ms",
        answers.counts, answers.latency.from_send.p50_ms, answers.latency.from_send.p99_ms
    ));
    for check in answers.checks.iter().filter(|check| !check.passed) {
        running.differences.push(format!("{name}: {}", check.what));
    }
    if answers.counts.other + answers.counts.unanswered > 0 {
        screen.say(format!("{name}: other answers{}", samples(&answers)));
    }
    let (ledger, drain_time) = drained;
    let order_numbers: std::collections::HashSet<String> =
        std::fs::read_to_string(&numbers)?.lines().map(str::to_string).collect();
    let sale = &mut running.sale;
    sale.stock_left_redis = site.stores.left_in_redis(&ledger.id)?;
    sale.buyers = case.buyers;
    sale.answered = answers.answered;
    sale.won = answers.counts.won;
    sale.sold_out = answers.counts.sold_out;
    sale.other = answers.counts.other + answers.counts.not_started + answers.counts.ended;
    sale.distinct_orders = order_numbers.len() as u64;
    sale.p50_ms = answers.latency.from_send.p50_ms;
    sale.p99_ms = answers.latency.from_send.p99_ms;
    sale.drained_s = thousandths(drain_time.as_secs_f64());
    let in_redis = sale.stock_left_redis.map_or("no index".into(), |left| left.to_string());
    screen.say(format!(
        "{name}: {} orders in MySQL {:.1} s after the last answer; left: {in_redis} in Redis, {} in MySQL",
        ledger.orders, sale.drained_s, ledger.left
    ));
    Ok(())
}

/// Follows the orders into MySQL, until every order that was won is stored.
fn drain(
    site: &Site,
    screen: &Screen,
    name: &str,
    receiver: mpsc::Receiver<(Instant, Progress)>,
    stored: &AtomicU64,
) -> Result<(Ledger, Duration)> {
    const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
    let mut answered = 0;
    let mut shown = 0;
    // The time of the last answer, and the number of buyers who won.
    let mut last_answer: Option<(Instant, u64)> = None;
    loop {
        match receiver.recv_timeout(Duration::from_millis(if last_answer.is_some() { 20 } else { 250 })) {
            Ok((at, progress)) => {
                answered = progress.counts.settled();
                if answered == progress.buyers && last_answer.is_none() {
                    last_answer = Some((at, progress.counts.won));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if last_answer.is_none() => {
                bail!("{name}: the crowd got no complete answer")
            }
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(20)),
        }
        let ledger = site.stores.ledger(&site.names.sales, name)?.unwrap_or_default();
        stored.store(ledger.orders, Ordering::Relaxed);
        if let Some((at, won)) = last_answer
            && (ledger.orders >= won || at.elapsed() > DRAIN_TIMEOUT)
        {
            return Ok((ledger, at.elapsed()));
        }
        if ledger.orders > shown {
            shown = ledger.orders;
            screen.say(format!("{name}: {answered} answered, {shown} orders in MySQL"));
        }
    }
}

fn test_after_end(site: &Site, screen: &Screen, watch: &Watch, case: &mut RunningCase) -> Result<()> {
    let name = &case.planned.name;
    let ended = |history: &watch::SaleHistory| history.phases.iter().any(|p| p == "Ended" || p == "Settled");
    screen.waiting(&format!("waiting for the end of {name}"), || {
        watch.wait_for(name, "its end", Duration::from_secs(90), ended)
    })?;
    let late = outsiders(site, screen, name)?;
    screen.say(format!("{name}: {} buyers after the end: {}", late.buyers, late.counts));
    case.sale.ended = late.counts.ended;
    if late.counts.ended + late.counts.sold_out != late.buyers {
        let answers = samples(&late);
        case.differences
            .push(format!("{name}: after the end: {}{answers}", late.counts));
    }
    let settled = |history: &watch::SaleHistory| history.phase() == "Settled";
    let history = screen.waiting(&format!("waiting until {name} is settled"), || {
        watch.wait_for(name, "Settled", Duration::from_secs(90), settled)
    })?;
    case.sale.phases = history.phases;
    let ledger = site.stores.ledger(&site.names.sales, name)?;
    let ledger = ledger.with_context(|| format!("{name} is no longer in MySQL"))?;
    case.sale.orders_in_mysql = ledger.orders;
    case.sale.stock_left_mysql = ledger.left;
    if ledger.units_in_orders != ledger.orders {
        case.differences.push(format!(
            "{name}: {} units in {} orders, expected one unit per order",
            ledger.units_in_orders, ledger.orders
        ));
    }
    Ok(())
}

/// Sends buyers outside the sale's window.
fn outsiders(site: &Site, screen: &Screen, name: &str) -> Result<Answers> {
    let (sale, buyers) = (
        format!("{}/{name}", site.names.sales),
        BUYERS_OUTSIDE_WINDOW.to_string(),
    );
    let args = [
        &site.api_url,
        "--sale",
        &sale,
        "--buyers",
        &buyers,
        "--over",
        "200ms",
        "--in-flight",
        "20",
    ];
    load::send(&site.load, &args, screen, || name.to_owned(), |_| ())
}

/// Uses the old demo's routes: lists the items, sends more buyers than units, and queries an order.
fn buy_by_old_routes(
    site: &Site,
    screen: &Screen,
    watch: &Watch,
    planned: &Planned,
    item_id: u64,
) -> Result<Vec<String>> {
    let name = &planned.name;
    screen.waiting(&format!("waiting until {name} is open"), || {
        watch.wait_for(name, "Open", Duration::from_secs(60), |history| {
            history.phases.iter().any(|p| p == "Open")
        })
    })?;
    // A sale that opens immediately has no lead time in which every API process discovers its index.
    std::thread::sleep(Duration::from_secs(1));
    let url = &site.old_routes_url;
    let get = |path: &str| {
        let retries = ["--retry", "5", "--retry-connrefused", "--max-time", "20"];
        site.curl.with(retries).text(&["-sS", &format!("{url}{path}")])
    };
    for path in ["/items/get-list".to_string(), format!("/items/get-info?id={item_id}")] {
        screen.say(format!("GET {path}: {}", shortened(&get(&path)?)));
    }
    let numbers = site.state.join(format!("{name}.orders"));
    let (item, buyers) = (item_id.to_string(), (planned.units + 5).to_string());
    let numbers_arg = numbers.display().to_string();
    let args = [
        url,
        "--item",
        &item,
        "--buyers",
        &buyers,
        "--over",
        "500ms",
        "--in-flight",
        "5",
        "--orders-file",
        &numbers_arg,
    ];
    let answers = load::send(&site.load, &args, screen, || name.to_owned(), |_| ())?;
    screen.say(format!(
        "POST /seckill/buy by {buyers} buyers for {} units: {}",
        planned.units, answers.counts
    ));
    let numbers = std::fs::read_to_string(&numbers)?;
    if let Some(number) = numbers.lines().next() {
        let path = format!("/seckill/query_order?order_id={number}");
        screen.say(format!("GET {path}: {}", shortened(&get(&path)?)));
    }
    let mut differences: Vec<String> = answers
        .checks
        .iter()
        .filter(|c| !c.passed)
        .map(|c| format!("old routes: {}", c.what))
        .collect();
    if (answers.counts.won, answers.counts.sold_out) != (planned.units, 5) {
        differences.push(format!("old routes: {}{}", answers.counts, samples(&answers)));
    }
    Ok(differences)
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((at, _)) => format!("{} ...", &line[..at]),
        None => line,
    }
}

fn samples(answers: &Answers) -> String {
    answers
        .samples
        .iter()
        .map(|s| format!("; {} x {}", s.buyers, s.said))
        .collect()
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn until(time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default()
}

fn show(site: &Site, screen: &Screen, report: &Report) -> Result<()> {
    let folder = site.repository.join("target/demo");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("report.json");
    std::fs::write(&file, serde_json::to_string_pretty(report)? + "\n")?;
    screen.plain("");
    for line in report::table(&report.sales) {
        screen.plain(line);
    }
    screen.plain("");
    for sale in &report.sales {
        screen.plain(format!("  {}: {}", sale.name, sale.phases.join(" > ")));
    }
    let versions: Vec<_> = report
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    screen.plain(format!("  {}", versions.join(", ")));
    screen.plain("");
    screen.say("report: target/demo/report.json");
    Ok(())
}
