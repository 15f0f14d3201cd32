//! Monitors and alerts for the Prometheus operator. A test server has not its CRDs, so their structure is checked here.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::*;

fn monitored(kind: &str) -> Vec<Value> {
    let own = json!({"enabled": true, "labels": {"release": "prometheus"}, "interval": "15s", "scrapeTimeout": "10s"});
    template(json!({"metrics": {kind: own}, "prometheusRule": {"enabled": true}}))
}

/// Whether a label selector matches an object.
fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().expect("labels");
    let equal = equal.iter().all(|(name, value)| labels.get(name) == Some(value));
    let expressions = selector["matchExpressions"].as_array().cloned().unwrap_or_default();
    equal
        && expressions.iter().all(|expression| {
            assert_eq!(expression["operator"], "DoesNotExist");
            labels.get(expression["key"].as_str().expect("a label")).is_none()
        })
}

/// Checks the endpoint of a monitor, whose port has this name in all pods.
fn check_endpoint(monitor: &Value, endpoint: &Value) {
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        (&endpoint["port"], &endpoint["path"]),
        (&json!("admin"), &json!("/metrics"))
    );
    assert_eq!(
        (&endpoint["interval"], &endpoint["scrapeTimeout"]),
        (&json!("15s"), &json!("10s"))
    );
    // Otherwise the label `namespace` of a sale is replaced by that of the pod.
    assert_eq!(endpoint["honorLabels"], true);
}

/// The label `service` that the alerts select.
fn selected_service(objects: &[Value]) -> String {
    let rule = get(objects, "PrometheusRule/seckill");
    let mut services = BTreeSet::new();
    for rule in rule["spec"]["groups"][0]["rules"].as_array().expect("rules") {
        let expression = rule["expr"].as_str().expect("an expression");
        for metric in expression.split("seckill_").skip(1) {
            let (_, selector) = metric
                .split_once("{service=\"")
                .unwrap_or_else(|| panic!("no selector: {expression}"));
            services.insert(selector.split_once('"').expect("quoted").0.to_owned());
        }
    }
    assert_eq!(services.len(), 1, "{services:?}");
    services.pop_first().expect("one")
}

#[test]
fn a_service_monitor_sets_the_label_that_alerts_select() {
    let objects = monitored("serviceMonitor");
    let monitor = get(&objects, "ServiceMonitor/seckill");
    check_endpoint(monitor, &monitor["spec"]["endpoints"][0]);
    let services = objects.iter().filter(|object| object["kind"] == "Service");
    let found: Vec<_> = services
        .filter(|service| selects(&monitor["spec"]["selector"], &service["metadata"]["labels"]))
        .collect();
    let [service] = found[..] else { panic!("{found:?}") };
    assert!(
        service["spec"]["ports"]
            .as_array()
            .expect("ports")
            .iter()
            .any(|port| port["name"] == "admin")
    );
    // The Prometheus operator sets the label `service` to the name of the Service.
    assert_eq!(service["metadata"]["name"], selected_service(&objects));
}

#[test]
fn a_pod_monitor_sets_the_label_that_alerts_select() {
    let objects = monitored("podMonitor");
    let monitor = get(&objects, "PodMonitor/seckill");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    check_endpoint(monitor, endpoint);
    let relabeling = json!({"targetLabel": "service", "replacement": selected_service(&objects)});
    assert_eq!(endpoint["relabelings"], json!([relabeling]));
    for component in ["operator", "api", "worker"] {
        let pod = pod(&objects, component);
        assert!(
            selects(&monitor["spec"]["selector"], &pod["metadata"]["labels"]),
            "{component}"
        );
        let ports = container(&objects, component)["ports"].as_array().expect("ports");
        assert!(ports.iter().any(|port| port["name"] == "admin"), "{component}");
    }
}

#[test]
fn monitors_are_off_by_default_and_exclude_each_other() {
    let objects = template(json!({}));
    assert!(
        objects
            .iter()
            .all(|object| object["apiVersion"] != "monitoring.coreos.com/v1")
    );
    let both = json!({"metrics": {"serviceMonitor": {"enabled": true}, "podMonitor": {"enabled": true}}});
    let refused = try_template("seckill", "shop", both).expect_err("refused");
    assert!(refused.contains("exclude each other"), "{refused}");
}

#[test]
fn the_example_for_keda_names_what_exists() {
    let text = std::fs::read_to_string(repository().join("examples/keda.yaml")).expect("the example");
    let example: Value = serde_yaml::from_str(&text).expect("YAML");
    let objects = template(json!({}));
    let worker = workload(&objects, "worker");
    assert_eq!(example["spec"]["scaleTargetRef"]["name"], worker["metadata"]["name"]);
    let triggers = example["spec"]["triggers"].as_array().expect("triggers");
    let [lag, demand] = &triggers[..] else {
        panic!("{triggers:?}")
    };
    assert_eq!(
        &lag["metadata"]["consumerGroup"],
        env(&objects, "worker", "SECKILL_WORKER_GROUP")
    );
    assert_eq!(
        &lag["metadata"]["topic"],
        env(&objects, "worker", "SECKILL_KAFKA_TOPIC")
    );
    assert_eq!(lag["metadata"]["offsetResetPolicy"], "latest");
    let query = demand["metadata"]["query"].as_str().expect("a query");
    assert!(
        query.contains("seckill_operator_demand_pods{workload=\"worker\"}"),
        "{query}"
    );
}
