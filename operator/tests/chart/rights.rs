//! The rights of the operator in the namespace of its release.
use serde_json::{Value, json};

use crate::harness::{chart, get, helm, objects, template, values};

/// The verbs for a resource, and the names to which they are bound.
fn rights(objects: &[Value], resource: &str) -> Vec<(Value, Value)> {
    let rules = get(objects, "Role/seckill-operator")["rules"]
        .as_array()
        .expect("rules");
    let of_resource = rules.iter().filter(|rule| rule["resources"] == json!([resource]));
    let verbs_and_names = of_resource.map(|rule| (rule["verbs"].clone(), rule["resourceNames"].clone()));
    verbs_and_names.collect()
}

#[test]
fn workloads_are_watched_and_deployments_by_name_only() {
    let watch = json!(["list", "watch"]);
    let objects_without_keda = template(json!({}));
    let of = |resource: &str| rights(&objects_without_keda, resource);
    let names = json!(["seckill-api", "seckill-worker"]);
    assert_eq!(of("deployments"), [(watch.clone(), names.clone())]);
    assert_eq!(of("deployments/scale"), [(json!(["patch"]), names)]);
    assert_eq!(of("horizontalpodautoscalers"), [(watch.clone(), Value::Null)]);
    assert_eq!(of("scaledobjects"), []);
    let args = [
        "template",
        "seckill",
        &chart(),
        "-n",
        "shop",
        "--api-versions",
        "keda.sh/v1alpha1",
        "-f",
        "-",
    ];
    let with_keda = helm(&args, &values(json!({}))).expect("rendered");
    assert_eq!(rights(&objects(&with_keda), "scaledobjects"), [(watch, Value::Null)]);
}
