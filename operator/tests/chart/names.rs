//! Names of releases, and the names of objects that are made of them.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::*;

/// All objects that have names.
fn everything(namespace: &str) -> Value {
    json!({
        "watchNamespaces": [namespace],
        "clusterIdentity": "618",
        "deletionGuard": {"enabled": true},
        "ingress": {"enabled": true, "className": "618"},
        "image": {"pullSecrets": ["618"]},
        "metrics": {"podMonitor": {"enabled": true}},
        "prometheusRule": {"enabled": true},
    })
}

fn is_dns_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(inner)
        && !name.ends_with('-')
}

#[test]
fn unusual_release_names_give_complete_installations() {
    let namespace = Namespace::create();
    let long = format!("{}-x", "a".repeat(51));
    assert_eq!(long.len(), 53);
    let usual = try_template("seckill", &namespace.0, everything(&namespace.0)).expect("rendered");
    for release in ["618", "6.18", "shop.v1", &long] {
        let objects = try_template(release, &namespace.0, everything(&namespace.0)).expect("rendered");
        assert_eq!(objects.len(), usual.len(), "{release}");
        assert_no_empty_fields(&objects);
        for object in &objects {
            let name = object["metadata"]["name"].as_str().expect("a string");
            let cluster_wide = name.starts_with(&namespace.0);
            assert!(cluster_wide || is_dns_label(name), "{release}: {}", id(object));
            assert_eq!(
                object["metadata"]["labels"]["app.kubernetes.io/instance"],
                release,
                "{}",
                id(object)
            );
        }
        let accepted = namespace
            .dry_run(&objects)
            .unwrap_or_else(|error| panic!("{release}: {error}"));
        let known = objects
            .iter()
            .filter(|object| object["apiVersion"] != "monitoring.coreos.com/v1")
            .count();
        assert_eq!(accepted.lines().count(), known, "{release}: {accepted}");
    }
}

#[test]
fn references_between_objects_follow_an_unusual_release_name() {
    let objects = try_template("6.18", "shop", everything("shop")).expect("rendered");
    for component in ["api", "worker"] {
        let variable = format!("SECKILL_{}_DEPLOYMENT", component.to_uppercase());
        let deployment = workload(&objects, component);
        let name = deployment["metadata"]["name"].as_str().expect("a name");
        assert_eq!(env(&objects, "operator", &variable), &format!("shop/{name}"));
        assert_eq!(
            pod(&objects, component)["metadata"]["labels"]["app.kubernetes.io/instance"],
            deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"]
        );
    }
    let lease = env(&objects, "operator", "SECKILL_LEASE_NAME")
        .as_str()
        .expect("a name");
    get(&objects, &format!("Lease/{lease}"));
    let account = &pod(&objects, "operator")["spec"]["serviceAccountName"];
    let binding = objects
        .iter()
        .find(|object| object["kind"] == "RoleBinding")
        .expect("a RoleBinding");
    assert_eq!(&binding["subjects"][0]["name"], account);
}

#[test]
fn names_of_digits_stay_text() {
    fn check(path: &str, value: &Value) {
        match value {
            Value::Number(number) => assert_ne!(number.as_i64(), Some(618), "{path}"),
            Value::Array(items) => items.iter().for_each(|item| check(path, item)),
            Value::Object(fields) => fields
                .iter()
                .for_each(|(name, field)| check(&format!("{path}/{name}"), field)),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }
    let account = json!({"serviceAccount": {"create": false, "name": "618"}});
    let digits = json!({
        "className": "618", "watchNamespaces": ["618"], "clusterIdentity": "618", "takeOverFrom": "0618",
        "redis": {"url": "", "existingSecret": "618"},
        "kafka": {"existingSecret": "618", "topic": "618", "group": "618"},
        "mysql": {"url": "", "existingSecret": "618"},
        "orderNumberKeys": {"keys": "", "existingSecret": "618"},
        "buyerKey": {"key": "", "existingSecret": "618"},
        "image": {"pullSecrets": ["618"]},
        "global": {"imagePullSecrets": [{"name": "618"}]},
        "ingress": {"enabled": true, "className": "618", "host": "618"},
        "priorityClassName": "618",
        "operator": account, "api": account, "worker": account, "migrate": account,
        "deletionGuard": {"enabled": true},
        "metrics": {"serviceMonitor": {"enabled": true}},
    });
    for object in try_template("618", "618", digits).expect("rendered") {
        check(&id(&object), &object);
    }
}

#[test]
fn object_names_of_different_releases_differ() {
    let longest = |end: &str| format!("{}{end}", "a".repeat(52));
    let releases = [
        "618",
        "6.18",
        "release-618",
        "shop.v1",
        "shop-v1",
        &longest("x"),
        &longest("y"),
    ];
    let mut names = BTreeSet::new();
    for release in releases {
        let objects = try_template(release, "shop", json!({})).expect("rendered");
        let name = workload(&objects, "api")["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        assert!(names.insert(name.clone()), "{release}: {name} is used twice");
    }
}

#[test]
fn usual_release_names_are_part_of_the_object_names() {
    for (release, name) in [
        ("seckill", "seckill-api"),
        ("shop", "shop-seckill-api"),
        ("my-seckill-2", "my-seckill-2-api"),
    ] {
        let objects = try_template(release, "shop", json!({})).expect("rendered");
        get(&objects, &format!("Deployment/{name}"));
        get(&objects, &format!("Service/{name}"));
    }
}
