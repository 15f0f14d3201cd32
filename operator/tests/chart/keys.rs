//! The key of order numbers, which must never change.
use serde_json::{Value, json};

use crate::harness::*;

const RELEASE: &str = "keys";
const SECRET: &str = "keys-seckill-order-number-keys";

/// No key is set. No node takes the pods, and the release has no objects of the cluster.
fn values_without_key(namespace: &str) -> Value {
    values(json!({
        "orderNumberKeys": {"keys": ""},
        "watchNamespaces": [namespace],
        "clusterIdentity": "chart-tests",
        "nodeSelector": {"seckill.dev/no-such-node": "true"},
        "operator": {"keda": false},
    }))
}

fn helm_with(namespace: &Namespace, args: &[&str]) -> Result<String, String> {
    let chart = chart();
    let args: Vec<&str> = args
        .iter()
        .map(|arg| if *arg == "CHART" { &chart } else { *arg })
        .collect();
    let more = ["-n", &namespace.0];
    helm(&[&args, &more[..]].concat(), &values_without_key(&namespace.0))
}

fn key(namespace: &Namespace) -> Option<String> {
    let args = ["get", "secret", SECRET, "-n", &namespace.0, "-o=jsonpath={.data.keys}"];
    kubectl(&args, "").ok()
}

#[test]
fn rendering_without_a_cluster_is_stable_and_has_no_key() {
    let render = || {
        let args = ["template", RELEASE, &chart(), "-n", "shop", "-f", "-"];
        helm(&args, &values_without_key("shop")).expect("rendered")
    };
    let first = render();
    assert_eq!(first, render());
    let objects = objects(&first);
    assert_eq!(find(&objects, &format!("Secret/{SECRET}")), None);
    // The pods of the API wait until the Secret exists.
    assert!(container(&objects, "api").to_string().contains(SECRET));
}

#[test]
fn a_key_from_the_values_is_rendered_and_kept_at_uninstall() {
    let objects = template(json!({}));
    let secret = get(&objects, "Secret/seckill-order-number-keys");
    assert_eq!(secret["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert!(secret["data"]["keys"].is_string());
    let existing = template(json!({"orderNumberKeys": {"keys": "", "existingSecret": "618"}}));
    assert_eq!(find(&existing, "Secret/seckill-order-number-keys"), None);
}

#[test]
fn a_generated_key_survives_upgrade_uninstall_and_reinstallation() {
    let namespace = Namespace::create();
    helm_with(&namespace, &["install", RELEASE, "CHART", "-f", "-"]).expect("installed");
    let generated = key(&namespace).expect("a key");
    assert!(!generated.is_empty());

    for dry_run in ["--dry-run=client", "--dry-run=server"] {
        helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-", dry_run]).expect(dry_run);
    }
    helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-"]).expect("upgraded");
    assert_eq!(key(&namespace).as_ref(), Some(&generated));

    helm_with(&namespace, &["uninstall", RELEASE]).expect("uninstalled");
    assert_eq!(key(&namespace).as_ref(), Some(&generated));
    helm_with(&namespace, &["install", RELEASE, "CHART", "-f", "-"]).expect("installed again");
    assert_eq!(key(&namespace).as_ref(), Some(&generated));

    kubectl(&["delete", "secret", SECRET, "-n", &namespace.0], "").expect("deleted");
    let refused = helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-"]).expect_err("a lost key");
    assert!(refused.contains(SECRET) && refused.contains("restore it"), "{refused}");
    helm_with(&namespace, &["uninstall", RELEASE]).expect("uninstalled");
}
