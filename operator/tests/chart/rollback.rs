//! The check before a rollback, and what the programs tell each other of their versions.
use serde_json::json;

use crate::harness::*;

#[test]
fn a_rollback_checks_the_format_before_pods_change() {
    let namespace = Namespace::create();
    let objects = try_template(
        "seckill",
        &namespace.0,
        json!({"mysql": {"url": "", "existingSecret": "shared"}}),
    );
    let objects = objects.expect("rendered");
    let job = get(&objects, "Job/seckill-check-format");
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-rollback");
    // A failed attempt refuses the rollback, and its pod stays with its log.
    let (spec, pod) = (&job["spec"], &job["spec"]["template"]["spec"]);
    assert_eq!(
        (&spec["backoffLimit"], &pod["restartPolicy"]),
        (&json!(0), &json!("Never"))
    );
    // Helm makes no Secret and no account of the older version before the hook.
    assert_eq!(pod["serviceAccountName"], "seckill-migrate");
    let container = &pod["containers"][0];
    assert_eq!(container["command"], json!(["/usr/local/bin/operator", "check-format"]));
    let url = json!({"name": "shared", "key": "operator-url"});
    assert_eq!(container["env"][0]["valueFrom"]["secretKeyRef"], url);
    namespace.dry_run(std::slice::from_ref(job)).expect("accepted");
}

#[test]
fn the_check_has_the_pod_settings_of_the_migrate_job() {
    let own = json!({"nodeSelector": {"disk": "fast"}, "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/ca.crt"}]});
    let objects = template(json!({"migrate": own, "image": {"pullSecrets": ["registry"]}}));
    let pod = &get(&objects, "Job/seckill-check-format")["spec"]["template"]["spec"];
    assert_eq!(
        (&pod["nodeSelector"], &pod["imagePullSecrets"][0]["name"]),
        (&own["nodeSelector"], &json!("registry"))
    );
    assert!(
        pod["containers"][0]["env"]
            .as_array()
            .expect("a list")
            .contains(&own["extraEnv"][0])
    );
    assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
}

#[test]
fn each_program_knows_the_name_of_its_pod() {
    let objects = template(json!({}));
    for component in ["operator", "api", "worker"] {
        let environment = container(&objects, component)["env"].as_array().expect("a list");
        let names: Vec<_> = environment
            .iter()
            .filter(|variable| variable["name"] == "SECKILL_POD_NAME")
            .collect();
        let [name] = names[..] else {
            panic!("{component}: {names:?}")
        };
        assert_eq!(name["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    }
}
