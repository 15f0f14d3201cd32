//! The dashboards and alerts: each metric that a program exports has a panel, and each metric that is queried is exported.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::*;

/// The text between the next pair of quotes, if nothing but white space is before it.
fn quoted(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix('"')?.split('"').next()
}

/// The metrics by the sources of the programs: a registry encodes no family that is still empty.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (program, prefix) in [
        ("operator", ""),
        ("seckill-api", "seckill_api_"),
        ("order-worker", "seckill_worker_"),
    ] {
        let path = repository().join(program).join("src/metrics.rs");
        let source = std::fs::read_to_string(path).expect("the sources");
        for (call, unit) in [("register(", ""), ("counter(", ""), ("register_with_unit(", "_seconds")] {
            let found = source.split(call).skip(1).filter_map(quoted);
            names.extend(found.map(|name| format!("{prefix}{name}{unit}")));
        }
        // Those of the collector have their whole names.
        let whole = source.split('"').filter(|text| text.starts_with("seckill_"));
        names.extend(whole.filter(|name| name.len() > prefix.len()).map(str::to_owned));
    }
    names.retain(|name| !["seckill_api", "seckill_worker"].contains(&name.as_str()));
    names
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c == '_'
}

/// The metrics of an expression, without what Prometheus adds to the name.
fn queried(expression: &str, exported: &BTreeSet<String>) -> BTreeSet<String> {
    let words = expression
        .split(|c| !is_of_a_name(c))
        .filter(|word| word.starts_with("seckill_"));
    words
        .map(|word| {
            let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
            let bare = suffixes.iter().filter_map(|suffix| word.strip_suffix(suffix));
            let known = bare.into_iter().find(|bare| exported.contains(*bare));
            known.unwrap_or_else(|| panic!("{word} is not exported")).to_owned()
        })
        .collect()
}

#[test]
fn each_exported_metric_has_a_panel_and_each_panel_has_exported_metrics() {
    let exported = exported();
    assert!(exported.len() > 40, "{exported:?}");
    let objects = template(json!({"dashboards": {"enabled": true, "annotations": {"grafana_folder": "Seckill"}}}));
    let map = get(&objects, "ConfigMap/seckill-dashboards");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Seckill");
    let (mut shown, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for (file, text) in map["data"].as_object().expect("files") {
        let dashboard: Value = serde_json::from_str(text.as_str().expect("a text")).expect("JSON");
        assert!(ids.insert(dashboard["uid"].to_string()), "{file}");
        for panel in dashboard["panels"].as_array().expect("panels") {
            assert!(
                panel["title"].as_str().is_some_and(|title| !title.is_empty()),
                "{panel}"
            );
            for target in panel["targets"].as_array().expect("targets") {
                shown.extend(queried(target["expr"].as_str().expect("an expression"), &exported));
            }
        }
        for variable in dashboard["templating"]["list"].as_array().expect("variables") {
            shown.extend(queried(variable["query"].as_str().unwrap_or_default(), &exported));
        }
    }
    let without: Vec<_> = exported.difference(&shown).collect();
    assert!(without.is_empty(), "no panel shows {without:?}");
}

#[test]
fn alerts_query_exported_metrics() {
    let exported = exported();
    for rule in alerts() {
        let expression = rule["expr"].as_str().expect("an expression");
        // The label `service` has the name of the release.
        let expression = expression.replace("seckill-admin", "");
        // Prometheus itself makes `up`.
        let known = expression.starts_with("up{") || !queried(&expression, &exported).is_empty();
        assert!(known, "{rule}");
    }
}

#[test]
fn each_alert_links_to_its_section() {
    let page = std::fs::read_to_string(repository().join("docs/alerts.md")).expect("the page");
    let sections: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let rules = alerts();
    let names: BTreeSet<_> = rules.iter().filter_map(|rule| rule["alert"].as_str()).collect();
    assert_eq!(sections, names);
    for rule in &rules {
        let anchor = rule["alert"].as_str().expect("a name").to_lowercase();
        let link = format!("https://github.com/seckill/seckill/blob/main/docs/alerts.md#{anchor}");
        assert_eq!(rule["annotations"]["runbook_url"], link);
    }
}

fn alerts() -> Vec<Value> {
    let objects = template(json!({"prometheusRule": {"enabled": true}}));
    let rule = get(&objects, "PrometheusRule/seckill");
    rule["spec"]["groups"][0]["rules"].as_array().expect("rules").clone()
}
