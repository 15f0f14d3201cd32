//! Faults of the API server, and their effect on sales.
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::config::AuthInfo;
use kube::{Api, Client};
use seckill_crds::{FlashSale, Phase};
use seckill_protocol::index::SaleState;
use serde_json::{Value, json};

use crate::harness::{self, Harness, RunningProgram, set_flag};
use crate::proxy::{Fault, Proxy};

/// Longer than the time after which a sale without a FlashSale counts as an orphan.
const ORPHAN_WAIT: Duration = Duration::from_secs(8);
const FAILURES: &str = "seckill_operator_watch_failures_total";

async fn operator_behind(harness: &Harness, proxy: &Proxy) -> RunningProgram {
    harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 15))
}

async fn is_open(harness: &Harness, name: &str) -> bool {
    let sale = harness.sale(name).await;
    sale.state == SaleState::Open && sale.cut.closed.is_none()
}

/// During the fault an open sale continues to sell. A sale that is created during the fault opens by the end of the
/// fault at the latest, and later edits are applied.
async fn assert_survives(fault: Fault, counted_as: Option<&str>) {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let (operator, worker) = (operator_behind(&harness, &proxy).await, harness.worker());
    harness.apply("open", -1, 3600, json!({})).await;
    harness.apply("later", 3600, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    harness.until_phase("later", Phase::Scheduled).await;

    proxy.set(fault).await;
    harness.apply("meanwhile", -1, 3600, json!({})).await;
    assert_eq!(harness.buy("open", &["a", "b"]).await, 2);
    if let Some(reason) = counted_as {
        harness
            .eventually("the failures are counted", async || {
                operator.metric_sum(FAILURES, reason).await > 1
            })
            .await;
    }
    if let Fault::NotServed | Fault::EmptyLists = fault {
        tokio::time::sleep(ORPHAN_WAIT).await;
    } else {
        harness.until_phase("meanwhile", Phase::Open).await;
    }
    for name in ["open", "later"] {
        assert!(is_open(&harness, name).await, "{name} was closed");
    }
    assert_eq!(harness.buy("open", &["c"]).await, 1);

    proxy.set(Fault::None).await;
    assert_all_sales_continue(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

async fn assert_all_sales_continue(harness: &Harness) {
    harness.until_phase("meanwhile", Phase::Open).await;
    harness.apply("afterwards", -1, 3600, json!({})).await;
    harness.until_phase("afterwards", Phase::Open).await;
    harness.edit("open", json!({"spec": {"stock": 12}})).await;
    harness.edit("later", json!({"spec": {"stock": 5}})).await;
    harness
        .eventually("the edits are applied", async || {
            (harness.sale("open").await.total, harness.sale("later").await.offered) == (12, 5)
        })
        .await;
    for name in ["open", "later", "meanwhile", "afterwards"] {
        assert!(is_open(harness, name).await, "{name} was closed");
    }
    assert_eq!(harness.buy("open", &["d"]).await, 1);
    assert_eq!(harness.buy("meanwhile", &["a"]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_api_server_blocks_no_sale() {
    assert_survives(Fault::Busy, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_api_server_blocks_no_sale() {
    assert_survives(Fault::Slow(Duration::from_millis(300)), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_expires_is_restarted() {
    assert_survives(Fault::ExpiredEvent, Some("expired")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_refused_as_expired_is_restarted() {
    assert_survives(Fault::ExpiredAnswer, Some("expired")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_is_not_served_closes_no_sale() {
    assert_survives(Fault::NotServed, Some("not_served")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_lacks_flash_sales_closes_no_sale() {
    assert_survives(Fault::EmptyLists, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_dies_silently_is_restarted() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let (operator, worker) = (operator_behind(&harness, &proxy).await, harness.worker());
    harness.apply("before", -1, 3600, json!({})).await;
    harness.until_phase("before", Phase::Open).await;
    proxy.set(Fault::DeadWatch).await;
    harness
        .eventually("the operator watches again, and gets no events", async || {
            proxy.dead_watches() > 0
        })
        .await;
    // The connection stays open, so the operator gets no sign that the watch is dead.
    proxy.set_for_new_requests(Fault::None);
    harness.apply("unseen", -1, 3600, json!({})).await;
    harness.until_phase("unseen", Phase::Open).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// The proxy simulates a restart. (The test can't restart the real API server, because all tests share it.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_outage_beyond_the_lease_closes_no_sale() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let operator = harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 3));
    let worker = harness.worker();
    harness.apply("open", -1, 3600, json!({})).await;
    harness.apply("later", 3600, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    harness.until_phase("later", Phase::Scheduled).await;
    proxy.refuse().await;
    harness.apply("meanwhile", -1, 3600, json!({})).await;
    assert_eq!(harness.buy("open", &["a", "b"]).await, 2);
    harness
        .eventually("the failure is counted", async || {
            operator.metric_sum(FAILURES, "unreachable").await > 0
        })
        .await;
    tokio::time::sleep(ORPHAN_WAIT).await;
    assert_eq!(harness.buy("open", &["c"]).await, 1);
    proxy.accept().await;
    assert_all_sales_continue(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// A client with the permissions that the operator needs in one namespace. A separate Role has the permissions for
/// FlashSales; the RoleBinding of that Role is returned too.
async fn restricted_client(harness: &Harness) -> (Client, RoleBinding) {
    let of = |group: &str, resources: Value| json!([{"apiGroups": [group], "resources": resources, "verbs": ["*"]}]);
    // As in the chart: the Deployments by name only.
    let deployments = |resource: &str, verbs: &[&str]| json!({"apiGroups": ["apps"], "resources": [resource], "resourceNames": ["api", "worker"], "verbs": verbs});
    let mut rest = json!([
        deployments("deployments", &["list", "watch"]),
        deployments("deployments/scale", &["patch"]),
    ]);
    for (group, resource) in [
        ("seckill.dev", "flashsales/status"),
        ("events.k8s.io", "events"),
        ("", "pods"),
        ("autoscaling", "horizontalpodautoscalers"),
        ("coordination.k8s.io", "leases"),
    ] {
        let rule = of(group, json!([resource]))[0].take();
        rest.as_array_mut().expect("a list").push(rule);
    }
    let account: ServiceAccount =
        serde_json::from_value(json!({"metadata": {"name": "operator"}})).expect("an account");
    let params = PostParams::default();
    harness.api().create(&params, &account).await.expect("created");
    let mut bindings = Vec::new();
    for (name, rules) in [("sales", of("seckill.dev", json!(["flashsales"]))), ("rest", rest)] {
        let role: Role = serde_json::from_value(json!({"metadata": {"name": name}, "rules": rules})).expect("a Role");
        harness.api().create(&params, &role).await.expect("created");
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": harness.namespace}],
        }))
        .expect("a RoleBinding");
        harness.api().create(&params, &binding).await.expect("created");
        bindings.push(binding);
    }
    let request = TokenRequest {
        spec: Some(TokenRequestSpec::default()),
        ..TokenRequest::default()
    };
    let accounts = harness.api::<ServiceAccount>();
    let token = accounts.create_token_request("operator", &params, &request).await;
    let token = token.expect("a token").status.expect("a token").token;
    let mut config = harness::kube_config().await;
    config.default_retry = false;
    config.auth_info = AuthInfo {
        token: token.map(Into::into),
        ..AuthInfo::default()
    };
    (Client::try_from(config).expect("a client"), bindings.remove(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_permissions_close_only_sales_whose_deletion_was_seen() {
    let harness = Harness::new().await;
    let (client, binding) = restricted_client(&harness).await;
    let mut proxy = Proxy::start(client).await;
    let (operator, worker) = (operator_behind(&harness, &proxy).await, harness.worker());
    harness.apply("open", -1, 3600, json!({})).await;
    harness.apply("later", 3600, 3600, json!({})).await;
    harness.apply("deleted", -1, 3600, json!({})).await;
    for (name, phase) in [
        ("open", Phase::Open),
        ("later", Phase::Scheduled),
        ("deleted", Phase::Open),
    ] {
        harness.until_phase(name, phase).await;
    }
    // A deleted namespace has the same effect: the operator sees the deletion, and then can't read the object any more.
    harness.delete("deleted").await;
    harness
        .eventually_without_delay("the operator has seen the deletion", async || {
            !operator.has_metrics_of("deleted").await
        })
        .await;
    let bindings = harness.api::<RoleBinding>();
    bindings
        .delete("sales", &DeleteParams::default())
        .await
        .expect("deleted");
    // The API server checks permissions only when a watch begins, so the proxy closes the open watches.
    proxy.set(Fault::None).await;
    harness.apply("meanwhile", -1, 3600, json!({})).await;
    harness
        .eventually("the refusal is counted", async || {
            operator.metric_sum(FAILURES, "refused").await > 1
        })
        .await;
    tokio::time::sleep(ORPHAN_WAIT).await;
    assert_eq!(harness.buy("open", &["a", "b", "c"]).await, 3);
    for name in ["open", "later"] {
        assert!(is_open(&harness, name).await, "{name} was closed");
    }
    harness
        .eventually("the deleted sale is settled", async || {
            harness.sale("deleted").await.settled_at_ms.is_some()
        })
        .await;
    let binding = bindings.create(&PostParams::default(), &binding).await;
    binding.expect("created");
    assert_all_sales_continue(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_namespace_does_not_block_other_namespaces() {
    let harness = Harness::new().await;
    let (client, _) = restricted_client(&harness).await;
    let mut args = harness.operator_args("operator", 15);
    set_flag(
        &mut args,
        "--watch-namespaces",
        &format!("gone-{0},{0}", harness.namespace),
    );
    let (operator, worker) = (harness.operator_with_client(&client, args), harness.worker());
    harness
        .apply("open", -1, 3600, json!({"demand": {"apiReplicas": 2}}))
        .await;
    harness.until_phase("open", Phase::Open).await;
    harness
        .eventually("the sale has its pods", async || harness.replicas("api").await == 2)
        .await;
    harness.delete("open").await;
    harness
        .eventually("the sale is settled", async || {
            harness.sale("open").await.settled_at_ms.is_some()
        })
        .await;
    // The unreadable namespace may have a sale that needs the pods.
    assert_eq!(harness.replicas("api").await, 2);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_counts_only_if_the_answer_names_the_flash_sale() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let (operator, worker) = (operator_behind(&harness, &proxy).await, harness.worker());
    harness.apply("deleted", -1, 3600, json!({})).await;
    harness.until_phase("deleted", Phase::Open).await;
    harness.delete("deleted").await;
    harness
        .eventually_without_delay("the operator has seen the deletion", async || {
            !operator.has_metrics_of("deleted").await
        })
        .await;
    proxy.set(Fault::NotServed).await;
    tokio::time::sleep(ORPHAN_WAIT).await;
    assert!(is_open(&harness, "deleted").await, "the sale was closed");
    proxy.set(Fault::None).await;
    harness
        .eventually("the sale is settled", async || {
            harness.sale("deleted").await.settled_at_ms.is_some()
        })
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_of_a_namespace_no_longer_watched_stay_unchanged() {
    let harness = Harness::new().await;
    let other = harness.another_namespace().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    for harness in [&harness, &other] {
        harness.apply("monday", -1, 3600, json!({})).await;
        harness.until_phase("monday", Phase::Open).await;
    }
    other.apply("friday", -1, 3600, json!({})).await;
    other.until_phase("friday", Phase::Open).await;
    operator.stop().await;
    let mut args = harness.operator_args("operator", 15);
    set_flag(&mut args, "--watch-namespaces", &harness.namespace);
    let operator = harness.operator_with_client(&harness.kube, args);
    harness.apply("tuesday", -1, 3600, json!({})).await;
    harness.until_phase("tuesday", Phase::Open).await;
    // Only an operator that watches that namespace may end its sales.
    other.delete("friday").await;
    tokio::time::sleep(ORPHAN_WAIT).await;
    assert!(is_open(&other, "friday").await, "the sale was closed");
    for harness in [&harness, &other] {
        assert!(is_open(harness, "monday").await, "the sale was closed");
        assert_eq!(harness.buy("monday", &["a"]).await, 1);
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_without_an_answer_delays_no_correction() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let (operator, worker) = (operator_behind(&harness, &proxy).await, harness.worker());
    proxy.set(Fault::SilentWrites).await;
    let mut wrong = serde_json::to_value(harness.manifest("wrong", -1, 3600, json!({}))).expect("serializes");
    // The API server accepts ten digits after the point, and the operator can parse nine.
    wrong["spec"]["startsAt"] = json!("2099-12-31T10:00:00.0000000000Z");
    wrong["spec"]["endsAt"] = json!("2099-12-31T11:00:00Z");
    let wrong: DynamicObject = serde_json::from_value(wrong).expect("an object");
    let resource = ApiResource::erase::<FlashSale>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(harness.kube.clone(), &harness.namespace, &resource);
    objects.create(&PostParams::default(), &wrong).await.expect("created");
    harness
        .eventually("the refusal is being written", async || proxy.silent_writes().0 > 0)
        .await;

    let corrected = harness.manifest("wrong", -1, 3600, json!({})).spec;
    harness.edit("wrong", json!({"spec": corrected})).await;
    harness
        .eventually("the corrected sale sells", async || {
            let sales = harness.ledger.unfinished_sales(&harness.name).await.expect("MySQL");
            sales.iter().any(|sale| sale.live_epoch.is_some())
        })
        .await;
    let (_, abandoned) = proxy.silent_writes();
    assert_eq!(abandoned, 0, "the correction waited for the refusal");
    proxy.set(Fault::None).await;
    harness.until_phase("wrong", Phase::Open).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_writes_without_an_answer_delay_no_sale() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(harness::upstream().await).await;
    let (operator, worker) = (operator_behind(&harness, &proxy).await, harness.worker());
    harness.apply("open", -1, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    assert_eq!(harness.buy("open", &["a"]).await, 1);
    let before = harness.sale("open").await;

    proxy.set(Fault::SilentWrites).await;
    harness.stock.drop_sale(before.id).await.expect("Redis");
    harness.apply("new", -1, 3600, json!({})).await;
    harness
        .eventually("the index is rebuilt", async || {
            harness.sale("open").await.live_epoch > before.live_epoch
        })
        .await;
    harness
        .eventually("the new sale is sold", async || {
            let sales = harness.ledger.unfinished_sales(&harness.name).await.expect("MySQL");
            sales.len() == 2 && sales.iter().all(|sale| sale.live_epoch.is_some())
        })
        .await;
    // Nobody waited for a status: no write has got an answer or was given up.
    let (silent, abandoned) = proxy.silent_writes();
    assert!(silent > 0 && abandoned == 0, "{silent} writes, {abandoned} given up");
    assert_eq!(harness.buy("new", &["a"]).await, 1);
    harness.end_in("open", 1).await;
    harness
        .eventually("the end is settled", async || {
            harness.sale("open").await.settled_at_ms.is_some()
        })
        .await;

    proxy.set(Fault::None).await;
    harness.until_phase("new", Phase::Open).await;
    let settled = harness.until_phase("open", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 1)));
    harness.until_event("open", "Settled").await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
