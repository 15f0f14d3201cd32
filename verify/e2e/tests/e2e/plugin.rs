//! `kubectl seckill`, as kubectl finds it on the PATH. Its output in docs/kubectl-plugin.md is what this scenario sees:
//! `UPDATE=1 cargo xtask test e2e kubectl_seckill` writes it there.
//!
//! `SECKILL_PLUGIN` is the program.
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{Release, Sale, Scenario, buy_during, repository};

use crate::sales::WAIT_LIMIT;

pub const SCENARIOS: &[Scenario] = &[(
    "kubectl_seckill_shows_a_sale_suspends_it_and_writes_a_report",
    kubectl_seckill,
)];

fn kubectl_seckill(release: &Release) -> Result<()> {
    let plugin = Plugin::install(release)?;
    let namespace = release.sales_namespace()?;
    let manifest = Sale::manifest(&release.class, &namespace, "phone", 10_000, -1, 3600);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let in_namespace = |words: &[&str]| plugin.run(&[words, &["-n", &namespace]].concat());

    let mut top = String::new();
    let path = format!("{namespace}/phone");
    let load = buy_during(&release.api, &path, || {
        top = in_namespace(&["top", "--once", "--interval=3"])?;
        Ok(())
    })?;
    load.check(&release.api)?;
    let api = row(&top, &format!("{}-seckill-api", release.name))?;
    ensure!(figure(&api[1])? > 0, "nothing was sold per second: {top}");
    let worker = row(&top, &format!("{}-seckill-worker", release.name))?;
    ensure!(figure(&worker[1])? > 0, "nothing was stored per second: {top}");

    let all = in_namespace(&["status"])?;
    let cells = row(&all, &namespace)?;
    ensure!(cells[1..4] == ["phone", "Open", "10,000"], "{all}");
    let one = in_namespace(&["status", "phone"])?;
    ensure!(one.contains(": Open") && one.contains(" in flight"), "{one}");
    let check = plugin.run(&["check"])?;
    ensure!(check.contains("are ready for sales"), "{check}");
    let quarantine = plugin.run(&["quarantine", "list"])?;
    ensure!(quarantine.contains("The quarantine is empty."), "{quarantine}");

    ensure!(in_namespace(&["suspend", "phone"])?.contains("suspended"));
    sale.wait_until_suspended(WAIT_LIMIT)?;
    ensure!(in_namespace(&["suspend", "phone"])?.contains("already"));
    in_namespace(&["resume", "phone"])?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let unknown = plugin.run(&["status", "tablet", "-n", &namespace]).err();
    ensure!(
        unknown.is_some_and(|error| error.to_string().contains("not found")),
        "an unknown sale"
    );

    let report = plugin.folder.join("report");
    plugin.run(&["report", &report.display().to_string()])?;
    let files = files(&report)?;
    check_report(release, &files)?;
    check_page(&[
        ("kubectl seckill status", plugin.readable(&all, &namespace)),
        ("kubectl seckill status phone", plugin.readable(&one, &namespace)),
        ("kubectl seckill top", plugin.readable(&top, &namespace)),
        (
            "kubectl seckill report bundle && find bundle -type f",
            plugin.readable(&listing(&report, &files), &namespace),
        ),
    ])
}

/// The plugin in a folder of its own, which is removed at the end.
struct Plugin<'a> {
    release: &'a Release,
    folder: PathBuf,
}

