//! `helm upgrade --reuse-values`, which takes the defaults of the chart that was installed before.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::*;

/// Installs a chart that has only these defaults, and upgrades it to the chart of this repository. Returns what helm would
/// apply.
fn upgrade(namespace: &Namespace, release: &str, old_defaults: &str, set: &Value) -> Vec<Value> {
    let old = Folder::new();
    let chart_file = json!({"apiVersion": "v2", "name": "seckill", "version": "0.0.1"});
    old.write("Chart.yaml", &chart_file.to_string());
    old.write("values.yaml", old_defaults);
    let (in_namespace, chart) = (["-n", &namespace.0], chart());
    let install = ["install", release, &old.text(), "-f", "-"];
    helm(&[&install, &in_namespace[..]].concat(), set).expect("installed");
    let upgrade = [
        "upgrade",
        release,
        &chart,
        "--reuse-values",
        "--dry-run=server",
        "-o",
        "json",
    ];
    let upgraded = helm(&[&upgrade, &in_namespace[..]].concat(), &Value::Null);
    let upgraded = upgraded.unwrap_or_else(|error| panic!("{error}"));
    let upgraded: Value = serde_json::from_str(&upgraded).expect("JSON");
    // Helm keeps hooks apart.
    let hooks = upgraded["hooks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|hook| &hook["manifest"]);
    let manifests = std::iter::once(&upgraded["manifest"]).chain(hooks);
    manifests
        .flat_map(|manifest| objects(manifest.as_str().expect("a manifest")))
        .collect()
}

fn by_id(objects: Vec<Value>) -> BTreeMap<String, Value> {
    objects.into_iter().map(|object| (id(&object), object)).collect()
}

#[test]
fn values_that_the_old_chart_did_not_have_get_their_defaults() {
    // Another test may install KEDA's CRD, which adds rights.
    let everything = json!({
        "operator": {"keda": false},
        "ingress": {"enabled": true},
    });
    let file = repository().join("operator/tests/chart/values-of-an-older-chart.yaml");
    let older_chart = std::fs::read_to_string(file).expect("the file");
    for old_defaults in [older_chart.as_str(), "{}"] {
        let namespace = Namespace::create();
        let upgraded = by_id(upgrade(
            &namespace,
            "seckill",
            old_defaults,
            &values(everything.clone()),
        ));
        let expected = by_id(try_template("seckill", &namespace.0, everything.clone()).expect("rendered"));
        assert_eq!(upgraded.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (id, object) in &upgraded {
            assert_eq!(object, &expected[id], "{id}");
        }
        assert_no_empty_fields(&upgraded.into_values().collect::<Vec<_>>());
    }
}

#[test]
fn null_still_removes_a_default() {
    let objects = template(json!({
        "api": {"resources": {"limits": null}},
        "podSecurityContext": {"seccompProfile": null},
        "containerSecurityContext": {"readOnlyRootFilesystem": null},
    }));
    let container = container(&objects, "api");
    assert_eq!(container["resources"].get("limits"), None);
    assert!(container["resources"].get("requests").is_some());
    assert_eq!(container["securityContext"].get("readOnlyRootFilesystem"), None);
    assert_eq!(
        pod(&objects, "api")["spec"]["securityContext"],
        json!({"runAsNonRoot": true})
    );
}

#[test]
fn defaults_of_the_templates_are_those_of_values_yaml() {
    let read = |file: &str| std::fs::read_to_string(repository().join("helm/seckill").join(file)).expect(file);
    assert!(
        read("values.yaml") == read("files/defaults.yaml"),
        "run `cp helm/seckill/values.yaml helm/seckill/files/defaults.yaml`"
    );
}

#[test]
fn every_template_fills_in_missing_values_first() {
    let folder = repository().join("helm/seckill/templates");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(
            name.starts_with('_') || text.starts_with("{{- include \"seckill.defaults\" . }}\n"),
            "{name} does not start with the template seckill.defaults"
        );
    }
}
