//! The alerts of the chart: promtool checks their rules, and runs the tests in `verify/alerts`.
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::chart;
use crate::{command, tools, workspace};

/// The parts of a promtool test file that say which alerts it tests.
#[derive(Deserialize)]
struct TestFile {
    tests: Vec<TestGroup>,
}

#[derive(Deserialize)]
struct TestGroup {
    alert_rule_test: Vec<AlertTest>,
}

#[derive(Deserialize)]
struct AlertTest {
    alertname: String,
    exp_alerts: Vec<Value>,
}

pub fn check() -> Result<()> {
    let mut rules = chart::rules()?;
    let folder = workspace::target_folder()?.join("alerts");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let promtool = tools::prometheus()?.join("promtool");
    let promtool = || Command::new(&promtool);

    let rendered = folder.join("rendered.yaml");
    chart::write(&rendered, &rules)?;
    command::run(promtool().args(["check", "rules"]).arg(&rendered))?;

    // The tests name this file, next to them.
    keep_descriptions(&mut rules);
    chart::write(&folder.join("rules.yaml"), &rules)?;
    let (mut files, mut tests) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(workspace::folder()?.join("verify/alerts"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let file: TestFile = serde_yaml::from_str(&text).with_context(|| path.display().to_string())?;
        tests.extend(file.tests.into_iter().flat_map(|group| group.alert_rule_test));
        let copy = folder.join(path.file_name().context("a file without a name")?);
        fs::write(&copy, text)?;
        files.push(copy);
    }
    let alerts = chart::alerts(&rules)?.into_keys().collect();
    let missing = missing_tests(&alerts, &tests);
    ensure!(missing.is_empty(), "verify/alerts:\n  {}", missing.join("\n  "));
    command::run(promtool().args(["test", "rules"]).args(&files))
}

/// Removes the annotations that are fixed texts, so that the tests do not repeat them.
fn keep_descriptions(rules: &mut Value) {
    let groups = rules["groups"].as_array_mut().into_iter().flatten();
    for rule in groups.filter_map(|group| group["rules"].as_array_mut()).flatten() {
        if let Some(annotations) = rule["annotations"].as_object_mut() {
            annotations.retain(|name, _| name == "description");
        }
    }
}

/// What the tests lack: one in which each alert fires, and one in which it does not. A name without an alert is a mistake too,
/// because promtool finds that such an alert does not fire.
fn missing_tests(alerts: &BTreeSet<String>, tests: &[AlertTest]) -> Vec<String> {
    let of_kind = |fires: bool| {
        let tests = tests.iter().filter(move |test| test.exp_alerts.is_empty() != fires);
        tests.map(|test| test.alertname.clone()).collect::<BTreeSet<_>>()
    };
    let (firing, silent) = (of_kind(true), of_kind(false));
    let without = |tested: &BTreeSet<String>, what: &str| {
        let names = alerts.difference(tested);
        names
            .map(|name| format!("{name} has no test in which it {what}"))
            .collect::<Vec<_>>()
    };
    let tested: BTreeSet<String> = firing.union(&silent).cloned().collect();
    let unknown = tested
        .difference(alerts)
        .map(|name| format!("the chart has no alert {name}"));
    let unknown = unknown.collect();
    [without(&firing, "fires"), without(&silent, "stays silent"), unknown].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alert_needs_a_test_of_both_kinds() {
        let test = |alertname: &str, exp_alerts: Vec<Value>| AlertTest {
            alertname: alertname.into(),
            exp_alerts,
        };
        let (fires, silent) = (vec![Value::Null], Vec::new());
        let tests = [
            test("A", fires.clone()),
            test("A", silent.clone()),
            test("B", fires),
            test("C", silent.clone()),
            test("Misspelled", silent),
        ];
        let alerts = ["A", "B", "C"].map(str::to_owned).into();
        let expected = [
            "C has no test in which it fires",
            "B has no test in which it stays silent",
            "the chart has no alert Misspelled",
        ];
        assert_eq!(missing_tests(&alerts, &tests), expected);
    }
}
