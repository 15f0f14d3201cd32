//! `cargo xtask demo --context`, on a cluster that others use too.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{Cluster, Release, Sale, Scenario, wait_until};
use serde_json::json;

/// `cargo xtask test extended` runs them.
pub const SCENARIOS: &[Scenario] = &[(
    "the_demo_leaves_what_it_did_not_create",
    the_demo_leaves_what_it_did_not_create,
)];

const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// The namespace of the sales of a demo in a cluster that nobody else uses.
const SHOP: &str = "shop";

fn the_demo_leaves_what_it_did_not_create(release: &Release) -> Result<()> {
    let cluster = &release.cluster;
    if cluster.get("namespace", "default", SHOP)?.is_none() {
        cluster.create_namespace(SHOP, json!({"seckill.dev/e2e": release.name}))?;
    }
    let namespace = release.sales_namespace()?;
    let manifest = Sale::manifest(&release.class, &namespace, "others", 10, -1, 1200);
    let others = Sale::apply(cluster, &manifest)?;
    others.wait_for_phase("Open", WAIT_LIMIT)?;
    let before = names(cluster)?;

    let mut demo = Demo::start()?;
    let made = wait_until("the sale of the demo", WAIT_LIMIT, || {
        demo.check_running()?;
        let new = names(cluster)?;
        Ok(new.into_iter().find_map(|name| {
            let namespace = name.strip_prefix("namespace/seckill-demo-")?;
            Some(format!("seckill-demo-{}", namespace.strip_suffix("-sales")?))
        }))
    })?;
    // The buyers come through one pod. Another one takes over.
    wait_until("the sale of the demo to be ready", WAIT_LIMIT, || {
        demo.check_running()?;
        let sale = cluster.get("flashsale", &format!("{made}-sales"), "fifty-units")?;
        Ok(sale.and_then(|sale| sale["status"]["readyAt"].is_string().then_some(())))
    })?;
    let api = ["-l", "app.kubernetes.io/component=api", "--wait=false"];
    cluster.kubectl(&[&["delete", "pod", "-n", &made], &api[..]].concat())?;
    demo.wait()?;

    let after = names(cluster)?;
    let (deleted, left): (Vec<_>, Vec<_>) = (before.difference(&after).collect(), after.difference(&before).collect());
    ensure!(
        deleted.is_empty() && left.is_empty(),
        "the demo has deleted {deleted:?} of others, and left {left:?}"
    );
    let others = others.status()?;
    ensure!(others["phase"] == "Open", "the sale of others: {others}");
    ensure!(!release.pods("api")?.is_empty(), "the release of others is gone");
    Ok(())
}

/// The objects that a demo creates outside its own namespaces, and the releases of all namespaces.
fn names(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = "customresourcedefinitions,clusterroles,clusterrolebindings";
    let objects = cluster.kubectl(&["get", kinds, "-o", "name"])?;
    // A namespace that an earlier test has deleted may end meanwhile.
    let active = ["--field-selector=status.phase=Active", "-o", "name"];
    let namespaces = cluster.kubectl(&[&["get", "namespaces"], &active[..]].concat())?;
    let releases = cluster.helm(&["list", "-A", "-q"])?;
    let names = [objects, namespaces, releases];
    Ok(names
        .iter()
        .flat_map(|names| names.lines())
        .map(str::to_owned)
        .collect())
}

/// A running demo. Its output is in a file.
struct Demo {
    process: Child,
    output: PathBuf,
}

impl Demo {
    /// The command is in SECKILL_DEMO, as a list in JSON.
    fn start() -> Result<Self> {
        let command =
            std::env::var("SECKILL_DEMO").context("SECKILL_DEMO is not set; run `cargo xtask test extended`")?;
        let command: Vec<String> = serde_json::from_str(&command)?;
        let (program, args) = command.split_first().context("SECKILL_DEMO is empty")?;
        let output = std::env::temp_dir().join(format!("seckill-demo-{}.log", std::process::id()));
        let file = std::fs::File::create(&output)?;
        let process = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| program.clone())?;
        Ok(Demo { process, output })
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn check_running(&mut self) -> Result<()> {
        let exited = self.process.try_wait()?;
        ensure!(exited.is_none(), "the demo has ended: {}", self.text());
        Ok(())
    }

    /// Waits until it has succeeded.
    fn wait(mut self) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status.success(), "{status}: {}", self.text());
        std::fs::remove_file(&self.output)?;
        Ok(())
    }
}
