//! Scaling of the pods of a release, which its sales share.
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use seckill_crds::{FlashSaleStatus, Phase};
use serde_json::json;

use crate::harness::{self, Harness, status_and_reason};
use crate::proxy::{Fault, Proxy};

fn message(status: &FlashSaleStatus) -> &str {
    let condition = status.conditions.iter().find(|c| c.type_ == "WorkloadsScaled");
    &condition.expect("the condition").message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demands_add_up_to_the_ceiling_and_earlier_sales_go_first() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let demand = |pods: i32| json!({"leadTimeSeconds": 3700, "demand": {"apiReplicas": pods}});
    harness.apply("first", 3600, 60, demand(1)).await;
    harness.until_phase("first", Phase::Ready).await;
    assert_eq!(harness.replicas("api").await, 1);
    harness.apply("second", 3601, 60, demand(2)).await;
    harness.until_phase("second", Phase::Ready).await;
    assert_eq!(harness.replicas("api").await, 3);
    // The ceiling is 3.
    harness.apply("third", 3602, 60, demand(1)).await;
    let third = harness.until_reason("third", "WorkloadsScaled", "CeilingReached").await;
    assert!(message(&third).contains("3 ready pods of 4"), "{}", message(&third));
    for name in ["first", "second"] {
        assert_eq!(
            status_and_reason(&harness.status(name).await, "WorkloadsScaled"),
            ("True", "Scaled")
        );
    }
    // A sale that lowers its demand or is deleted frees pods for the others.
    harness
        .edit("second", json!({"spec": {"demand": {"apiReplicas": 1}}}))
        .await;
    harness.until_phase("third", Phase::Ready).await;
    assert_eq!(harness.replicas("api").await, 3);
    harness.delete("first").await;
    harness
        .eventually("the pod of the deleted sale is removed", async || {
            harness.replicas("api").await == 2
        })
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_scaling_hides_no_pods_that_are_ready() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let operator = harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 15));
    let worker = harness.worker();
    let demand = |pods: i32| json!({"leadTimeSeconds": 3700, "demand": {"apiReplicas": pods}});
    harness.apply("ready", 3600, 60, demand(1)).await;
    harness.until_phase("ready", Phase::Ready).await;

    proxy.set(Fault::BusyScaling).await;
    harness.apply("waiting", 3601, 60, demand(2)).await;
    let waiting = harness
        .until("waiting", "refused", |status| {
            status_and_reason(status, "WorkloadsScaled") == ("False", "Scaling")
                && message(status).contains("failed to scale")
        })
        .await;
    assert!(message(&waiting).contains("1 ready pods of 3"), "{}", message(&waiting));
    assert_eq!(
        status_and_reason(&harness.status("ready").await, "WorkloadsScaled"),
        ("True", "Scaled")
    );

    proxy.set(Fault::None).await;
    harness.until_phase("waiting", Phase::Ready).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unschedulable_pods_are_reported_with_the_message_of_the_scheduler() {
    let harness = Harness::without_pods().await;
    // If the cluster has a scheduler, it reports the pod as unschedulable too.
    let nowhere = json!({"spec": {"template": {"spec": {"nodeSelector": {"seckill.dev/no-such-node": "true"}}}}});
    harness
        .api::<Deployment>()
        .patch("api", &PatchParams::default(), &Patch::Strategic(nowhere))
        .await
        .expect("patched");
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply("crowded", 3600, 60, json!({"leadTimeSeconds": 3700}))
        .await;
    harness.until_reason("crowded", "WorkloadsScaled", "Scaling").await;
    let unschedulable = json!({"status": {"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    }]}});
    let pods = harness.api::<Pod>();
    harness
        .eventually("it is reported as unschedulable", async || {
            let listed = pods
                .list(&ListParams::default().labels("app=api"))
                .await
                .expect("listed");
            for pod in listed {
                let name = pod.metadata.name.expect("a name");
                // A pod of the first version of the Deployment may be deleted by now.
                let _ = pods
                    .patch_status(&name, &PatchParams::default(), &Patch::Strategic(&unschedulable))
                    .await;
            }
            message(&harness.status("crowded").await).contains("can't be scheduled")
        })
        .await;
    let reported = harness.status("crowded").await;
    assert!(
        message(&reported).contains("0/1 nodes are available"),
        "{}",
        message(&reported)
    );
    assert_eq!(status_and_reason(&reported, "WorkloadsScaled"), ("False", "Scaling"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_a_resource_quota_refuses_are_reported() {
    let harness = Harness::without_pods().await;
    let quota: ResourceQuota = serde_json::from_value(json!({
        "metadata": {"name": "no-more-pods"},
        "spec": {"hard": {"pods": "0"}},
    }))
    .expect("a quota");
    harness
        .api::<ResourceQuota>()
        .create(&PostParams::default(), &quota)
        .await
        .expect("created");
    // Pods that were created before the quota stay, so they are replaced.
    let replaced = json!({"spec": {"replicas": 1, "template": {"metadata": {"annotations": {"replaced": "true"}}}}});
    harness
        .api::<Deployment>()
        .patch("api", &PatchParams::default(), &Patch::Strategic(replaced))
        .await
        .expect("patched");
    let (operator, worker) = (harness.operator(), harness.worker());
    harness
        .apply("refused", 3600, 60, json!({"leadTimeSeconds": 3700}))
        .await;
    let reported = harness
        .until("refused", "reported as refused", |status| {
            status
                .conditions
                .iter()
                .any(|c| c.type_ == "WorkloadsScaled" && c.message.contains("exceeded quota: no-more-pods"))
        })
        .await;
    assert!(
        message(&reported).contains("pods can't be created"),
        "{}",
        message(&reported)
    );
    assert_eq!(status_and_reason(&reported, "WorkloadsScaled"), ("False", "Scaling"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// Installs the part of KEDA's CRD that the operator reads.
async fn keda(harness: &Harness) -> Api<DynamicObject> {
    let crd: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh",
            "scope": "Namespaced",
            "names": {"kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject"},
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    }))
    .expect("a CRD");
    let crds: Api<CustomResourceDefinition> = Api::all(harness.kube.clone());
    let params = PatchParams::apply("operator-tests").force();
    crds.patch("scaledobjects.keda.sh", &params, &Patch::Apply(crd))
        .await
        .expect("applied");
    let established = kube::runtime::conditions::is_crd_established();
    kube::runtime::wait::await_condition(crds, "scaledobjects.keda.sh", established)
        .await
        .expect("established");
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
    Api::namespaced_with(harness.kube.clone(), &harness.name, &kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_not_scaled_while_it_has_a_keda_scaled_object() {
    let harness = Harness::new().await;
    let scaled_objects = keda(&harness).await;
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "theirs"},
        "spec": {"scaleTargetRef": {"name": "api"}, "triggers": []},
    }))
    .expect("an object");
    scaled_objects
        .create(&PostParams::default(), &object)
        .await
        .expect("created");
    let (operator, worker) = (harness.operator(), harness.worker());
    let demand = json!({"leadTimeSeconds": 3700, "demand": {"apiReplicas": 2}});
    harness.apply("scaled", 3600, 60, demand).await;
    let left = harness
        .until_reason("scaled", "WorkloadsScaled", "LeftToAutoscaler")
        .await;
    assert!(message(&left).contains("ScaledObject theirs"), "{}", message(&left));
    assert_eq!(harness.replicas("api").await, 1);
    scaled_objects
        .delete("theirs", &DeleteParams::default())
        .await
        .expect("deleted");
    harness.until_phase("scaled", Phase::Ready).await;
    assert_eq!(harness.replicas("api").await, 2);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
