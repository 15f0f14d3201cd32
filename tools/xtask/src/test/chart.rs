//! What the chart renders for Prometheus and Grafana.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::output;
use crate::{tools, workspace};

/// The name of the release, and of its namespace.
pub const RELEASE: &str = "seckill";

/// The rules of the alerts, in the format of Prometheus.
pub fn rules() -> Result<Value> {
    let mut object = render("templates/prometheus-rule.yaml")?;
    Ok(object["spec"].take())
}

/// The expressions of the alerts, by their names.
pub fn alerts(rules: &Value) -> Result<BTreeMap<String, String>> {
    let groups = rules["groups"].as_array().context("no groups")?;
    let rules = groups.iter().flat_map(|group| group["rules"].as_array()).flatten();
    rules
        .map(|rule| {
            let field = |name: &str| {
                let text = rule[name].as_str().map(str::to_owned);
                text.with_context(|| format!("a rule without {name}: {rule}"))
            };
            Ok((field("alert")?, field("expr")?))
        })
        .collect()
}

/// The dashboards, by the names of their files.
pub fn dashboards() -> Result<BTreeMap<String, Value>> {
    let map = render("templates/dashboards.yaml")?;
    let files = map["data"].as_object().context("no dashboards")?;
    files
        .iter()
        .map(|(file, text)| Ok((file.clone(), serde_json::from_str(text.as_str().unwrap_or_default())?)))
        .collect()
}

/// The object of a template.
fn render(template: &str) -> Result<Value> {
    let chart = workspace::folder()?.join("helm/seckill");
    let mut helm = Command::new(tools::helm()?);
    helm.args(["template", RELEASE, "-n", RELEASE, "--show-only", template])
        .args(["--set", "prometheusRule.enabled=true,dashboards.enabled=true", "-f"])
        .arg(chart.join("ci/minimal-values.yaml"))
        .arg(&chart);
    serde_yaml::from_str(&output(&mut helm)?).with_context(|| template.to_owned())
}

/// Writes a file for Prometheus. JSON is YAML.
pub fn write(file: &Path, value: &Value) -> Result<()> {
    fs::write(file, serde_json::to_string_pretty(value)?).with_context(|| file.display().to_string())
}
