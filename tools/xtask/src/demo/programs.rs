//! The demo without a cluster: real Kafka, MySQL and Redis, and the three programs as processes of this machine. The operator
//! reads the FlashSales from a folder.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::args::Args;
use super::run::{AS_PROCESSES, DrawnSale, OLD_ROUTES_SALE, ON_CLUSTER, apply, cases, run_sales, run_to_draw, window};
use super::screen::Screen;
use super::site::Site;
use super::watch::Watch;
use crate::command::output;
use crate::environment::{Environment, MYSQL_PASSWORD};
use crate::process::Processes;
use crate::programs::{DEV, LOAD, Profile, QUICK, build};
use crate::scope::Scope;
use crate::up::up;
use crate::{consent, down};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const API_PORT: u16 = 8080;
const OLD_ROUTES_PORT: u16 = 8888;
/// The sale that is left open for the user.
const SALE_TO_TRY: &str = "to-try";
const TRY_DURATION: Duration = Duration::from_secs(3600);

/// A program that runs until the demo ends.
struct Program {
    /// Of its process and its log.
    name: &'static str,
    binary: &'static str,
    admin_port: u16,
}

const OPERATOR: Program = Program {
    name: "demo-operator",
    binary: "operator",
    admin_port: 9190,
};
const API: Program = Program {
    name: "demo-api",
    binary: "seckill-api",
    admin_port: 9191,
};
const WORKER: Program = Program {
    name: "demo-worker",
    binary: "order-worker",
    admin_port: 9192,
};

const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

const PROGRAMS: [Program; 3] = [API, WORKER, OPERATOR];

pub fn demo(args: &Args) -> Result<()> {
    consent::ask(args.yes, Scope::Stores)?;
    let was_up = Environment::load().is_ok();
    let env = up(Scope::Stores)?;
    let screen = Screen::new();
    let small = args.small;
    if args.keep {
        return keep(&env, &screen, small);
    }
    let result = with_programs(&env, &QUICK, &screen, |site, _| {
        run_sales(site, &screen, cases(small), &AS_PROCESSES)
    });
    stop(&env)?;
    screen.plain("");
    screen.plain("To try it yourself: cargo xtask demo --keep");
    screen.plain("The same sales on Kubernetes: cargo xtask demo --cluster (it builds a cluster first)");
    match was_up {
        true => result,
        false => result.and(down::down()),
    }
}

/// The sales, and then one that stays open with its programs.
fn keep(env: &Environment, screen: &Screen, small: bool) -> Result<()> {
    with_programs(env, &QUICK, screen, |site, _| {
        run_sales(site, screen, cases(small), &AS_PROCESSES)?;
        leave_open(env, site, screen)
    })
}

/// `cargo xtask demo --small --keep` for a caller who has the lock.
pub fn keep_small() -> Result<()> {
    keep(&up(Scope::Stores)?, &Screen::new(), true)
}

/// Runs the first sale with debug builds of the programs, and then `check`. It gets a function that stops a program by its name.
pub fn small_sale(env: &Environment, check: impl FnOnce(&dyn Fn(&str) -> Result<()>) -> Result<()>) -> Result<()> {
    let screen = Screen::new();
    let result = with_programs(env, &DEV, &screen, |site, processes| {
        // The schedule of a cluster leaves time for debug builds on a busy machine.
        run_sales(site, &screen, cases(true), &ON_CLUSTER)?;
        check(&|name| {
            let mut programs = PROGRAMS.iter().filter(|program| program.binary == name);
            programs.try_for_each(|program| processes.stop(program.name))
        })
    });
    result.and(stop(env))
}

/// Runs the sale of `cargo xtask picture`, and then `draw`.
pub fn sale_to_draw(env: &Environment, draw: impl FnOnce(&DrawnSale) -> Result<()>) -> Result<()> {
    let screen = Screen::new();
    let result = with_programs(env, &QUICK, &screen, |site, _| draw(&run_to_draw(site, &screen)?));
    result.and(stop(env))
}

