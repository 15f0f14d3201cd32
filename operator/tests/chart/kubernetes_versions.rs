//! What the charts render for each supported Kubernetes, against the OpenAPI document that this version has published.
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use crate::harness::*;

/// API versions of other projects, which no document of Kubernetes describes.
const OF_OTHERS: [&str; 2] = ["gateway.networking.k8s.io/v1", "monitoring.coreos.com/v1"];

/// A version of Kubernetes.
struct Kubernetes {
    version: String,
    definitions: Value,
    /// The definition of each kind, by `apiVersion Kind`.
    names: BTreeMap<String, String>,
    /// By definition. A validator takes long to make, and a chart has many objects of few kinds.
    validators: RefCell<BTreeMap<String, Rc<Validator>>>,
}

impl Kubernetes {
    /// Every version that `cargo xtask test integration` has downloaded.
    fn all() -> Vec<Kubernetes> {
        let folder = std::env::var("SECKILL_TEST_KUBERNETES_OPENAPI")
            .expect("SECKILL_TEST_KUBERNETES_OPENAPI; run `cargo xtask test integration`");
        let files = fs::read_dir(folder)
            .expect("a folder")
            .map(|file| file.expect("a file").path());
        let mut files: Vec<PathBuf> = files.collect();
        files.sort();
        let versions: Vec<Kubernetes> = files.iter().map(|file| Kubernetes::read(file)).collect();
        let minors = versions.iter().filter_map(|version| version.version.split('.').nth(1));
        let minors: Vec<&str> = minors.collect();
        assert_eq!(
            minors,
            ["31", "32", "33", "34", "35", "36"],
            "the versions that docs/upgrades.md names"
        );
        versions
    }

    fn read(file: &Path) -> Kubernetes {
        let mut document: Value = serde_json::from_slice(&fs::read(file).expect("a document")).expect("JSON");
        let mut definitions = document["definitions"].take();
        let mut names = BTreeMap::new();
        for (name, definition) in definitions.as_object_mut().expect("definitions") {
            let kinds = definition["x-kubernetes-group-version-kind"].as_array();
            for kind in kinds.into_iter().flatten() {
                let text = |field: &str| kind[field].as_str().unwrap_or_default();
                let api_version = format!("{}/{}", text("group"), text("version"));
                let id = format!("{} {}", api_version.trim_start_matches('/'), text("kind"));
                names.insert(id, name.clone());
            }
            refuse_unknown_fields(definition);
        }
        // The document calls these strings. A server takes numbers too.
        definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = json!({"type": ["integer", "string"]});
        definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = json!({"type": ["number", "string"]});
        Kubernetes {
            version: file.file_stem().expect("a name").to_string_lossy().into_owned(),
            definitions,
            names,
            validators: RefCell::default(),
        }
    }

    /// None for a kind of another project.
    fn validator(&self, object: &Value) -> Option<Rc<Validator>> {
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        if OF_OTHERS.contains(&api_version) {
            return None;
        }
        let name = self.names.get(&format!("{api_version} {kind}"));
        let name = name.unwrap_or_else(|| panic!("Kubernetes {} has no {api_version} {kind}", self.version));
        let make = || {
            let schema = json!({"$ref": format!("#/definitions/{name}"), "definitions": self.definitions});
            let validator = jsonschema::options().with_draft(Draft::Draft4).build(&schema);
            Rc::new(validator.unwrap_or_else(|error| panic!("{name}: {error}")))
        };
        let mut validators = self.validators.borrow_mut();
        Some(validators.entry(name.clone()).or_insert_with(make).clone())
    }

    /// What the version would refuse or ignore in the object.
    fn errors(&self, object: &Value) -> Vec<String> {
        let Some(validator) = self.validator(object) else {
            return Vec::new();
        };
        let errors = validator.iter_errors(object);
        errors
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    fn render(&self, chart: &str, more: &[&str], values: &Value) -> Vec<Value> {
        let chart = repository().join("helm").join(chart).display().to_string();
        let args = [
            "template",
            "seckill",
            &chart,
            "-n",
            "shop",
            "--kube-version",
            &self.version,
        ];
        let rendered = helm(&[&args[..], more, &["-f", "-"]].concat(), values);
        objects(&rendered.unwrap_or_else(|error| panic!("Kubernetes {}: {error}", self.version)))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A server ignores fields that it does not know, so a misspelled one would have no effect.
fn refuse_unknown_fields(definition: &mut Value) {
    let fields = definition.as_object_mut().expect("a schema");
    if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
        fields.insert("additionalProperties".into(), false.into());
    }
}

#[test]
fn every_supported_kubernetes_knows_each_rendered_field() {
    let full = repository()
        .join("helm/seckill/ci/full-values.yaml")
        .display()
        .to_string();
    let enabled = json!({"enabled": true});
    let everything = json!({
        "httpRoute": {"enabled": true, "parentRefs": [{"name": "public"}]},
        "metrics": {"serviceMonitor": enabled},
        "prometheusRule": enabled, "dashboards": enabled, "networkPolicy": enabled,
    });
    for kubernetes in Kubernetes::all() {
        let rendered = [
            kubernetes.render("seckill", &[], &values(json!({}))),
            kubernetes.render("seckill", &[], &values(everything.clone())),
            kubernetes.render("seckill", &["-f", &full], &json!({})),
            kubernetes.render("seckill-crds", &[], &json!({})),
        ];
        for object in rendered.iter().flatten() {
            let errors = kubernetes.errors(object);
            assert!(
                errors.is_empty(),
                "Kubernetes {}: {}: {errors:#?}",
                kubernetes.version,
                id(object)
            );
        }
    }
}

#[test]
fn a_misspelled_field_and_a_wrong_type_are_found() {
    let objects = template(json!({}));
    for kubernetes in Kubernetes::all() {
        let found = |field: &str, value: Value| {
            let mut object = workload(&objects, "api").clone();
            *object.pointer_mut(field).expect("an object") = value;
            kubernetes.errors(&object).join("; ")
        };
        assert_eq!(found("/metadata/name", json!("api")), "");
        assert!(found("/metadata", json!({"name": "api", "label": {}})).contains("label"));
        assert!(found("/spec/selector", json!("api")).contains("/spec/selector"));
    }
}
