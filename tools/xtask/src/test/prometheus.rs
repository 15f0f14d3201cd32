//! A Prometheus that scrapes the programs as it would in a cluster.
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::chart;
use crate::command::output;
use crate::environment::Environment;
use crate::process::Processes;
use crate::{demo, tools};

const NAME: &str = "prometheus";
const PORT: u16 = 9099;
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Prometheus<'a> {
    env: &'a Environment,
    address: String,
    started_at: Timestamp,
}

/// The value of an expression at a time, in Unix seconds.
pub struct Sample {
    pub at: f64,
    pub value: f64,
}

impl<'a> Prometheus<'a> {
    /// Starts it with these rules and no data. It asks the programs at this interval, such as 1s.
    pub fn start(env: &'a Environment, rules: &Value, scrape_interval: &str) -> Result<Self> {
        let folder = env.state.join(NAME);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        chart::write(&folder.join("rules.yaml"), rules)?;
        chart::write(&folder.join("prometheus.yaml"), &configuration(env, scrape_interval))?;
        let prometheus = Prometheus {
            env,
            address: format!("{}:{PORT}", env.node_address),
            started_at: Timestamp::now(),
        };
        let mut command = env.command(tools::prometheus()?.join("prometheus"));
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={}", prometheus.address));
        let processes = Processes::new(&env.state)?;
        processes.start(NAME, &mut command)?;
        processes.wait(NAME, START_TIMEOUT, || prometheus.get("-/ready", &[]).map(drop))?;
        Ok(prometheus)
    }

    pub fn stop(&self) -> Result<()> {
        Processes::new(&self.env.state)?.stop(NAME)
    }

    /// Whether a graph of the expression over the whole time would show anything.
    pub fn has_data(&self, expression: &str) -> Result<bool> {
        let range = [
            ("query", expression.to_owned()),
            ("start", self.started_at.as_second().to_string()),
            ("end", Timestamp::now().as_second().to_string()),
            ("step", "1".into()),
        ];
        let answer = self.api("query_range", &range)?;
        let series = answer["result"].as_array().into_iter().flatten();
        let mut values = series.flat_map(|series| series["values"].as_array()).flatten();
        Ok(values.any(|sample| sample[1] != "NaN"))
    }

    /// The values of an expression between two times, in Unix seconds; of its first series.
    pub fn samples(&self, expression: &str, from: f64, to: f64, step: f64) -> Result<Vec<Sample>> {
        let range = [
            ("query", expression.to_owned()),
            ("start", from.to_string()),
            ("end", to.to_string()),
            ("step", step.to_string()),
        ];
        let answer = self.api("query_range", &range)?;
        let values = answer["result"][0]["values"].as_array().into_iter().flatten();
        let samples = values.filter_map(|sample| {
            Some(Sample {
                at: sample[0].as_f64()?,
                value: sample[1].as_str()?.parse().ok()?,
            })
        });
        Ok(samples.filter(|sample| sample.value.is_finite()).collect())
    }

    /// The values of a label in the series that a selector finds.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let answer = self.api(&format!("label/{label}/values"), &[("match[]", selector.to_owned())])?;
        serde_json::from_value(answer).with_context(|| format!("{selector}: {label}"))
    }

    /// The alerts that are pending or firing now.
    pub fn active_alerts(&self) -> Result<BTreeSet<String>> {
        let answer = self.api("alerts", &[])?;
        let alerts = answer["alerts"].as_array().into_iter().flatten();
        let names = alerts.filter_map(|alert| alert["labels"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    fn api(&self, path: &str, parameters: &[(&str, String)]) -> Result<Value> {
        let text = self.get(&format!("api/v1/{path}"), parameters)?;
        let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))?;
        Ok(answer["data"].take())
    }

    fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<String> {
        let mut curl = self.env.command("curl");
        curl.args(["-sS", "--fail-with-body", "-m", "10", "--get"]);
        for (name, value) in parameters {
            curl.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        output(curl.arg(format!("http://{}/{path}", self.address)))
    }
}

/// Scrapes the programs with the labels that a ServiceMonitor gives.
fn configuration(env: &Environment, interval: &str) -> Value {
    let service = format!("{}-admin", chart::RELEASE);
    let targets = demo::metrics_addresses(env).map(|(program, address)| {
        json!({
            "targets": [address],
            "labels": {
                "namespace": chart::RELEASE,
                "service": service,
                "endpoint": "admin",
                "pod": format!("{}-{program}-0", chart::RELEASE),
                "container": program,
            },
        })
    });
    json!({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": service, "honor_labels": true, "static_configs": targets}],
    })
}
