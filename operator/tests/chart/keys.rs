//! The keys of order numbers and of buyers, which must never change.
use serde_json::{Value, json};

use crate::harness::*;

const RELEASE: &str = "keys";
const SECRET: &str = "keys-seckill-order-number-keys";
const BUYER_SECRET: &str = "keys-seckill-buyer-key";

/// No key is set. No node takes the pods, and the release has no objects of the cluster.
fn values_without_key(namespace: &str) -> Value {
    values(json!({
        "orderNumberKeys": {"keys": ""},
        "buyerKey": {"key": ""},
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

fn buyer_key(namespace: &Namespace) -> Option<String> {
    let args = [
        "get",
        "secret",
        BUYER_SECRET,
        "-n",
        &namespace.0,
        "-o=jsonpath={.data.key}",
    ];
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
    assert_eq!(find(&objects, &format!("Secret/{BUYER_SECRET}")), None);
    // The pods of the API wait until the Secret exists.
    assert!(container(&objects, "api").to_string().contains(SECRET));
}

#[test]
fn a_key_from_the_values_is_rendered_and_kept_at_uninstall() {
    let objects = template(json!({}));
    let secret = get(&objects, "Secret/seckill-order-number-keys");
    assert_eq!(secret["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert!(secret["data"]["keys"].is_string());
    let secret = get(&objects, "Secret/seckill-buyer-key");
    assert_eq!(secret["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert!(secret["data"]["key"].is_string());
    let existing = template(json!({"orderNumberKeys": {"keys": "", "existingSecret": "618"}}));
    assert_eq!(find(&existing, "Secret/seckill-order-number-keys"), None);
    let existing = template(json!({"buyerKey": {"key": "", "existingSecret": "618"}}));
    assert_eq!(find(&existing, "Secret/seckill-buyer-key"), None);
}

#[test]
fn the_pods_of_the_api_start_without_the_key_of_buyers() {
    let objects = template(json!({}));
    let volume = json!({"name": "buyer-key", "secret": {"secretName": "seckill-buyer-key", "optional": true}});
    assert_eq!(pod(&objects, "api")["spec"]["volumes"], json!([volume]));
    let file = env(&objects, "api", "SECKILL_BUYER_KEY_FILE").as_str().expect("a path");
    let mount = &container(&objects, "api")["volumeMounts"][0];
    assert!(file.starts_with(mount["mountPath"].as_str().expect("a path")), "{file}");
    for other in ["operator", "worker"] {
        assert!(!container(&objects, other).to_string().contains("buyer-key"), "{other}");
    }
}

#[test]
fn a_generated_key_survives_upgrade_uninstall_and_reinstallation() {
    let namespace = Namespace::create();
    helm_with(&namespace, &["install", RELEASE, "CHART", "-f", "-"]).expect("installed");
    let generated = key(&namespace).expect("a key");
    assert!(!generated.is_empty());
    let of_buyers = buyer_key(&namespace).expect("a key");
    assert!(!of_buyers.is_empty());

    for dry_run in ["--dry-run=client", "--dry-run=server"] {
        helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-", dry_run]).expect(dry_run);
    }
    helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-"]).expect("upgraded");
    assert_eq!(key(&namespace).as_ref(), Some(&generated));
    assert_eq!(buyer_key(&namespace).as_ref(), Some(&of_buyers));

    helm_with(&namespace, &["uninstall", RELEASE]).expect("uninstalled");
    assert_eq!(key(&namespace).as_ref(), Some(&generated));
    helm_with(&namespace, &["install", RELEASE, "CHART", "-f", "-"]).expect("installed again");
    assert_eq!(key(&namespace).as_ref(), Some(&generated));
    assert_eq!(buyer_key(&namespace).as_ref(), Some(&of_buyers));

    kubectl(&["delete", "secret", BUYER_SECRET, "-n", &namespace.0], "").expect("deleted");
    let refused = helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-"]).expect_err("a lost key");
    assert!(
        refused.contains(BUYER_SECRET) && refused.contains("restore it"),
        "{refused}"
    );
    // A release from before this key: none of its pods has it, so none can be lost.
    let volumes = r#"[{"op": "remove", "path": "/spec/template/spec/containers/0/volumeMounts"},
        {"op": "remove", "path": "/spec/template/spec/volumes"}]"#;
    let deployment = format!("deployment/{RELEASE}-seckill-api");
    let patch = ["patch", &deployment, "-n", &namespace.0, "--type=json", "-p", volumes];
    kubectl(&patch, "").expect("patched");
    helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-"]).expect("upgraded from before");
    assert!(buyer_key(&namespace).is_some_and(|key| key != of_buyers));

    kubectl(&["delete", "secret", SECRET, "-n", &namespace.0], "").expect("deleted");
    let refused = helm_with(&namespace, &["upgrade", RELEASE, "CHART", "-f", "-"]).expect_err("a lost key");
    assert!(refused.contains(SECRET) && refused.contains("restore it"), "{refused}");
    helm_with(&namespace, &["uninstall", RELEASE]).expect("uninstalled");
}