/// Of each program: its name, and the address of its metrics.
pub fn metrics_addresses(env: &Environment) -> [(&'static str, String); 3] {
    PROGRAMS.map(|program| {
        let address = format!("{}:{}", env.node_address, program.admin_port);
        (program.binary, address)
    })
}

/// Builds and starts the programs, and saves their logs if `work` fails.
fn with_programs(
    env: &Environment,
    profile: &Profile,
    screen: &Screen,
    work: impl FnOnce(&Site, &Processes) -> Result<()>,
) -> Result<()> {
    let binaries = build(profile)?;
    let url = |port: u16| format!("http://{}:{port}", env.node_address);
    let load = binaries.join(LOAD);
    let site = Site::local(env, &load, url(API_PORT), url(OLD_ROUTES_PORT))?;
    let processes = Processes::new(&env.state)?;
    let result = start(env, &binaries, &processes, screen).and_then(|()| work(&site, &processes));
    if result.is_err() {
        let logs = save_logs(&site, &processes)?;
        screen.say(format!("the programs' logs: {}", logs.display()));
    }
    result
}

fn stop(env: &Environment) -> Result<()> {
    let processes = Processes::new(&env.state)?;
    PROGRAMS.iter().try_for_each(|program| processes.stop(program.name))
}

/// Migrates the schema, and starts the three programs.
fn start(env: &Environment, binaries: &Path, processes: &Processes, screen: &Screen) -> Result<()> {
    let sales = env.sales();
    fs::create_dir_all(&sales).with_context(|| sales.display().to_string())?;
    let mut migrate = command(env, binaries, &WORKER);
    migrate.args(["migrate", "--create-topic"]);
    screen.waiting("order-worker migrate", || output(&mut migrate))?;

    let mut operator = command(env, binaries, &OPERATOR);
    operator.arg("run").arg("--sales").arg(&sales);
    let mut worker = command(env, binaries, &WORKER);
    worker.arg("run");
    let programs = [
        (OPERATOR, operator),
        (WORKER, worker),
        (API, command(env, binaries, &API)),
    ];
    for (program, mut command) in programs {
        processes.start(program.name, &mut command)?;
        screen.waiting(&format!("starting {}", program.binary), || {
            processes.wait(program.name, START_TIMEOUT, || {
                let url = format!("http://{}:{}/readyz", env.node_address, program.admin_port);
                let mut curl = env.command("curl");
                output(curl.args(["-sS", "--fail-with-body", "-m", "2", &url])).map(drop)
            })
        })?;
    }
    screen.say("operator, order-worker and seckill-api are ready");
    Ok(())
}

fn command(env: &Environment, binaries: &Path, program: &Program) -> Command {
    let node = &env.node_address;
    let user = match program.binary {
        "order-worker" => "worker",
        "seckill-api" => "api",
        _ => "operator",
    };
    let variables: BTreeMap<&str, String> = [
        ("SECKILL_ADMIN_LISTEN", format!("{node}:{}", program.admin_port)),
        ("SECKILL_LOG_FORMAT", "text".into()),
        ("SECKILL_POD_NAME", program.name.into()),
        ("SECKILL_REDIS_URL", env.redis_url()),
        ("SECKILL_KAFKA_BROKERS", env.kafka_brokers()),
        ("SECKILL_MYSQL_URL", env.mysql_url(user, "seckill")),
        ("SECKILL_MIGRATE_MYSQL_URL", env.mysql_url("migrate", "seckill")),
        // There is one broker.
        ("SECKILL_TOPIC_REPLICATION", "1".into()),
        ("SECKILL_TOPIC_MIN_INSYNC", "1".into()),
        ("SECKILL_LISTEN", format!("{node}:{API_PORT}")),
        ("SECKILL_LEGACY_LISTEN", format!("{node}:{OLD_ROUTES_PORT}")),
        // Of a demo, so no secret.
        ("SECKILL_ORDER_NO_KEYS", "1:00112233445566778899aabbccddeeff".into()),
    ]
    .into();
    let mut command = env.command(binaries.join(program.binary));
    command.envs(variables);
    command
}

/// Leaves a sale open, and says what to do with it.
fn leave_open(env: &Environment, site: &Site, screen: &Screen) -> Result<()> {
    let item_id = site.stores.new_item_id()?;
    let window = window(Timestamp::now(), Duration::ZERO, TRY_DURATION)?;
    let planned = apply(site, screen, OLD_ROUTES_SALE, SALE_TO_TRY, item_id, window)?;
    let (namespace, name) = (&site.names.sales, &planned.name);
    let watch = Watch::start(&site.flash_sales, namespace, screen)?;
    watch.wait_for(name, "Open", OPEN_TIMEOUT, |history| history.phase() == "Open")?;
    let folder = env.sales();
    let sale = format!("{}/v1/sales/{namespace}/{name}", site.api_url);
    let lines = [
        String::new(),
        "Everything keeps running. Next steps, from this folder:".into(),
        String::new(),
        format!("  cargo xtask exec -- curl -s {sale}"),
        format!(
            "  cargo xtask exec -- curl -s {sale}/orders -H \"Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)\" --json '{{\"quantity\":1}}'"
        ),
        format!(
            "  $EDITOR {}   # raise stock, or set suspend: true",
            folder.join(format!("{name}.yaml")).display()
        ),
        format!(
            "  cat {}",
            folder
                .join(".seckill/status")
                .join(namespace)
                .join(format!("{name}.yaml"))
                .display()
        ),
        format!(
            "  cat {}   # why a manifest was refused",
            folder.join(".seckill/problems.yaml").display()
        ),
        format!(
            "  cargo xtask exec -- mysql -h {} -u root -p{MYSQL_PASSWORD} seckill -e 'SELECT * FROM orders ORDER BY created_at DESC LIMIT 3'",
            env.node_address
        ),
        format!(
            "  tail -f {}   # its events",
            site.state.join("processes/demo-operator.log").display()
        ),
        "  cargo xtask demo --cluster   # the same on Kubernetes".into(),
        "  cargo xtask down             # stop everything and delete it".into(),
    ];
    lines.iter().for_each(|line| screen.plain(line));
    Ok(())
}

/// Copies the programs' logs to `target/demo/logs`.
fn save_logs(site: &Site, processes: &Processes) -> Result<PathBuf> {
    let folder = site.repository.join("target/demo/logs");
    fs::create_dir_all(&folder)?;
    for program in PROGRAMS {
        let log = processes.log(program.name);
        if log.exists() {
            fs::copy(log, folder.join(format!("{}.log", program.binary)))?;
        }
    }
    Ok(folder)
}
