//! What the API server may do to an operator, and what sales notice of it.
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::{DeleteParams, PostParams};
use kube::config::AuthInfo;
use seckill_crds::Phase;
use seckill_protocol::index::SaleState;
use serde_json::{Value, json};

use crate::harness::{self, Harness, Running, set};
use crate::proxy::{Fault, Proxy};

/// Longer than a FlashSale has to be missed before its sale is taken for an orphan.
const LONG_ENOUGH: Duration = Duration::from_secs(8);
const FAILURES: &str = "seckill_operator_watch_failures_total";

/// Nothing is asked again behind the tests' back.
async fn upstream() -> Client {
    let mut config = harness::config().await;
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

async fn behind(harness: &Harness, proxy: &Proxy) -> Running {
    harness.operator_by(&proxy.client(), harness.operator_command("operator", 15))
}

async fn is_open(harness: &Harness, name: &str) -> bool {
    let sale = harness.sale(name).await;
    sale.state == SaleState::Open && sale.cut.closed.is_none()
}

/// An open sale sells on, one that is made meanwhile opens at the latest afterwards, and edits come through.
async fn comes_through(fault: Fault, counted_as: Option<&str>) {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(upstream().await).await;
    let (operator, worker) = (behind(&harness, &proxy).await, harness.worker());
    harness.apply("open", -1, 3600, json!({})).await;
    harness.apply("later", 3600, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    harness.until_phase("later", Phase::Scheduled).await;

    proxy.set(fault).await;
    harness.apply("meanwhile", -1, 3600, json!({})).await;
    assert_eq!(harness.buy_surely("open", &["a", "b"]).await, 2);
    if let Some(reason) = counted_as {
        harness
            .eventually("the failures are counted", async || {
                operator.counted(FAILURES, reason).await > 1
            })
            .await;
    }
    if let Fault::NotServed | Fault::EmptyLists = fault {
        tokio::time::sleep(LONG_ENOUGH).await;
    } else {
        harness.until_phase("meanwhile", Phase::Open).await;
    }
    for name in ["open", "later"] {
        assert!(is_open(&harness, name).await, "{name} was closed");
    }
    assert_eq!(harness.buy_surely("open", &["c"]).await, 1);

    proxy.set(Fault::None).await;
    goes_on_as_ever(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

async fn goes_on_as_ever(harness: &Harness) {
    harness.until_phase("meanwhile", Phase::Open).await;
    harness.apply("afterwards", -1, 3600, json!({})).await;
    harness.until_phase("afterwards", Phase::Open).await;
    harness.edit("open", json!({"spec": {"stock": 12}})).await;
    harness.edit("later", json!({"spec": {"stock": 5}})).await;
    harness
        .eventually("the edits are taken over", async || {
            (harness.sale("open").await.total, harness.sale("later").await.offered) == (12, 5)
        })
        .await;
    for name in ["open", "later", "meanwhile", "afterwards"] {
        assert!(is_open(harness, name).await, "{name} was closed");
    }
    assert_eq!(harness.buy_surely("open", &["d"]).await, 1);
    assert_eq!(harness.buy_surely("meanwhile", &["a"]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_busy_holds_no_sale_up() {
    comes_through(Fault::Busy, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_slow_holds_no_sale_up() {
    comes_through(Fault::Slow(Duration::from_millis(300)), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_expires_is_begun_anew() {
    comes_through(Fault::ExpiredEvent, Some("expired")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_answered_as_expired_is_begun_anew() {
    comes_through(Fault::ExpiredAnswer, Some("expired")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flash_sales_that_are_not_served_for_a_while_are_not_gone() {
    comes_through(Fault::NotServed, Some("not_served")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flash_sales_that_a_list_lacks_are_not_gone() {
    comes_through(Fault::EmptyLists, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_died_without_a_word_is_begun_anew() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(upstream().await).await;
    let (operator, worker) = (behind(&harness, &proxy).await, harness.worker());
    harness.apply("before", -1, 3600, json!({})).await;
    harness.until_phase("before", Phase::Open).await;
    proxy.set(Fault::DeadWatch).await;
    harness
        .eventually("it watches again, in vain", async || proxy.dead_watches() > 0)
        .await;
    // The connection stays: nothing tells that nobody is at its other end.
    proxy.set_for_new_requests(Fault::None);
    harness.apply("unseen", -1, 3600, json!({})).await;
    harness.until_phase("unseen", Phase::Open).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// As when it is restarted. (The real one is not: all tests share it.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_for_longer_than_the_lease_closes_nothing() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(upstream().await).await;
    let operator = harness.operator_by(&proxy.client(), harness.operator_command("operator", 3));
    let worker = harness.worker();
    harness.apply("open", -1, 3600, json!({})).await;
    harness.apply("later", 3600, 3600, json!({})).await;
    harness.until_phase("open", Phase::Open).await;
    harness.until_phase("later", Phase::Scheduled).await;
    proxy.refuse().await;
    harness.apply("meanwhile", -1, 3600, json!({})).await;
    assert_eq!(harness.buy_surely("open", &["a", "b"]).await, 2);
    harness
        .eventually("it is counted", async || {
            operator.counted(FAILURES, "unreachable").await > 0
        })
        .await;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(harness.buy_surely("open", &["c"]).await, 1);
    proxy.accept().await;
    goes_on_as_ever(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// Client with a service account's rights, all that the operator needs in one namespace; those to FlashSales are a Role of
/// their own.
async fn with_rights(harness: &Harness) -> (Client, RoleBinding) {
    let of = |group: &str, resources: Value| json!([{"apiGroups": [group], "resources": resources, "verbs": ["*"]}]);
    let mut rest = of("apps", json!(["deployments", "deployments/scale"]));
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
    let mut config = harness::config().await;
    config.default_retry = false;
    config.auth_info = AuthInfo {
        token: token.map(Into::into),
        ..AuthInfo::default()
    };
    (Client::try_from(config).expect("a client"), bindings.remove(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_taken_away_close_only_what_was_seen_to_be_deleted_and_given_back_all_goes_on() {
    let harness = Harness::new().await;
    let (client, binding) = with_rights(&harness).await;
    let mut proxy = Proxy::start(client).await;
    let (operator, worker) = (behind(&harness, &proxy).await, harness.worker());
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
    // As when a namespace goes: its deletion is seen, and then nobody may say any more whether it is there.
    harness.delete("deleted").await;
    harness
        .eventually_soon("the deletion is seen", async || !operator.names("deleted").await)
        .await;
    let bindings = harness.api::<RoleBinding>();
    bindings
        .delete("sales", &DeleteParams::default())
        .await
        .expect("deleted");
    // The API server asks for rights when a watch begins.
    proxy.set(Fault::None).await;
    harness.apply("meanwhile", -1, 3600, json!({})).await;
    harness
        .eventually("it is refused, and that is counted", async || {
            operator.counted(FAILURES, "refused").await > 1
        })
        .await;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(harness.buy_surely("open", &["a", "b", "c"]).await, 3);
    for name in ["open", "later"] {
        assert!(is_open(&harness, name).await, "{name} was closed");
    }
    harness
        .eventually("what was deleted is settled", async || {
            harness.sale("deleted").await.settled_at_ms.is_some()
        })
        .await;
    let binding = bindings.create(&PostParams::default(), &binding).await;
    binding.expect("created");
    goes_on_as_ever(&harness).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_can_t_be_read_holds_up_no_other() {
    let harness = Harness::new().await;
    let (client, _) = with_rights(&harness).await;
    let mut words = harness.operator_command("operator", 15);
    set(
        &mut words,
        "--watch-namespaces",
        &format!("gone-{0},{0}", harness.namespace),
    );
    let (operator, worker) = (harness.operator_by(&client, words), harness.worker());
    harness
        .apply("open", -1, 3600, json!({"demand": {"apiReplicas": 2}}))
        .await;
    harness.until_phase("open", Phase::Open).await;
    harness
        .eventually("it has its pods", async || harness.replicas("api").await == 2)
        .await;
    harness.delete("open").await;
    harness
        .eventually("it is settled", async || {
            harness.sale("open").await.settled_at_ms.is_some()
        })
        .await;
    // Over there may be a sale that needs them.
    assert_eq!(harness.replicas("api").await, 2);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_is_believed_only_by_an_answer_that_names_the_flash_sale() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::start(upstream().await).await;
    let (operator, worker) = (behind(&harness, &proxy).await, harness.worker());
    harness.apply("deleted", -1, 3600, json!({})).await;
    harness.until_phase("deleted", Phase::Open).await;
    harness.delete("deleted").await;
    harness
        .eventually_soon("the deletion is seen", async || !operator.names("deleted").await)
        .await;
    proxy.set(Fault::NotServed).await;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(is_open(&harness, "deleted").await, "it was closed");
    proxy.set(Fault::None).await;
    harness
        .eventually("it is settled", async || {
            harness.sale("deleted").await.settled_at_ms.is_some()
        })
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_of_a_namespace_that_is_watched_no_more_stay_as_they_are() {
    let harness = Harness::new().await;
    let other = harness.one_more_namespace().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    for harness in [&harness, &other] {
        harness.apply("monday", -1, 3600, json!({})).await;
        harness.until_phase("monday", Phase::Open).await;
    }
    other.apply("friday", -1, 3600, json!({})).await;
    other.until_phase("friday", Phase::Open).await;
    operator.stop().await;
    let mut fewer = harness.operator_command("operator", 15);
    set(&mut fewer, "--watch-namespaces", &harness.namespace);
    let operator = harness.operator_by(&harness.kube, fewer);
    harness.apply("tuesday", -1, 3600, json!({})).await;
    harness.until_phase("tuesday", Phase::Open).await;
    // Whoever watches that namespace now ends this one, and nobody else.
    other.delete("friday").await;
    tokio::time::sleep(LONG_ENOUGH).await;
    assert!(is_open(&other, "friday").await, "it was closed");
    for harness in [&harness, &other] {
        assert!(is_open(harness, "monday").await, "it was closed");
        assert_eq!(harness.buy_surely("monday", &["a"]).await, 1);
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
