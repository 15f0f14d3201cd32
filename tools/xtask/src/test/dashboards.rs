//! Every query of the dashboards and of the alerts finds data in a real Prometheus, which scrapes the programs during a sale.
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::chart;
use super::prometheus::Prometheus;
use crate::demo;
use crate::programs::{self, DEV};
use crate::scope::Scope;
use crate::up::up;

/// Parts of expressions that find nothing in a sale without faults, and why.
const MAY_BE_EMPTY: [(&str, &str); 10] = [
    ("seckill_api_connections_dropped_total", "no client is too greedy"),
    ("seckill_api_token_verifications_total", "the sale has no access"),
    ("seckill_api_issuer_key_fetches_total", "the release has no issuer"),
    ("status=~\"5..\"", "no answer is an error"),
    ("seckill_operator_demand_pods", "without a cluster, nothing is scaled"),
    ("seckill_operator_failures_total", "no reconcile fails"),
    ("seckill_operator_watch_failures_total", "no watch fails"),
    ("seckill_sale_tier_sold_units", "the sale has no tiers"),
    ("seckill_sale_tier_reserved_units", "the sale has no tiers"),
    ("seckill_worker_partition_stopped", "no partition has stopped"),
];

/// Alerts that fire without a fault, and why.
const FIRES: [(&str, &str); 1] = [("SeckillSaleReadyLate", "the sale of the old routes starts at once")];

/// Programs that are stopped in turn, and the alert that each of these faults makes active.
const FAULTS: [(&str, &str); 3] = [
    ("order-worker", "SeckillWorkerMissing"),
    ("seckill-api", "SeckillApiMissing"),
    ("operator", "SeckillNoLeader"),
];

/// How soon after its cause an alert is active. It fires when it stays so for the time in its rule.
const ACTIVE_TIMEOUT: Duration = Duration::from_secs(20);

pub fn check() -> Result<()> {
    let env = up(Scope::Stores)?;
    let rules = chart::rules()?;
    let alerts = chart::alerts(&rules)?;
    // An alert would fire if Prometheus waited for them.
    programs::build(&DEV)?;
    let prometheus = Prometheus::start(&env, &rules, "1s")?;
    let result = demo::small_sale(&env, |stop| {
        let mut problems = problems_of_dashboards(&prometheus)?;
        problems.extend(problems_of_alerts(&prometheus, &alerts)?);
        ensure!(
            problems.is_empty(),
            "in a sale without faults:\n  {}",
            problems.join("\n  ")
        );
        println!(
            "Each query of the dashboards and {} alerts finds data. No alert fires without a fault.",
            alerts.len()
        );
        for (program, alert) in FAULTS {
            let is_active = || Ok::<_, anyhow::Error>(prometheus.active_alerts()?.contains(alert));
            ensure!(!is_active()?, "{alert} is active too early");
            stop(program)?;
            let stopped = Instant::now();
            while !is_active()? {
                let waits = stopped.elapsed() < ACTIVE_TIMEOUT;
                ensure!(waits, "{program} is stopped, but {alert} is not active");
                thread::sleep(Duration::from_millis(200));
            }
            println!("{program} is stopped: {alert} is active");
        }
        ensure!(
            prometheus.active_alerts()?.contains("SeckillTargetDown"),
            "SeckillTargetDown is not active"
        );
        Ok(())
    });
    result.and(prometheus.stop())
}

/// The queries of the panels that find nothing.
fn problems_of_dashboards(prometheus: &Prometheus) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for (file, dashboard) in chart::dashboards()? {
        let variables = variables(prometheus, &dashboard)?;
        for panel in dashboard["panels"].as_array().context("no panels")? {
            for target in panel["targets"].as_array().context("no targets")? {
                let expression = target["expr"].as_str().context("no expression")?;
                let queries = variables
                    .iter()
                    .map(|values| replaced(expression, values))
                    .collect::<Vec<_>>();
                let what = format!("{file}, {}", panel["title"]);
                problems.extend(without_data(prometheus, &what, &queries)?);
            }
        }
    }
    Ok(problems)
}

/// The alerts whose series do not exist, and those that fire.
fn problems_of_alerts(prometheus: &Prometheus, alerts: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for (alert, expression) in alerts {
        problems.extend(without_data(prometheus, alert, &[never_silent(expression)])?);
        let may_fire = FIRES.iter().any(|(name, _)| name == alert);
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        if !may_fire && prometheus.has_data(&firing)? {
            problems.push(format!("{alert}: it fires"));
        }
    }
    Ok(problems)
}

/// A problem if none of the queries finds anything, although one should.
fn without_data(prometheus: &Prometheus, what: &str, queries: &[String]) -> Result<Option<String>> {
    for query in queries {
        let may_be_empty = MAY_BE_EMPTY.iter().any(|(part, _)| query.contains(part));
        if may_be_empty || prometheus.has_data(query)? {
            return Ok(None);
        }
    }
    Ok(Some(format!("{what}: no data: {}", queries.join("; "))))
}

/// The values that the variables of a dashboard can have together.
fn variables(prometheus: &Prometheus, dashboard: &Value) -> Result<Vec<BTreeMap<String, String>>> {
    let mut all = vec![BTreeMap::new()];
    let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let query = variable["query"].as_str().context("a variable without a query")?;
        let mut longer = Vec::new();
        for values in all {
            let query = replaced(query, &values);
            let arguments = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = arguments
                .and_then(|arguments| arguments.rsplit_once(", "))
                .with_context(|| format!("not label_values(selector, label): {query}"))?;
            for value in prometheus.label_values(selector, label)? {
                let mut values = values.clone();
                values.insert(format!("${name}"), value);
                longer.push(values);
            }
        }
        all = longer;
    }
    Ok(all)
}

fn replaced(text: &str, variables: &BTreeMap<String, String>) -> String {
    variables
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// The expression of an alert without what keeps it silent: it finds something if all its series exist.
fn never_silent(expression: &str) -> String {
    let mut result = expression.replace("absent(", "group(").replace("unless", "and");
    for comparison in ["> ", "< ", "== "] {
        result = result.replace(comparison, &format!("{comparison}bool "));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_do_not_filter() {
        for (expression, expected) in [
            ("max(a) > 0.8 * max(b > 0)", "max(a) > bool 0.8 * max(b > bool 0)"),
            ("absent(a{b=\"c\"} == 1)", "group(a{b=\"c\"} == bool 1)"),
            ("a\nunless b", "a\nand b"),
        ] {
            assert_eq!(never_silent(expression), expected);
        }
    }
}
