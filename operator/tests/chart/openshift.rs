//! OpenShift's restricted-v2, as far as it refuses pods: a UID or a group must be unset, or in the range of the namespace.
use serde_json::{Value, json};

use crate::harness::*;

/// The rule applies to pods in namespaces with this label.
fn policy(name: &str) -> [Value; 2] {
    let within = |field: &str| format!("!has({field}) || ({field} >= 1000700000 && {field} < 1000710000)");
    let fields = ["runAsUser", "fsGroup"].map(|field| within(&format!("object.spec.securityContext.{field}")));
    let of_pod = format!(
        "!has(object.spec.securityContext) || (({}) && ({}))",
        fields[0], fields[1]
    );
    let of_container = format!(
        "object.spec.containers.all(c, !has(c.securityContext) || {})",
        within("c.securityContext.runAsUser")
    );
    let validation = |expression: &str| json!({"expression": expression, "message": "not in the range of UIDs"});
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
            ]},
            "validations": [validation(&of_pod), validation(&of_container)],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        },
    });
    [policy, binding]
}

/// The policy is an object of the cluster, so the namespace does not delete it.
struct Policy<'a>(&'a str);

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        let kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding";
        let _ = kubectl(&["delete", kinds, self.0, "--ignore-not-found"], "");
    }
}

/// The pods that the workloads would create.
fn pods(objects: &[Value]) -> Vec<Value> {
    let pod = |component: &str| {
        let template = pod(objects, component);
        let mut metadata = template["metadata"].clone();
        metadata["name"] = format!("{component}-pod").into();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    };
    COMPONENTS.map(pod).into()
}

#[test]
fn pods_need_no_fixed_uid() {
    let namespace = Namespace::with_labels(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let policy = (Policy(&namespace.0), policy(&namespace.0));
    namespace.apply(&policy.1, &[]).expect("created");
    let render = |more: Value| try_template("seckill", &namespace.0, more).expect("rendered");
    let objects = render(json!({}));
    let accounts: Vec<Value> = objects
        .iter()
        .filter(|object| object["kind"] == "ServiceAccount")
        .cloned()
        .collect();
    namespace.apply(&accounts, &[]).expect("created");

    // The API server takes a moment to enforce a policy.
    let fixed = pods(&render(json!({"podSecurityContext": {"runAsUser": 65532}})));
    wait_until("the policy to refuse a fixed UID", || {
        let refused = namespace.dry_run(&fixed);
        refused.is_err_and(|error| COMPONENTS.iter().all(|c| error.contains(&format!("{c}-pod"))))
    });
    namespace.dry_run(&pods(&objects)).expect("accepted");
    // A UID of the range, as an administrator would set it.
    let own = json!({"podSecurityContext": {"runAsUser": 1_000_700_001, "fsGroup": 1_000_700_001}});
    namespace.dry_run(&pods(&render(own))).expect("accepted");
}