impl<'a> Plugin<'a> {
    fn install(release: &'a Release) -> Result<Self> {
        let program = std::env::var("SECKILL_PLUGIN").context("SECKILL_PLUGIN")?;
        let folder = std::env::temp_dir().join(format!("seckill-plugin-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let plugin = Plugin { release, folder };
        symlink(program, plugin.folder.join("kubectl-seckill"))?;
        Ok(plugin)
    }

    /// Runs `kubectl seckill`. Returns what it prints.
    fn run(&self, words: &[&str]) -> Result<String> {
        let path = std::env::var("PATH")?;
        let output = Command::new("kubectl")
            .arg("seckill")
            .args(words)
            .arg(format!("--release-namespace={}", self.release.namespace))
            .env("PATH", format!("{}:{path}", self.folder.display()))
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl seckill {}: {errors}", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// With the names that a reader would have instead of the unique ones of the tests. The columns stay aligned.
    fn readable(&self, text: &str, namespace: &str) -> String {
        let names = [
            (format!("{}-seckill-", self.release.name), "seckill-"),
            (self.release.name.clone(), "seckill"),
            (namespace.to_owned(), "shop"),
        ];
        let lines = text.lines().map(|line| {
            let line = names
                .iter()
                .fold(line.to_owned(), |line, (name, short)| renamed(&line, name, short));
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// With another name. In the first cell of a table, spaces take the place of what is missing.
fn renamed(line: &str, name: &str, short: &str) -> String {
    match line.split_once("  ") {
        Some((cell, others)) if cell.starts_with(name) => {
            format!("{:width$}  {others}", cell.replace(name, short), width = cell.len())
        }
        _ => line.replace(name, short),
    }
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        // What is left in the folder for temporary files does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The cells of the first line that starts with this text.
fn row(text: &str, start: &str) -> Result<Vec<String>> {
    let line = text.lines().find(|line| line.starts_with(start));
    let line = line.with_context(|| format!("no line of {start}: {text}"))?;
    let cells = line.split("   ").map(str::trim).filter(|cell| !cell.is_empty());
    Ok(cells.map(str::to_owned).collect())
}

fn figure(cell: &str) -> Result<u64> {
    cell.replace(',', "").parse().with_context(|| cell.to_owned())
}

/// Every file in a folder, with its text.
fn files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(self::files(&path)?),
            false => files.push((path.clone(), fs::read_to_string(&path)?)),
        }
    }
    files.sort();
    Ok(files)
}

/// What the command prints, and the files.
fn listing(folder: &Path, files: &[(PathBuf, String)]) -> String {
    let names = files.iter().filter_map(|(path, _)| path.strip_prefix(folder).ok());
    let names = names.map(|name| format!("bundle/{}", name.display()));
    let lines = ["wrote bundle; read it before you send it".to_owned()];
    lines.into_iter().chain(names).collect::<Vec<_>>().join("\n")
}

/// The report has everything, and nothing that is secret.
fn check_report(release: &Release, files: &[(PathBuf, String)]) -> Result<()> {
    for kind in [
        "versions.txt",
        "flashsales.yaml",
        "flashsale-events.txt",
        "deployments.yaml",
        "pods.yaml",
        "leases.yaml",
        ".log",
        ".metrics.txt",
        ".check.txt",
        ".quarantine.txt",
    ] {
        let of_kind: Vec<_> = files
            .iter()
            .filter(|(path, _)| path.display().to_string().ends_with(kind))
            .collect();
        ensure!(!of_kind.is_empty(), "the report has no {kind}");
        for (path, text) in of_kind {
            ensure!(!text.trim().is_empty(), "{} is empty", path.display());
            ensure!(!text.starts_with("not available"), "{}: {text}", path.display());
        }
    }
    let secrets = release.cluster.kubectl(&[
        "get",
        "secrets",
        "-n",
        &release.namespace,
        "-o=go-template={{range .items}}{{range $key, $value := .data}}{{$value | base64decode}}{{\"\\n\"}}{{end}}{{end}}",
    ])?;
    for secret in secrets
        .lines()
        .filter(|secret| secret.len() > 8 && !secret.contains("apiVersion"))
    {
        let holders = files.iter().filter(|(_, text)| text.contains(secret));
        let holders: Vec<_> = holders.map(|(path, _)| path.display().to_string()).collect();
        ensure!(holders.is_empty(), "a secret is in {holders:?}");
    }
    Ok(())
}

/// Compares the headers and files of the page with what the plugin prints now, or writes the page if `UPDATE` is set.
fn check_page(outputs: &[(&str, String)]) -> Result<()> {
    let file = repository().join("docs/kubectl-plugin.md");
    let mut page = fs::read_to_string(&file)?;
    for (command, output) in outputs {
        let start = format!("$ {command}\n");
        let from = page
            .find(&start)
            .with_context(|| format!("the page has no {command}"))?
            + start.len();
        let to = from + page[from..].find("```").context("no end of the block")?;
        if std::env::var_os("UPDATE").is_some() {
            page.replace_range(from..to, &format!("{output}\n"));
            continue;
        }
        let (shown, printed) = (constant(&page[from..to]), constant(output));
        ensure!(
            shown == printed,
            "docs/kubectl-plugin.md, {command}: {shown:?}, but it prints {printed:?}"
        );
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, page)?;
    }
    Ok(())
}

/// What every run prints: the names of columns, and of files without those of the pods.
fn constant(text: &str) -> BTreeSet<String> {
    let is_header = |line: &str| line.chars().any(char::is_alphabetic) && !line.chars().any(char::is_lowercase);
    let lines = text.lines().filter_map(|line| match line.strip_prefix("bundle/") {
        Some(file) => {
            let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
            let kind = match name.strip_prefix("seckill-") {
                // The name of a pod.
                Some(pod) => format!("{} {}", pod.split('-').next()?, pod.split_once('.')?.1),
                None => name.to_owned(),
            };
            Some(format!("{folder}/{kind}"))
        }
        None => is_header(line).then(|| line.split_whitespace().collect::<Vec<_>>().join(" ")),
    });
    lines.collect()
}
