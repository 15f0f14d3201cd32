//! Finds circles in the dependencies between modules.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::crate_source::CrateSource;
use super::module::ModuleId;
use super::names::Dependency;

/// Modules that all depend on each other, directly or through others.
#[derive(Debug)]
pub struct Circle {
    pub modules: Vec<String>,
    /// One edge for each pair of modules.
    pub edges: Vec<Edge>,
}

#[derive(Debug)]
pub struct Edge {
    pub from: String,
    pub to: String,
    pub file: PathBuf,
    pub line: usize,
    /// The path as it is written.
    pub path: String,
}

pub fn circles(source: &CrateSource, dependencies: &[Dependency]) -> Vec<Circle> {
    let mut targets: BTreeMap<ModuleId, BTreeSet<ModuleId>> = BTreeMap::new();
    for dependency in dependencies {
        targets.entry(dependency.from).or_default().insert(dependency.to);
    }
    let reachable: Vec<BTreeSet<ModuleId>> = (0..source.modules.len()).map(|from| reach(from, &targets)).collect();
    let mut done: BTreeSet<ModuleId> = BTreeSet::new();
    let mut circles = Vec::new();
    for module in 0..source.modules.len() {
        if !reachable[module].contains(&module) || done.contains(&module) {
            continue;
        }
        let members: BTreeSet<ModuleId> = reachable[module]
            .iter()
            .copied()
            .filter(|&other| reachable[other].contains(&module))
            .collect();
        done.extend(members.iter().copied());
        circles.push(circle(source, dependencies, &members));
    }
    circles
}

/// The modules that a module reaches by at least one dependency.
fn reach(from: ModuleId, targets: &BTreeMap<ModuleId, BTreeSet<ModuleId>>) -> BTreeSet<ModuleId> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for &target in targets.get(&module).into_iter().flatten() {
            if found.insert(target) {
                open.push(target);
            }
        }
    }
    found
}

fn circle(source: &CrateSource, dependencies: &[Dependency], members: &BTreeSet<ModuleId>) -> Circle {
    let mut edges: BTreeMap<(ModuleId, ModuleId), Edge> = BTreeMap::new();
    for dependency in dependencies {
        let (from, to) = (dependency.from, dependency.to);
        if members.contains(&from) && members.contains(&to) {
            edges.entry((from, to)).or_insert_with(|| Edge {
                from: source.modules[from].name(),
                to: source.modules[to].name(),
                file: source.modules[from].file.clone(),
                line: dependency.line,
                path: dependency.path.clone(),
            });
        }
    }
    Circle {
        modules: members.iter().map(|&id| source.modules[id].name()).collect(),
        edges: edges.into_values().collect(),
    }
}
