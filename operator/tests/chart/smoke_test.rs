//! The pod of `helm test`.
use serde_json::json;

use crate::harness::*;

#[test]
fn helm_test_asks_the_service_for_buyers() {
    let namespace = Namespace::with_labels(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let objects = try_template(
        "seckill",
        &namespace.0,
        json!({"extraEnv": [{"name": "A", "value": "b"}]}),
    );
    let objects = objects.expect("rendered");
    let pod = get(&objects, "Pod/seckill-test");
    assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
    let container = &pod["spec"]["containers"][0];
    let url = format!("http://seckill-api.{}:8080", namespace.0);
    let command = json!(["/usr/local/bin/seckill-api", "smoke-test", "--url", url]);
    assert_eq!(container["command"], command);
    let service = get(&objects, "Service/seckill-api");
    assert_eq!(service["spec"]["ports"][0]["port"], 8080);
    assert!(
        container["env"].to_string().contains(r#"{"name":"A","value":"b"}"#),
        "{container}"
    );
    // The Service must never lead buyers to this pod.
    for (label, value) in service["spec"]["selector"].as_object().expect("labels") {
        let own = &pod["metadata"]["labels"][label];
        assert_eq!(own == value, label != "app.kubernetes.io/component", "{label}");
    }
    namespace.dry_run(&objects).expect("accepted");
}

#[test]
fn helm_test_buys_only_in_the_sale_of_the_value() {
    let objects = template(json!({"test": {"sale": "shop/smoke-test"}}));
    let command = get(&objects, "Pod/seckill-test")["spec"]["containers"][0]["command"].to_string();
    assert!(command.ends_with(r#""--sale","shop/smoke-test"]"#), "{command}");
    let refused = try_template("seckill", "shop", json!({"test": {"sale": "smoke-test"}})).expect_err("refused");
    assert!(
        refused.contains("test.sale") || refused.contains("/test/sale"),
        "{refused}"
    );
}
