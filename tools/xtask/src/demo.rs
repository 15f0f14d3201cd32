//! `cargo xtask demo`: a release on a cluster, two crowds, and what became of every unit.
mod context;
mod install;
mod load;
mod report;
mod sales;
mod screen;
mod site;
mod stores;
mod tool;
mod watch;

pub use install::local_values;

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};

use load::{Answers, Progress};
use report::{Report, Sale};
use sales::{Planned, Window};
use screen::Screen;
use site::Site;
use stores::Ledger;
use watch::Watch;

/// Where the sales are.
const NAMESPACE: &str = "shop";

/// Buyers who come before the start, and as many after the end.
const OUTSIDE: u64 = 20;

/// Between a sale's start and its crowd: the servers' clocks decide what is too early, not ours.
const AFTER_START: Duration = Duration::from_millis(300);

/// One of the old demo's two load cases.
struct Case {
    /// In `examples/demo.yaml`.
    sale: &'static str,
    buyers: u64,
    in_flight: u64,
    /// From the moment the sales are applied.
    starts_after: Duration,
    lasts: Duration,
}

/// The second one starts when the first one's crowd is gone, and is prepared meanwhile.
const CASES: [Case; 2] = [
    Case {
        sale: "fifty-units",
        buyers: 300,
        in_flight: 300,
        starts_after: Duration::from_secs(35),
        lasts: Duration::from_secs(25),
    },
    Case {
        sale: "ten-thousand-units",
        buyers: 20_000,
        in_flight: 3_000,
        starts_after: Duration::from_secs(50),
        lasts: Duration::from_secs(25),
    },
];

/// The sale that is bought by the old demo's routes; its start is in the past, so it opens at once.
const OLD_ROUTES_SALE: &str = "old-routes";
const OLD_ROUTES_ITEM: u64 = 1;

/// A case while it is played.
struct Played {
    planned: Planned,
    sale: Sale,
    differences: Vec<String>,
}

/// `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave it running afterwards, and say how to use it
    #[arg(long)]
    keep: bool,
    /// Answer yes to all questions
    #[arg(long)]
    yes: bool,
    /// Use a cluster that exists, by the name of its context, instead of building one. Never run by us: where it was
    /// written there is neither Docker nor another cluster
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// With --context: the image that the cluster has, for example seckill:dev
    #[arg(long, requires = "context", value_name = "NAME:TAG")]
    image: Option<String>,
    /// With --context: where the cluster's ingress answers. Without it the buyers come by kubectl port-forward, which
    /// is made for a look, not for 20,000 buyers
    #[arg(long, requires = "context")]
    url: Option<String>,
    /// With --url: the ingress class, if it is not the cluster's default
    #[arg(long, requires = "url", default_value = "", hide_default_value = true)]
    ingress_class: String,
    /// With --context: values of the chart that name servers of your own, instead of examples/values-trying-out.yaml and the
    /// servers of examples/dependencies.yaml
    #[arg(long, requires_all = ["context", "mysql", "redis"], value_name = "FILE")]
    values: Option<PathBuf>,
    /// With --values: a command that asks that MySQL, for example "mysql --defaults-file=my.cnf seckill"
    #[arg(long, requires = "values", value_name = "COMMAND")]
    mysql: Option<String>,
    /// With --values: a command that asks that Redis, for example "redis-cli -h redis.example"
    #[arg(long, requires = "values", value_name = "COMMAND")]
    redis: Option<String>,
}

/// The whole demo, from a bare machine or on a cluster that exists.
pub fn demo(args: &Args) -> Result<()> {
    if let Some(context) = &args.context {
        let screen = Screen::new();
        let site = context::site(args, context, &screen)?;
        install::install(&site, &screen)?;
        let forward = if args.url.is_none() {
            Some(context::Forward::start(&site)?)
        } else {
            None
        };
        let played = play(&site, &screen);
        drop(forward);
        return end(&site, &screen, played, args.keep);
    }
    let _lock = crate::lock()?;
    crate::consent(args.yes)?;
    let env = crate::up(crate::Up::Cluster)?;
    let tag = crate::images::product(&env)?;
    let site = Site::local(&env, install::local_values(&env, &tag)?)?;
    let screen = Screen::new();
    let played = install::install(&site, &screen).and_then(|()| play(&site, &screen));
    let ended = end(&site, &screen, played, args.keep);
    if args.keep {
        usage(&site, &screen);
        return ended;
    }
    let down = crate::down::down();
    ended.and(down)
}

