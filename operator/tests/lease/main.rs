//! Leader election by a Lease, against a real API server. Here the task of a leader only waits; `tests/life` tests the
//! work of a real leader.
mod harness;

use std::time::{Duration, Instant};

use harness::{Harness, LEASE_DURATION, LEASE_NAME, Proxy};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_shuts_down_is_replaced_immediately() {
    let harness = Harness::new().await;
    let one = harness.candidate("one", &harness.kube);
    one.until_leader().await;
    let other = harness.candidate("other", &harness.kube);
    tokio::time::sleep(LEASE_DURATION * 2).await;
    assert!(one.is_leader() && !other.is_leader());

    let started = Instant::now();
    one.stop().await;
    other.until_leader().await;
    assert!(
        started.elapsed() < LEASE_DURATION,
        "the other waited until the lease expired"
    );
    assert_eq!(harness.lease().await.lease_transitions, Some(2));
    harness
        .eventually("both changes of the leader have events", async || {
            harness.events().await == ["one became leader", "other became leader"]
        })
        .await;

    other.stop().await;
    let released = harness.lease().await;
    assert_eq!(
        (released.holder_identity, released.lease_duration_seconds),
        (None, Some(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_vanishes_is_replaced_when_its_lease_expires() {
    let harness = Harness::new().await;
    let one = harness.candidate("one", &harness.kube);
    one.until_leader().await;
    let other = harness.candidate("other", &harness.kube);
    tokio::time::sleep(LEASE_DURATION).await;
    let started = Instant::now();
    one.vanish().await;
    assert_eq!(harness.lease().await.holder_identity.as_deref(), Some("one"));
    other.until_leader().await;
    assert!(
        started.elapsed() > LEASE_DURATION / 2,
        "the other did not wait until the lease expired"
    );
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_answers_stops_before_another_becomes_leader() {
    let harness = Harness::new().await;
    let proxy = Proxy::start(&harness.api_server).await;
    let one = harness.candidate("one", &harness.client_through(&proxy).await);
    one.until_leader().await;
    let other = harness.candidate("other", &harness.kube);
    tokio::time::sleep(LEASE_DURATION).await;

    proxy.stall(true);
    other.until_leader().await;
    assert!(!one.is_leader());
    assert_eq!(harness.max_leaders(), 1, "both were leader at the same time");
    proxy.stall(false);
    tokio::time::sleep(LEASE_DURATION).await;
    assert!(other.is_leader() && !one.is_leader());

    // The first one is a candidate again.
    other.stop().await;
    one.until_leader().await;
    one.stop().await;
    assert_eq!(harness.max_leaders(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_permissions_suffice_and_losing_them_ends_leadership() {
    let harness = Harness::new().await;
    harness.grant().await;
    let one = harness.candidate("one", &harness.client_with_chart_permissions().await);
    one.until_leader().await;
    tokio::time::sleep(LEASE_DURATION).await;
    assert!(one.is_leader(), "the permissions suffice to renew the lease");
    harness
        .eventually("the permissions suffice to write events", async || {
            harness.events().await == ["one became leader"]
        })
        .await;

    let binding = harness.revoke().await;
    one.until_follower().await;
    assert!(one.failures() > 0);
    harness.restore(binding).await;
    one.until_leader().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_steps_down_when_its_lease_names_another_holder() {
    let harness = Harness::new().await;
    let (one, other) = (
        harness.candidate("one", &harness.kube),
        harness.candidate("other", &harness.kube),
    );
    harness
        .eventually("one of them is leader", async || one.is_leader() || other.is_leader())
        .await;
    let started = Instant::now();
    harness
        .edit_lease(json!({"spec": {"holderIdentity": "somebody"}}))
        .await;
    harness
        .eventually("no candidate is leader", async || {
            !one.is_leader() && !other.is_leader()
        })
        .await;
    assert_eq!(harness.lease().await.holder_identity.as_deref(), Some("somebody"));
    // The new holder does not renew the lease.
    harness
        .eventually("one of them is leader again", async || {
            one.is_leader() || other.is_leader()
        })
        .await;
    assert!(
        started.elapsed() > LEASE_DURATION / 2,
        "no candidate waited until the lease expired"
    );
    assert_eq!(harness.max_leaders(), 1);
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_lease_ends_leadership_and_is_recreated_after_a_delay() {
    let harness = Harness::new().await;
    let (one, other) = (
        harness.candidate("one", &harness.kube),
        harness.candidate("other", &harness.kube),
    );
    harness
        .eventually("one of them is leader", async || one.is_leader() || other.is_leader())
        .await;
    tokio::time::sleep(LEASE_DURATION / 3).await;
    let started = Instant::now();
    let leases = harness.api::<Lease>();
    leases
        .delete(LEASE_NAME, &DeleteParams::default())
        .await
        .expect("deleted");
    harness
        .eventually("no candidate is leader", async || {
            !one.is_leader() && !other.is_leader()
        })
        .await;
    harness
        .eventually("one of them is leader again", async || {
            one.is_leader() || other.is_leader()
        })
        .await;
    assert!(
        started.elapsed() > LEASE_DURATION / 2,
        "the lease was recreated without a delay"
    );
    assert_eq!(harness.max_leaders(), 1);
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_change_on_the_lease_keeps_the_leader() {
    let harness = Harness::new().await;
    let one = harness.candidate("one", &harness.kube);
    one.until_leader().await;
    for n in 0..6 {
        harness
            .edit_lease(json!({"metadata": {"labels": {"n": n.to_string()}}}))
            .await;
        tokio::time::sleep(LEASE_DURATION / 3).await;
        assert!(one.is_leader());
    }
    assert_eq!(one.terms(), 1, "it lost leadership for a moment");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_with_a_wrong_clock_keeps_its_lease_while_it_renews() {
    let harness = Harness::new().await;
    let lease = json!({
        "metadata": {"name": LEASE_NAME},
        "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": LEASE_DURATION.as_secs(), "renewTime": "1970-01-01T00:00:00.000000Z"},
    });
    let lease: Lease = serde_json::from_value(lease).expect("a Lease");
    harness
        .api::<Lease>()
        .create(&PostParams::default(), &lease)
        .await
        .expect("created");
    let one = harness.candidate("one", &harness.kube);
    for second in 1..=2 * LEASE_DURATION.as_secs() {
        harness
            .edit_lease(json!({"spec": {"renewTime": format!("1970-01-01T00:00:{second:02}.000000Z")}}))
            .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!one.is_leader());
    }
    // Now the clock of the holder is ahead, and the holder is gone.
    harness
        .edit_lease(json!({"spec": {"renewTime": "9000-01-01T00:00:00.000000Z"}}))
        .await;
    one.until_leader().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_ignores_shutdown_does_not_delay_the_next_leader() {
    let harness = Harness::new().await;
    let one = harness.candidate_that_hangs("one");
    one.until_leader().await;
    let other = harness.candidate("other", &harness.kube);
    one.stop().await;
    // The other may have acquired it already.
    assert_ne!(
        harness.lease_holder().await.as_deref(),
        Some("one"),
        "the lease was released"
    );
    other.until_leader().await;
    assert_eq!(harness.max_leaders(), 1);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_ends_the_process_and_releases_the_lease() {
    let harness = Harness::new().await;
    let one = harness.candidate_that_panics("one");
    let error = one.join().await.expect_err("it panicked");
    assert!(error.to_string().contains("panic"), "{error:#}");
    assert_eq!(harness.lease_holder().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_test_deletes_its_namespace() {
    let harness = Harness::new().await;
    let (namespaces, name): (Api<Namespace>, _) = (Api::all(harness.kube.clone()), harness.namespace.clone());
    let test = tokio::spawn(async move {
        let _harness = harness;
        panic!("the test asked for it")
    });
    assert!(test.await.is_err());
    let left = namespaces.get_opt(&name).await.expect("the API server answers");
    let is_deleted = |namespace: Namespace| namespace.metadata.deletion_timestamp.is_some();
    assert!(left.is_none_or(is_deleted), "{name} stays");
}
