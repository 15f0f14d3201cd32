//! The deletion guard on a real API server. No operator runs: the test writes the status.
use serde_json::{Value, json};

use crate::harness::{Namespace, get, kubectl, template, wait_until};

const OPENED: &str = "2026-01-01T10:00:00Z";

/// Creates a FlashSale with this status.
fn create(namespace: &Namespace, name: &str, status: Value) {
    let sale = json!({
        "apiVersion": "seckill.dev/v1alpha1",
        "kind": "FlashSale",
        "metadata": {"name": name},
        "spec": {
            "className": namespace.0,
            "item": {"sku": "s", "name": "An item", "price": "9.90", "currency": "EUR"},
            "stock": 10,
            "startsAt": OPENED,
            "endsAt": "2026-01-01T11:00:00Z",
        },
    });
    kubectl(&["create", "-n", &namespace.0, "-f", "-"], &sale.to_string()).expect("created");
    let patch = json!({"status": status}).to_string();
    let args = [
        "patch",
        "fsale",
        name,
        "-n",
        &namespace.0,
        "--subresource=status",
        "--type=merge",
        "-p",
    ];
    kubectl(&[&args[..], &[&patch]].concat(), "").expect("patched");
}

/// What the API server says about a deletion, which it does not carry out.
fn deletion(namespace: &Namespace, name: &str) -> Result<String, String> {
    kubectl(&["delete", "fsale", name, "-n", &namespace.0, "--dry-run=server"], "")
}

#[test]
fn a_sale_that_has_opened_is_guarded_until_its_end() {
    let crd = serde_json::to_string(&seckill_crds::crd()).expect("JSON");
    kubectl(
        &[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=operator-tests",
            "-f",
            "-",
        ],
        &crd,
    )
    .expect("applied");
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/flashsales.seckill.dev",
    ];
    kubectl(&established, "").expect("established");
    let namespace = Namespace::create();
    let objects = template(json!({"className": namespace.0, "deletionGuard": {"enabled": true}}));
    let name = "shop-seckill-deletion-guard";
    let mut guard = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]
        .map(|kind| get(&objects, &format!("{kind}/{name}")).clone());
    for object in &mut guard {
        object["metadata"]["name"] = json!(namespace.0);
    }
    guard[1]["spec"]["policyName"] = json!(namespace.0);
    for (sale, status) in [
        ("open", json!({"phase": "Open"})),
        ("sold-out", json!({"phase": "SoldOut", "openedAt": OPENED})),
        ("suspended", json!({"phase": "Suspended", "openedAt": OPENED})),
        ("rebuilding", json!({"phase": "Preheating", "openedAt": OPENED})),
        ("suspended-early", json!({"phase": "Suspended"})),
        ("preheating", json!({"phase": "Preheating"})),
        ("ended", json!({"phase": "Ended", "openedAt": OPENED})),
        ("refused", json!({"openedAt": OPENED})),
    ] {
        create(&namespace, sale, status);
    }
    namespace.apply(&guard, &[]).expect("applied");
    wait_until("the guard is in force", || deletion(&namespace, "open").is_err());
    let refused = ["sold-out", "suspended", "rebuilding"].map(|sale| deletion(&namespace, sale));
    let allowed = ["suspended-early", "preheating", "ended", "refused"].map(|sale| deletion(&namespace, sale));
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        kubectl(&["delete", kind, &namespace.0], "").expect("deleted");
    }
    for refusal in refused {
        assert!(
            refusal
                .expect_err("guarded")
                .contains("seckill.dev/allow-deletion=true")
        );
    }
    for deletion in allowed {
        deletion.expect("allowed");
    }
}
