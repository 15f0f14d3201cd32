//! `cargo xtask test cycles`: no module of a crate imports a module that imports it, directly or through others.
//!
//! A module depends on another one if it names an item of it, in a `use` or in a path. A name that a module re-exports
//! belongs to the module that defines it. Test modules do not count, and neither does a parent that only declares its
//! children or re-exports their items.
mod crate_source;
mod graph;
mod module;
mod names;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;
use crate_source::CrateSource;

/// Checks every target of every package of the workspace.
pub fn check() -> Result<()> {
    let folder = workspace::folder()?;
    let metadata = workspace::metadata()?;
    let mut problems = 0;
    for (title, root) in targets(&metadata)? {
        let source = match CrateSource::read(&root, &|file: &Path| std::fs::read_to_string(file).ok()) {
            Ok(source) => source,
            Err(error) => {
                println!("{title}: {error:#}\n");
                problems += 1;
                continue;
            }
        };
        for circle in graph::circles(&source, &names::dependencies(&source)) {
            println!("{}", describe(&title, &circle, &folder));
            problems += 1;
        }
    }
    ensure!(
        problems == 0,
        "found {problems} module circles or crates that could not be read"
    );
    Ok(())
}

/// The title and the root file of each target, without duplicates.
fn targets(metadata: &Value) -> Result<Vec<(String, PathBuf)>> {
    let mut roots = BTreeSet::new();
    let mut targets = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        for target in package["targets"].as_array().context("no targets")? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let root = PathBuf::from(text(&target["src_path"]));
            if roots.insert(root.clone()) {
                let (package, kind, name) = (text(&package["name"]), text(&target["kind"][0]), text(&target["name"]));
                targets.push((format!("{package}, {kind} {name}"), root));
            }
        }
    }
    Ok(targets)
}

/// The modules of a circle, and the lines that close it.
fn describe(title: &str, circle: &graph::Circle, folder: &Path) -> String {
    let mut text = format!("{title}: {} modules in a circle\n", circle.modules.len());
    for edge in &circle.edges {
        let file = edge.file.strip_prefix(folder).unwrap_or(&edge.file);
        text += &format!(
            "  {} -> {}  {}:{}  {}\n",
            edge.from,
            edge.to,
            file.display(),
            edge.line,
            edge.path
        );
    }
    text
}
