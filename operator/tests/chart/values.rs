//! The values: the closed schema, helm lint and the notes.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::*;

/// Values of these names are given to Kubernetes as they are, so they have keys of their own.
pub const WHOLE: [&str; 10] = [
    "resources",
    "labels",
    "annotations",
    "serviceAnnotations",
    "podLabels",
    "podAnnotations",
    "nodeSelector",
    "affinity",
    "podSecurityContext",
    "containerSecurityContext",
];

/// The paths of all values: `api.minReplicas`.
fn paths(values: &Value, prefix: &str, paths: &mut BTreeSet<String>) {
    for (key, value) in values.as_object().expect("an object") {
        let path = format!("{prefix}{key}");
        match value.is_object() && !WHOLE.contains(&key.as_str()) {
            true => self::paths(value, &format!("{path}."), paths),
            false => drop(paths.insert(path)),
        }
    }
}

pub fn all_values() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join("helm/seckill/values.yaml")).expect("values.yaml");
    let mut all = BTreeSet::new();
    paths(&serde_yaml::from_str(&text).expect("YAML"), "", &mut all);
    all
}

fn schema() -> Value {
    let text = std::fs::read_to_string(repository().join("helm/seckill/values.schema.json")).expect("the schema");
    serde_json::from_str(&text).expect("JSON")
}

/// The schema behind a `$ref`.
fn resolved<'a>(schema: &'a Value, part: &'a Value) -> &'a Value {
    match part["$ref"].as_str() {
        Some(reference) => &schema["definitions"][reference.trim_start_matches("#/definitions/")],
        None => part,
    }
}

#[test]
fn the_schema_has_every_value_and_no_other() {
    let schema = schema();
    for path in all_values() {
        let mut part = &schema;
        for key in path.split('.') {
            let object = resolved(&schema, part);
            // Other charts of an umbrella chart have global values too.
            let closed = object["additionalProperties"] == false || path.starts_with("global.");
            assert!(closed, "{path}: the object with {key} is open");
            part = &object["properties"][key];
        }
        assert!(part.is_object(), "{path} is not in the schema");
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (setting, named) in [
        ("api.drainSeconds=-1", "drainSeconds"),
        ("api.drainSecond=1", "drainSecond"),
        ("api.trustedProxies=17", "trustedProxies"),
        ("api.requestsPerAddress=-1", "requestsPerAddress"),
        ("api.corsOrigins={https://shop.example/}", "corsOrigins"),
        ("api.loadBalancerClass=x", "api.loadBalancerClass"),
        ("api.externalTrafficPolicy=Local", "api.externalTrafficPolicy"),
        ("api.serviceAccount.nam=x", "nam"),
        ("worker.extraEnv[0].nam=x", "extraEnv"),
        (
            "migrate.topologySpreadConstraints[0].maxSkew=1",
            "topologySpreadConstraints",
        ),
        ("migrate.ttlSecondsAfterFinished=soon", "ttlSecondsAfterFinished"),
        ("image.digest=latest", "digest"),
        ("metrics.serviceMonitor.interval=often", "interval"),
        ("metrics.enabled=true", "metrics"),
        ("global.imageRegistry=1", "imageRegistry"),
        ("podlabels.a=b", "podlabels"),
        ("minReadySeconds=-1", "minReadySeconds"),
        ("enabled=maybe", "enabled"),
    ] {
        let args = ["template", "seckill", &chart(), "-f", "-", "--set", setting];
        match helm(&args, &values(json!({}))) {
            Ok(_) => panic!("{setting} was accepted"),
            Err(refused) => assert!(refused.contains(named), "{setting}: {refused}"),
        }
    }
}

#[test]
fn helm_lint_finds_nothing_in_either_chart() {
    let folder = repository().join("helm");
    for (chart, values_file) in [
        ("seckill", Some("seckill/ci/minimal-values.yaml")),
        ("seckill", Some("seckill/ci/full-values.yaml")),
        ("seckill-crds", None),
    ] {
        let chart = folder.join(chart).display().to_string();
        let file = values_file.map(|file| folder.join(file).display().to_string());
        let mut args = vec!["lint", "--strict", &chart];
        args.extend(file.iter().flat_map(|file| ["-f", file]));
        let report = helm(&args, &Value::Null).unwrap_or_else(|error| panic!("{args:?}: {error}"));
        assert!(!report.contains("[WARNING]") && !report.contains("[ERROR]"), "{report}");
    }
}

#[test]
fn the_api_server_accepts_the_chart_with_every_value() {
    let namespace = Namespace::create();
    let render = |more: Value| try_template("seckill", &namespace.0, more).expect("rendered");
    namespace.dry_run(&render(json!({}))).expect("the default is accepted");
    let file = repository()
        .join("helm/seckill/ci/full-values.yaml")
        .display()
        .to_string();
    // Namespaces that are watched must exist.
    let watched = format!("watchNamespaces={{{}}}", namespace.0);
    let args = [
        "template",
        "seckill",
        &chart(),
        "-n",
        &namespace.0,
        "-f",
        &file,
        "--set",
        &watched,
    ];
    let full = objects(&helm(&args, &Value::Null).expect("rendered"));
    assert_no_empty_fields(&full);
    namespace.dry_run(&full).expect("accepted");
}

#[test]
fn the_notes_say_what_happens_with_the_keys() {
    let notes = |more: Value| {
        let args = [
            "install",
            "seckill",
            &chart(),
            "--dry-run=client",
            "-f",
            "-",
            "-o",
            "json",
        ];
        let output = helm(&args, &values(more)).expect("rendered");
        let output: Value = serde_json::from_str(&output).expect("JSON");
        output["info"]["notes"].as_str().expect("notes").to_owned()
    };
    let generated = notes(json!({"orderNumberKeys": {"keys": ""}}));
    assert!(generated.contains("seckill-order-number-keys"), "{generated}");
    assert!(generated.contains("`helm uninstall` keep it"), "{generated}");
    let generated = notes(json!({"buyerKey": {"key": ""}}));
    assert!(generated.contains("seckill-buyer-key"), "{generated}");
    let own = notes(json!({}));
    assert!(
        !own.contains("order-number-keys") && !own.contains("buyer-key"),
        "{own}"
    );
}