/// Takes the release away, or keeps it; of a demo that failed the programs' logs are kept.
fn end(site: &Site, screen: &Screen, played: Result<()>, keep: bool) -> Result<()> {
    if played.is_err() {
        match install::save_logs(site) {
            Ok(folder) => screen.say(format!("the programs' logs: {}", folder.display())),
            Err(error) => screen.say(format!("the programs' logs can't be had: {error:#}")),
        }
    }
    let ended = if keep {
        Ok(())
    } else {
        install::uninstall(site, screen, NAMESPACE)
    };
    played.and(ended)
}

/// How to go on with what was left running.
fn usage(site: &Site, screen: &Screen) {
    let lines = [
        "It runs on. From this folder:".to_string(),
        String::new(),
        "  cargo xtask exec -- bash                      # a shell inside its network, with kubectl, helm, mysql, redis-cli".into(),
        "  cargo xtask exec -- kubectl get pods -n seckill".into(),
        format!("  cargo xtask exec -- kubectl get fsale -n {NAMESPACE} -w"),
        format!("  cargo xtask exec -- kubectl describe fsale -n {NAMESPACE}"),
        format!("  cargo xtask exec -- curl -s {}/v1/sales", site.api_url),
        format!(
            "  cargo xtask exec -- curl -s {}/v1/sales/{NAMESPACE}/NAME/orders -H \"Idempotency-Key: $(uuidgen)\" --json '{{\"quantity\":1}}'",
            site.api_url
        ),
        "  cargo xtask down                              # takes all of it away".into(),
    ];
    for line in lines {
        screen.plain(line);
    }
}

/// Plays the sales on a site where the release is installed, and checks every unit.
fn play(site: &Site, screen: &Screen) -> Result<()> {
    site.kubectl.fed(
        &["apply", "-f", "-"],
        Some(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"
        )),
    )?;
    let watch = Watch::start(&site.kubectl, NAMESPACE, screen)?;
    let example = std::fs::read_to_string(site.repository.join("examples/demo.yaml")).context("examples/demo.yaml")?;

    let now = Timestamp::now();
    let old_routes = apply(
        site,
        screen,
        &example,
        OLD_ROUTES_SALE,
        window(now, Duration::ZERO, Duration::from_secs(60))?,
    )?;
    let mut played = Vec::new();
    for case in &CASES {
        let planned = apply(
            site,
            screen,
            &example,
            case.sale,
            window(now, case.starts_after, case.lasts)?,
        )?;
        let sale = Sale {
            name: planned.name.clone(),
            ..Sale::default()
        };
        played.push(Played {
            planned,
            sale,
            differences: Vec::new(),
        });
    }

    let mut differences = buy_by_old_routes(site, screen, &watch, &old_routes)?;
    for (case, played) in CASES.iter().zip(&mut played) {
        before_the_start(site, screen, &watch, played)?;
        the_crowd(site, screen, case, played)?;
    }
    for played in &mut played {
        after_the_end(site, screen, &watch, played)?;
    }

    let mut report = Report {
        versions: site.versions()?,
        ..Report::default()
    };
    for played in played {
        differences.extend(played.differences);
        differences.extend(played.sale.differences(played.planned.units));
        report.sales.push(played.sale);
    }
    show(site, screen, &report)?;
    if !differences.is_empty() {
        bail!("not as it must be:\n  {}", differences.join("\n  "));
    }
    screen.say("Every buyer was answered, every unit is accounted for, Redis and MySQL agree.");
    Ok(())
}

fn window(now: Timestamp, after: Duration, lasts: Duration) -> Result<Window> {
    let starts_at = now.checked_add(SignedDuration::try_from(after)?)?;
    Ok(Window {
        starts_at,
        ends_at: starts_at.checked_add(SignedDuration::try_from(lasts)?)?,
    })
}

/// Applies one of the example's sales, under a name that the ledger does not know yet: a sale runs once.
fn apply(site: &Site, screen: &Screen, example: &str, sale: &str, window: Window) -> Result<Planned> {
    let mut name = sale.to_string();
    let mut next = 2;
    while site.stores.ledger(NAMESPACE, &name)?.is_some() {
        name = format!("{sale}-{next}");
        next += 1;
    }
    let planned = sales::plan(example, sale, &name, window)?;
    site.kubectl
        .fed(&["apply", "-n", NAMESPACE, "-f", "-"], Some(&planned.manifest))?;
    let starts_in = planned.starts_at.duration_since(Timestamp::now()).as_secs();
    let when = if starts_in > 0 {
        format!("starts in {starts_in} s")
    } else {
        "starts at once".into()
    };
    screen.say(format!(
        "kubectl apply: {NAMESPACE}/{name}, {} units, {when}",
        planned.units
    ));
    Ok(planned)
}

