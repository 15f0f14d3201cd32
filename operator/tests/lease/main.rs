//! The Lease by which one of several operators leads, against a real API server. What leading means is told in the tests
//! of sales' lives; here the work of a leader is to be there.
mod harness;

use std::time::{Duration, Instant};

use harness::{Harness, LEASE, LEASE_NAME, Proxy};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_leads_and_the_other_follows_at_once_when_it_is_told_to_end() {
    let harness = Harness::new().await;
    let one = harness.candidate("one", &harness.kube);
    one.leads().await;
    let other = harness.candidate("other", &harness.kube);
    tokio::time::sleep(LEASE * 2).await;
    assert!(one.is_leading() && !other.is_leading());

    let begun = Instant::now();
    one.stop().await;
    other.leads().await;
    assert!(begun.elapsed() < LEASE, "it waited until the lease ended");
    assert_eq!(harness.lease().await.lease_transitions, Some(2));
    harness
        .eventually("both are told as events", async || {
            harness.events().await == ["one became leader", "other became leader"]
        })
        .await;

    other.stop().await;
    let given_up = harness.lease().await;
    assert_eq!(
        (given_up.holder_identity, given_up.lease_duration_seconds),
        (None, Some(1))
    );
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_vanishes_is_followed_when_its_lease_has_ended() {
    let harness = Harness::new().await;
    let one = harness.candidate("one", &harness.kube);
    one.leads().await;
    let other = harness.candidate("other", &harness.kube);
    tokio::time::sleep(LEASE).await;
    let begun = Instant::now();
    one.vanish().await;
    assert_eq!(harness.lease().await.holder_identity.as_deref(), Some("one"));
    other.leads().await;
    assert!(begun.elapsed() > LEASE / 2, "it did not wait until the lease ended");
    other.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_gets_no_answer_stops_before_another_one_begins() {
    let harness = Harness::new().await;
    let proxy = Proxy::start(&harness.server).await;
    let one = harness.candidate("one", &harness.client_by(&proxy).await);
    one.leads().await;
    let other = harness.candidate("other", &harness.kube);
    tokio::time::sleep(LEASE).await;

    proxy.stall(true);
    other.leads().await;
    assert!(!one.is_leading());
    assert_eq!(harness.most_at_work(), 1, "both led at the same time");
    proxy.stall(false);
    tokio::time::sleep(LEASE).await;
    assert!(other.is_leading() && !one.is_leading());

    // It is a candidate again.
    other.stop().await;
    one.leads().await;
    one.stop().await;
    assert_eq!(harness.most_at_work(), 1);
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_rights_suffice_and_a_leader_that_loses_them_stops_until_it_has_them_again() {
    let harness = Harness::new().await;
    harness.grant().await;
    let one = harness.candidate("one", &harness.client_with_its_rights().await);
    one.leads().await;
    tokio::time::sleep(LEASE).await;
    assert!(one.is_leading(), "its rights suffice to renew");
    harness
        .eventually("its rights suffice to tell", async || {
            harness.events().await == ["one became leader"]
        })
        .await;

    let binding = harness.revoke().await;
    one.follows().await;
    assert!(one.failures() > 0);
    harness.restore(binding).await;
    one.leads().await;
    one.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_somebody_writes_another_holder_into_deposes_its_leader() {
    let harness = Harness::new().await;
    let (one, other) = (
        harness.candidate("one", &harness.kube),
        harness.candidate("other", &harness.kube),
    );
    harness
        .eventually("one of them leads", async || one.is_leading() || other.is_leading())
        .await;
    let begun = Instant::now();
    harness.edit(json!({"spec": {"holderIdentity": "somebody"}})).await;
    harness
        .eventually("nobody leads", async || !one.is_leading() && !other.is_leading())
        .await;
    assert_eq!(harness.lease().await.holder_identity.as_deref(), Some("somebody"));
    // Somebody does not renew it.
    harness
        .eventually("one of them leads again", async || {
            one.is_leading() || other.is_leading()
        })
        .await;
    assert!(begun.elapsed() > LEASE / 2, "nobody waited until the lease ended");
    assert_eq!(harness.most_at_work(), 1);
    one.stop().await;
    other.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_deleted_deposes_its_leader_and_is_made_anew_after_a_while() {
    let harness = Harness::new().await;
    let (one, other) = (
        harness.candidate("one", &harness.kube),
        harness.candidate("other", &harness.kube),
    );
    harness
        .eventually("one of them leads", async || one.is_leading() || other.is_leading())
        .await;
    tokio::time::sleep(LEASE / 3).await;
    let begun = Instant::now();
    let leases = harness.api::<Lease>();
    leases
        .delete(LEASE_NAME, &DeleteParams::default())
        .await
        .expect("deleted");
    harness
        .eventually("nobody leads", async || !one.is_leading() && !other.is_leading())
        .await;
    harness
        .eventually("one of them leads again", async || {
            one.is_leading() || other.is_leading()
        })
        .await;
    assert!(begun.elapsed() > LEASE / 2, "it was made anew at once");
    assert_eq!(harness.most_at_work(), 1);
    one.stop().await;
    other.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_deposes_nobody() {
    let harness = Harness::new().await;
    let one = harness.candidate("one", &harness.kube);
    one.leads().await;
    for n in 0..6 {
        harness
            .edit(json!({"metadata": {"labels": {"n": n.to_string()}}}))
            .await;
        tokio::time::sleep(LEASE / 3).await;
        assert!(one.is_leading());
    }
    assert_eq!(one.terms(), 1, "it was deposed for a moment");
    one.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_with_a_wrong_clock_keeps_its_lease_as_long_as_it_renews() {
    let harness = Harness::new().await;
    let lease = json!({
        "metadata": {"name": LEASE_NAME},
        "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": LEASE.as_secs(), "renewTime": "1970-01-01T00:00:00.000000Z"},
    });
    let lease: Lease = serde_json::from_value(lease).expect("a Lease");
    harness
        .api::<Lease>()
        .create(&PostParams::default(), &lease)
        .await
        .expect("created");
    let one = harness.candidate("one", &harness.kube);
    for second in 1..=2 * LEASE.as_secs() {
        harness
            .edit(json!({"spec": {"renewTime": format!("1970-01-01T00:00:{second:02}.000000Z")}}))
            .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!one.is_leading());
    }
    // As of now it is a clock that runs ahead, and a holder that is gone.
    harness
        .edit(json!({"spec": {"renewTime": "9000-01-01T00:00:00.000000Z"}}))
        .await;
    one.leads().await;
    one.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_does_not_end_when_told_to_does_not_hold_the_next_leader_up() {
    let harness = Harness::new().await;
    let one = harness.candidate_that_hangs("one");
    one.leads().await;
    let other = harness.candidate("other", &harness.kube);
    one.stop().await;
    assert_eq!(harness.lease_holder().await, None, "it was given up");
    other.leads().await;
    assert_eq!(harness.most_at_work(), 1);
    other.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_panics_ends_the_process_and_gives_the_lease_up() {
    let harness = Harness::new().await;
    let one = harness.candidate_that_panics("one");
    let error = one.ends().await.expect_err("it panicked");
    assert!(error.to_string().contains("panic"), "{error:#}");
    assert_eq!(harness.lease_holder().await, None);
    harness.drop().await;
}

/// Patches by merging.
async fn patch(leases: &kube::Api<Lease>, patch: serde_json::Value) {
    leases
        .patch(LEASE_NAME, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .expect("patched");
}
