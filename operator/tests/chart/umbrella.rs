//! The charts as dependencies of another chart.
use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::*;

/// An umbrella chart with these dependencies: name, alias and condition.
fn umbrella(dependencies: &[(&str, &str, &str)]) -> Folder {
    let folder = Folder::new();
    let listed: Vec<Value> = dependencies
        .iter()
        .map(|(name, alias, condition)| {
            json!({"name": name, "alias": alias, "version": ">=0.0.0-0", "repository": "", "condition": condition})
        })
        .collect();
    let chart = json!({"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": listed});
    folder.write("Chart.yaml", &chart.to_string());
    std::fs::create_dir(folder.path().join("charts")).expect("a folder");
    for name in dependencies.iter().map(|(name, _, _)| name).collect::<BTreeSet<_>>() {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(repository().join("helm").join(name))
            .arg(folder.path().join("charts"))
            .status();
        assert!(copied.expect("cp runs").success());
    }
    folder
}

fn render(folder: &Folder, values: &Value) -> Vec<Value> {
    let text = helm(&["template", "shop", &folder.text(), "-n", "shop", "-f", "-"], values);
    objects(&text.unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn a_condition_switches_each_chart_on_and_off() {
    let folder = umbrella(&[
        ("seckill", "seckill", "seckill.enabled"),
        ("seckill-crds", "seckill-crds", "seckill-crds.enabled"),
    ]);
    let enabled = |release: bool, crds: bool| {
        let mut release_values = values(json!({}));
        release_values["enabled"] = release.into();
        let objects = render(
            &folder,
            &json!({"seckill": release_values, "seckill-crds": {"enabled": crds}}),
        );
        let has = |kind: &str| objects.iter().any(|object| object["kind"] == kind);
        (has("Deployment"), has("CustomResourceDefinition"))
    };
    for (release, crds) in [(true, true), (true, false), (false, true), (false, false)] {
        assert_eq!(enabled(release, crds), (release, crds));
    }
}

#[test]
fn an_umbrella_chart_sets_registry_and_pull_secrets() {
    let folder = umbrella(&[("seckill", "seckill", "seckill.enabled")]);
    let global = json!({
        "imageRegistry": "registry.example.com:5000/mirror/",
        "imagePullSecrets": ["first", {"name": "second"}],
        "storageClass": "a value of another chart",
    });
    let objects = render(
        &folder,
        &json!({"global": global, "seckill": values(json!({"image": {"pullSecrets": ["own"]}}))}),
    );
    for component in COMPONENTS {
        let image = container(&objects, component)["image"].as_str().expect("an image");
        assert!(
            image.starts_with("registry.example.com:5000/mirror/seckill/seckill:"),
            "{image}"
        );
        let secrets = &pod(&objects, component)["spec"]["imagePullSecrets"];
        assert_eq!(
            secrets,
            &json!([{"name": "own"}, {"name": "first"}, {"name": "second"}])
        );
    }
}

#[test]
fn two_aliases_of_the_chart_share_no_object_and_no_pod() {
    let folder = umbrella(&[("seckill", "one", "one.enabled"), ("seckill", "two", "two.enabled")]);
    let with = |class: &str| values(json!({"className": class}));
    let objects = render(&folder, &json!({"one": with("one"), "two": with("two")}));
    let ids: BTreeSet<String> = objects.iter().map(id).collect();
    assert_eq!(ids.len(), objects.len(), "{ids:?}");
    let mut selectors = BTreeSet::new();
    for deployment in objects.iter().filter(|object| object["kind"] == "Deployment") {
        assert!(
            selectors.insert(deployment["spec"]["selector"].to_string()),
            "{}",
            id(deployment)
        );
    }
    assert_eq!(selectors.len(), 6);
}