fn before_the_start(site: &Site, screen: &Screen, watch: &Watch, played: &mut Played) -> Result<()> {
    let name = &played.planned.name;
    let starts_at = played.planned.starts_at;
    let left = until(starts_at);
    let seen = screen.waiting(&format!("{name} gets ready"), || {
        watch.wait_for(name, "Ready before its start", left, |seen| {
            seen.status["readyAt"].is_string()
        })
    })?;
    let lead = starts_at.duration_since(sales::time(&seen.status, "readyAt")?);
    played.sale.ready_lead_s = thousandths(lead.as_secs_f64());
    screen.say(format!("{name}: ready {:.1} s before its start", lead.as_secs_f64()));

    let early = outsiders(site, screen, name)?;
    played.sale.not_started = early.counts.not_started;
    screen.say(format!(
        "{name}: {} buyers come too early: {}",
        early.buyers, early.counts
    ));
    if early.counts.not_started != early.buyers {
        let said = samples(&early);
        played
            .differences
            .push(format!("{name}: before the start: {}{said}", early.counts));
    }
    Ok(())
}

/// The crowd, the way of its orders into MySQL, and what Redis has left.
fn the_crowd(site: &Site, screen: &Screen, case: &Case, played: &mut Played) -> Result<()> {
    let name = &played.planned.name;
    screen.waiting(&format!("{name} starts"), || {
        std::thread::sleep(until(played.planned.starts_at) + AFTER_START)
    });
    screen.say(format!(
        "{name}: {} buyers for {} units, over 1 s, at most {} in flight",
        case.buyers, played.planned.units, case.in_flight
    ));
    let numbers = site.state.join(format!("{name}.orders"));
    let (sale, buyers, in_flight) = (
        format!("{NAMESPACE}/{name}"),
        case.buyers.to_string(),
        case.in_flight.to_string(),
    );
    let units = played.planned.units.to_string();
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

    let (heard, hears) = mpsc::channel();
    let (answers, drained) = std::thread::scope(|scope| {
        let draining = scope.spawn(|| drain(site, screen, name, hears));
        let answers = load::send(&site.load, &args, screen, |progress| {
            _ = heard.send((Instant::now(), progress))
        });
        drop(heard);
        let drained = draining.join().unwrap_or_else(|_| bail!("the look at MySQL failed"));
        Ok::<_, anyhow::Error>((answers?, drained?))
    })?;
    screen.say(format!(
        "{name}: {}; half of them answered within {:.1} ms, 99 % within {:.1} ms",
        answers.counts, answers.latency.from_send.p50_ms, answers.latency.from_send.p99_ms
    ));
    for check in answers.checks.iter().filter(|check| !check.passed) {
        played.differences.push(format!("{name}: {}", check.what));
    }
    if answers.counts.other + answers.counts.unanswered > 0 {
        screen.say(format!("{name}: other answers{}", samples(&answers)));
    }
    let (ledger, took) = drained;
    let told: std::collections::HashSet<String> =
        std::fs::read_to_string(&numbers)?.lines().map(str::to_string).collect();
    let sale = &mut played.sale;
    sale.stock_left_redis = site.stores.left_in_redis(&ledger.id)?;
    sale.buyers = case.buyers;
    sale.answered = answers.answered;
    sale.won = answers.counts.won;
    sale.sold_out = answers.counts.sold_out;
    sale.other = answers.counts.other + answers.counts.not_started + answers.counts.ended;
    sale.distinct_orders = told.len() as u64;
    sale.p50_ms = answers.latency.from_send.p50_ms;
    sale.p99_ms = answers.latency.from_send.p99_ms;
    sale.drained_s = thousandths(took.as_secs_f64());
    let in_redis = sale.stock_left_redis.map_or("no index".into(), |left| left.to_string());
    screen.say(format!(
        "{name}: {} orders in MySQL {:.1} s after the last answer; left: {in_redis} in Redis, {} in MySQL",
        ledger.orders, sale.drained_s, ledger.left
    ));
    Ok(())
}

/// Follows the orders into MySQL, from the first one until all that were won are there.
fn drain(
    site: &Site,
    screen: &Screen,
    name: &str,
    hears: mpsc::Receiver<(Instant, Progress)>,
) -> Result<(Ledger, Duration)> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let mut answered = 0;
    let mut shown = 0;
    // When the last buyer was answered, and how many won.
    let mut last_answer: Option<(Instant, u64)> = None;
    loop {
        match hears.recv_timeout(Duration::from_millis(if last_answer.is_some() { 20 } else { 250 })) {
            Ok((at, progress)) => {
                answered = progress.counts.settled();
                if answered == progress.buyers && last_answer.is_none() {
                    last_answer = Some((at, progress.counts.won));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if last_answer.is_none() => {
                bail!("{name}: the crowd was never answered")
            }
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(20)),
        }
        let ledger = site.stores.ledger(NAMESPACE, name)?.unwrap_or_default();
        if let Some((at, won)) = last_answer
            && (ledger.orders >= won || at.elapsed() > PATIENCE)
        {
            return Ok((ledger, at.elapsed()));
        }
        if ledger.orders > shown {
            shown = ledger.orders;
            screen.say(format!("{name}: {answered} answered, {shown} orders in MySQL"));
        }
    }
}

fn after_the_end(site: &Site, screen: &Screen, watch: &Watch, played: &mut Played) -> Result<()> {
    let name = &played.planned.name;
    let ended = |seen: &watch::Seen| seen.phases.iter().any(|p| p == "Ended" || p == "Settled");
    screen.waiting(&format!("{name} ends"), || {
        watch.wait_for(name, "its end", Duration::from_secs(90), ended)
    })?;
    let late = outsiders(site, screen, name)?;
    screen.say(format!("{name}: {} buyers come too late: {}", late.buyers, late.counts));
    played.sale.ended = late.counts.ended;
    if late.counts.ended + late.counts.sold_out != late.buyers {
        let said = samples(&late);
        played
            .differences
            .push(format!("{name}: after the end: {}{said}", late.counts));
    }
    let settled = |seen: &watch::Seen| seen.phase() == "Settled";
    let seen = screen.waiting(&format!("{name} settles"), || {
        watch.wait_for(name, "Settled", Duration::from_secs(90), settled)
    })?;
    played.sale.phases = seen.phases;
    let ledger = site.stores.ledger(NAMESPACE, name)?;
    let ledger = ledger.with_context(|| format!("MySQL does not know {name} any more"))?;
    played.sale.orders_in_mysql = ledger.orders;
    played.sale.stock_left_mysql = ledger.left;
    if ledger.units_in_orders != ledger.orders {
        played.differences.push(format!(
            "{name}: {} units in {} orders of one",
            ledger.units_in_orders, ledger.orders
        ));
    }
    Ok(())
}

/// Buyers outside the window.
fn outsiders(site: &Site, screen: &Screen, name: &str) -> Result<Answers> {
    let (sale, buyers) = (format!("{NAMESPACE}/{name}"), OUTSIDE.to_string());
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
    load::send(&site.load, &args, screen, |_| ())
}

/// The old demo's client: sees the items, buys, queries its order, and more buyers than units come.
fn buy_by_old_routes(site: &Site, screen: &Screen, watch: &Watch, planned: &Planned) -> Result<Vec<String>> {
    let name = &planned.name;
    screen.waiting(&format!("{name} opens"), || {
        watch.wait_for(name, "Open", Duration::from_secs(60), |seen| {
            seen.phases.iter().any(|p| p == "Open")
        })
    })?;
    // A sale that opens at once has no lead time in which every API process learns of its index.
    std::thread::sleep(Duration::from_secs(1));
    let url = &site.old_routes_url;
    let get = |path: &str| site.curl.text(&["-sS", "--max-time", "10", &format!("{url}{path}")]);
    for path in [
        "/items/get-list".to_string(),
        format!("/items/get-info?id={OLD_ROUTES_ITEM}"),
    ] {
        screen.say(format!("GET {path}: {}", shortened(&get(&path)?)));
    }
    let numbers = site.state.join(format!("{name}.orders"));
    let (item, buyers) = (OLD_ROUTES_ITEM.to_string(), (planned.units + 5).to_string());
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
    let answers = load::send(&site.load, &args, screen, |_| ())?;
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
    screen.say("written: target/demo/report.json");
    Ok(())
}
