//! Ways to install: beside another release, again, without rights on the cluster, and with a guard against deletion.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use seckill_e2e::{Cluster, Crowd, Kind, Release, Sale};
use serde_json::Value;

use super::Scenario;
use super::sales::exactly;

pub const SCENARIOS: &[Scenario] = &[
    (
        "two_releases_run_the_sales_of_their_own_class_and_no_other",
        two_releases_run_their_own_sales,
    ),
    (
        "a_release_that_is_installed_again_goes_on_where_it_stopped",
        a_release_that_is_installed_again,
    ),
    (
        "an_administrator_of_namespaces_installs_a_release_for_them_without_rights_on_the_cluster",
        a_release_without_rights_on_the_cluster,
    ),
    (
        "the_deletion_guard_keeps_a_sale_that_is_open_and_lets_go_what_may_go",
        the_deletion_guard,
    ),
];

const LIMIT: Duration = Duration::from_secs(120);

/// Plays on another release, and takes it away whatever comes of it.
fn beside(release: &Release, play: impl FnOnce(&Release) -> Result<()>) -> Result<()> {
    let other = Release::prepare(release.cluster.clone())?;
    let played = play(&other);
    let cleaned = other.clean_up();
    played.and(cleaned)
}

/// They share the topic, the group, the database and Redis.
fn two_releases_run_their_own_sales(first: &Release) -> Result<()> {
    beside(first, |second| {
        second.upgrade(&[])?;
        second.answers()?;
        let (here, there) = (first.sales_namespace()?, first.sales_namespace()?);
        let mut sales = Vec::new();
        // Both classes in each namespace, and each name in both classes.
        for (owner, other, namespace, name, stock) in [
            (first, second, &here, "one", 10),
            (second, first, &here, "two", 11),
            (first, second, &there, "two", 12),
            (second, first, &there, "one", 13),
        ] {
            let manifest = Sale::manifest(&owner.class, namespace, name, stock, -1, 300);
            let sale = Sale::apply(&owner.cluster, &manifest)?;
            sales.push((owner, other, sale, manifest, stock as usize));
        }
        let mut crowds = Vec::new();
        for (owner, _, sale, _, stock) in &sales {
            let path = format!("{}/{}", sale.namespace, sale.name);
            sale.reaches("Open", LIMIT)?;
            let left_for_later = 2;
            let crowd = Crowd::buys(&owner.api, &path, stock - left_for_later);
            exactly(&crowd, stock - left_for_later, stock - left_for_later)?;
            crowds.push(crowd);
        }
        let mut numbers = BTreeSet::new();
        for ((owner, other, sale, ..), crowd) in sales.iter().zip(crowds) {
            let path = format!("{}/{}", sale.namespace, sale.name);
            let shown = other.api.get(&format!("/v1/sales/{path}"))?;
            ensure!(shown.status == 404, "{path}, shown by the other release: {shown:?}");
            let bought = other.api.buy_surely(&path)?;
            ensure!(bought.status == 404, "{path}, bought of the other release: {bought:?}");
            for number in crowd.order_numbers() {
                let order = owner.api.get(&format!("/v1/orders/{number}"))?;
                ensure!(order.status == 200, "{number}: {order:?}");
                let order = other.api.get(&format!("/v1/orders/{number}"))?;
                ensure!(order.status == 404, "{number}, shown by the other release: {order:?}");
                ensure!(numbers.insert(number), "an order of two sales");
            }
            ran_by(owner, sale)?;
        }

        second.uninstall()?;
        for (owner, _, sale, mut manifest, stock) in sales {
            if owner.name == second.name {
                let phase = sale.status()?["phase"].clone();
                ensure!(phase == "Open", "{}, whose release is gone: {phase}", sale.name);
                continue;
            }
            let path = format!("{}/{}", sale.namespace, sale.name);
            exactly(&Crowd::buys(&owner.api, &path, 5), 2, 5)?;
            sale.reaches("SoldOut", LIMIT)?;
            manifest["spec"]["endsAt"] = seckill_e2e::in_seconds(1).into();
            owner.cluster.apply(&manifest)?;
            let status = sale.reaches("Settled", LIMIT)?;
            ensure!(status["ledger"]["sold"] == stock, "{path}: {status}");
        }
        Ok(())
    })
}

/// Whether all events of a sale were written by operators of the release.
fn ran_by(release: &Release, sale: &Sale) -> Result<()> {
    let events = release
        .cluster
        .kubectl(&["get", "events.events.k8s.io", "-n", &sale.namespace, "-o", "json"])?;
    let events: Value = serde_json::from_str(&events)?;
    let events = events["items"].as_array().cloned().unwrap_or_default();
    let of_sale = events
        .iter()
        .filter(|event| event["regarding"]["name"] == sale.name.as_str());
    let writers: BTreeSet<_> = of_sale
        .map(|event| event["reportingInstance"].as_str().unwrap_or_default())
        .collect();
    let own = format!("{}-seckill-operator-", release.name);
    ensure!(
        !writers.is_empty() && writers.iter().all(|writer| writer.starts_with(&own)),
        "{}/{} was run by {writers:?}",
        sale.namespace,
        sale.name
    );
    Ok(())
}

fn a_release_that_is_installed_again(release: &Release) -> Result<()> {
    beside(release, |again| {
        let keys = "orderNumberKeys.keys=1:00112233445566778899aabbccddeeff";
        let namespace = again.sales_namespace()?;
        let path = format!("{namespace}/goes-on");
        let mut manifest = Sale::manifest(&again.class, &namespace, "goes-on", 10, -1, 300);
        again.upgrade(&["--set", keys])?;
        again.answers()?;
        let sale = Sale::apply(&again.cluster, &manifest)?;
        sale.reaches("Open", LIMIT)?;
        let before = Crowd::buys(&again.api, &path, 4);
        exactly(&before, 4, 4)?;

        again.uninstall()?;
        again.upgrade(&["--set", keys])?;
        again.answers()?;
        let after = Crowd::buys(&again.api, &path, 9);
        exactly(&after, 6, 9)?;
        for number in before.order_numbers().union(&after.order_numbers()) {
            let order = again.api.get(&format!("/v1/orders/{number}"))?;
            ensure!(order.status == 200, "{number}: {order:?}");
        }
        manifest["spec"]["endsAt"] = seckill_e2e::in_seconds(1).into();
        again.cluster.apply(&manifest)?;
        let status = sale.reaches("Settled", LIMIT)?;
        ensure!(status["ledger"]["sold"] == 10, "{status}");
        Ok(())
    })
}

fn a_release_without_rights_on_the_cluster(release: &Release) -> Result<()> {
    beside(release, |admin| {
        let (shop, games) = (admin.sales_namespace()?, admin.sales_namespace()?);
        let foreign = admin.sales_namespace()?;

        // Once, by the cluster's administrator.
        let owner = format!("{}-owner", admin.name);
        let user = format!("--user={owner}");
        let give_to_owner = |namespace: &str| {
            let role = "--clusterrole=admin";
            let binding = ["create", "rolebinding", "owner", "-n", namespace, role, &user];
            admin.cluster.kubectl(&binding)
        };
        for namespace in [&admin.namespace, &shop, &games] {
            give_to_owner(namespace)?;
        }
        let elsewhere = rights(&admin.cluster, "", &owner, &foreign)?;
        ensure!(
            elsewhere.is_empty(),
            "the owner has rights that are not of its namespaces: {elsewhere:#?}"
        );

        // Then, by the owner of the namespaces.
        let tenant = admin.as_user(&owner);
        let watched = format!("watchNamespaces={{{shop},{games}}},operator.keda=false");
        tenant.upgrade(&["--set", &watched])?;
        tenant.answers()?;

        let manifest = |namespace: &str, name: &str| Sale::manifest(&admin.class, namespace, name, 10, -1, 300);
        let left_alone = Sale::apply(&admin.cluster, &manifest(&foreign, "foreign"))?;
        for namespace in [&shop, &games] {
            let mut manifest = manifest(namespace, "whole");
            let sale = Sale::apply(&tenant.cluster, &manifest)?;
            sale.reaches("Open", LIMIT)?;
            let crowd = Crowd::buys(&tenant.api, &format!("{namespace}/whole"), 15);
            exactly(&crowd, 10, 15)?;
            for number in crowd.order_numbers() {
                let order = tenant.api.get(&format!("/v1/orders/{number}"))?;
                ensure!(order.status == 200, "{number}: {order:?}");
            }
            manifest["spec"]["endsAt"] = seckill_e2e::in_seconds(1).into();
            tenant.cluster.apply(&manifest)?;
            let status = sale.reaches("Settled", LIMIT)?;
            ensure!(status["ledger"]["sold"] == 10, "{status}");
        }
        let status = left_alone.status()?;
        ensure!(status.is_null(), "a sale of a namespace that is not watched: {status}");
        let answer = tenant.api.buy_surely(&format!("{foreign}/foreign"))?;
        ensure!(answer.status == 404, "{answer:?}");

        nothing_of_the_cluster(admin)?;
        the_rights_are_those_of_the_manual(admin, &[&shop, &games], &foreign)?;

        // The operator's right to ask goes with the namespace; it has been told of the deletion before.
        let gone = Sale::apply(&tenant.cluster, &manifest(&games, "gone"))?;
        gone.reaches("Open", LIMIT)?;
        admin.namespace_ends(&games)?;
        seckill_e2e::until("the sale to be closed", LIMIT, || {
            let answer = tenant.api.buy_surely(&format!("{games}/gone"))?;
            Ok((answer.kind() == Kind::Ended).then_some(()))
        })?;

        tenant.uninstall()?;
        seckill_e2e::until("everything of the release to be gone", LIMIT, || {
            let left = admin.left_over()?;
            ensure!(left.is_empty(), "left: {left:?}");
            Ok(Some(()))
        })
    })
}

/// Of the kinds that were installed none is the cluster's.
fn nothing_of_the_cluster(tenant: &Release) -> Result<()> {
    let kinds = tenant
        .cluster
        .kubectl(&["api-resources", "--namespaced=false", "--no-headers"])?;
    let of_the_cluster: BTreeSet<_> = kinds.lines().filter_map(|l| l.split_whitespace().last()).collect();
    ensure!(of_the_cluster.contains("ClusterRole"), "{of_the_cluster:?}");
    let manifest = ["get", "manifest", &tenant.name, "-n", &tenant.namespace];
    let manifest = tenant.cluster.helm(&manifest)?;
    let installed: BTreeSet<_> = manifest.lines().filter_map(|l| l.strip_prefix("kind: ")).collect();
    ensure!(installed.contains("RoleBinding"), "{installed:?}");
    let both: Vec<_> = installed.intersection(&of_the_cluster).collect();
    ensure!(both.is_empty(), "objects of the cluster: {both:?}");
    Ok(())
}

/// The lines of `kubectl auth can-i --list` that somebody has and `of-nobody` has not.
fn rights(cluster: &Cluster, kind: &str, name: &str, namespace: &str) -> Result<BTreeSet<String>> {
    let list = |name: &str| -> Result<BTreeSet<String>> {
        let who = format!("--as={kind}{name}");
        let table = cluster.kubectl(&["auth", "can-i", "--list", &who, "-n", namespace])?;
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(table.lines().map(line).collect())
    };
    let everybody = list("of-nobody")?;
    ensure!(!everybody.is_empty(), "nobody has any right");
    Ok(list(name)?.difference(&everybody).cloned().collect())
}

/// What docs/operator.md shows.
fn the_rights_are_those_of_the_manual(tenant: &Release, watched: &[&String], foreign: &str) -> Result<()> {
    let name = format!("{}-seckill", tenant.name);
    let account = format!("system:serviceaccount:{}:", tenant.namespace);
    let of_the_operator = |namespace: &str| rights(&tenant.cluster, &account, &format!("{name}-operator"), namespace);
    let expected = |lines: &[&str]| -> BTreeSet<String> { lines.iter().map(|l| l.replace("NAME", &name)).collect() };

    let of_sales = expected(&[
        "events.events.k8s.io [] [] [create patch]",
        "flashsales.seckill.dev [] [] [get list watch]",
        "flashsales.seckill.dev/status [] [] [patch]",
    ]);
    for namespace in watched {
        let seen = of_the_operator(namespace)?;
        ensure!(seen == of_sales, "in a watched namespace: {seen:#?}");
    }
    let seen = of_the_operator(&tenant.namespace)?;
    let of_its_own = expected(&[
        "deployments.apps [] [NAME-api] [get]",
        "deployments.apps [] [NAME-worker] [get]",
        "deployments.apps/scale [] [NAME-api] [patch]",
        "deployments.apps/scale [] [NAME-worker] [patch]",
        "events.events.k8s.io [] [] [create patch]",
        "horizontalpodautoscalers.autoscaling [] [] [list]",
        "leases.coordination.k8s.io [] [] [create]",
        "leases.coordination.k8s.io [] [NAME-operator] [get update]",
        "pods [] [] [list]",
    ]);
    ensure!(seen == of_its_own, "in the namespace of the release: {seen:#?}");
    // A right on the cluster would be one here too.
    let seen = of_the_operator(foreign)?;
    ensure!(seen.is_empty(), "elsewhere: {seen:#?}");
    for program in ["api", "worker", "migrate"] {
        let seen = rights(
            &tenant.cluster,
            &account,
            &format!("{name}-{program}"),
            &tenant.namespace,
        )?;
        ensure!(seen.is_empty(), "{program}: {seen:#?}");
    }
    Ok(())
}

fn the_deletion_guard(release: &Release) -> Result<()> {
    let guarded = release.upgrade(&["--set", "deletionGuard.enabled=true"]);
    let played = guarded.and_then(|_| what_the_guard_refuses(release));
    // It is off by default.
    release.upgrade(&[])?;
    let policies = "validatingadmissionpolicies,validatingadmissionpolicybindings";
    let own = format!("app.kubernetes.io/instance={}", release.name);
    let left = release.cluster.kubectl(&["get", policies, "-l", &own, "-o", "name"])?;
    ensure!(left.is_empty(), "still there: {left}");
    played
}

fn what_the_guard_refuses(release: &Release) -> Result<()> {
    let cluster = &release.cluster;
    let namespace = release.sales_namespace()?;
    let manifest =
        |class: &str, name: &str, starts: i64| Sale::manifest(class, &namespace, name, 2, starts, starts + 3600);
    let mut to_be_kept = manifest(&release.class, "kept", -1);
    let kept = Sale::apply(cluster, &to_be_kept)?;
    let sold_out = Sale::apply(cluster, &manifest(&release.class, "sold-out", -1))?;
    let let_go = Sale::apply(cluster, &manifest(&release.class, "let-go", -1))?;
    for sale in [&kept, &sold_out, &let_go] {
        sale.reaches("Open", LIMIT)?;
    }
    let path = |sale: &Sale| format!("{}/{}", sale.namespace, sale.name);
    exactly(&Crowd::buys(&release.api, &path(&sold_out), 2), 2, 2)?;
    sold_out.reaches("SoldOut", LIMIT)?;

    // The API server takes a moment to know the policy: until then a deletion must be tried only.
    let tried = ["delete", "flashsale", "kept", "-n", &namespace, "--dry-run=server"];
    seckill_e2e::until("the guard to be in force", LIMIT, || {
        Ok(cluster.kubectl(&tried).is_err().then_some(()))
    })?;
    for (sale, phase) in [(&kept, "Open"), (&sold_out, "SoldOut")] {
        let said = match sale.delete() {
            Ok(()) => bail!("{} is {phase}, and was deleted", sale.name),
            Err(error) => format!("{error:#}"),
        };
        let what_to_do = [
            &format!("the sale is {phase}"),
            "spec.endsAt",
            "seckill.dev/allow-deletion=true",
        ];
        seckill_e2e::all_named(&said, &what_to_do)?;
    }
    let all = format!("/apis/seckill.dev/v1alpha1/namespaces/{namespace}/flashsales");
    match cluster.kubectl(&["delete", "--raw", &all]) {
        Ok(_) => bail!("the whole collection was deleted"),
        Err(error) => seckill_e2e::all_named(&format!("{error:#}"), &["the sale is"])?,
    }
    let bought = release.api.buy_surely(&path(&kept))?;
    ensure!(bought.kind() == Kind::Won, "it does not sell on: {bought:?}");

    // Not open yet; of another release; and with leave.
    Sale::apply(cluster, &manifest(&release.class, "later", 7200))?.delete()?;
    let foreign = Sale::apply(cluster, &manifest("of-another-release", "foreign", -1))?;
    let open = r#"{"status":{"phase":"Open"}}"#;
    let patch = [
        "patch",
        "flashsale",
        "foreign",
        "-n",
        &namespace,
        "--subresource=status",
        "--type=merge",
    ];
    cluster.kubectl(&[&patch[..], &["-p", open]].concat())?;
    foreign.delete()?;
    let leave = [
        "annotate",
        "flashsale",
        "let-go",
        "-n",
        &namespace,
        "seckill.dev/allow-deletion=true",
    ];
    cluster.kubectl(&leave)?;
    let_go.delete()?;

    // Ended, as the message says.
    to_be_kept["spec"]["endsAt"] = seckill_e2e::in_seconds(1).into();
    cluster.apply(&to_be_kept)?;
    kept.reaches("Ended", LIMIT)?;
    kept.delete()?;

    // Its namespace takes the one that is sold out with it.
    let phase = sold_out.status()?["phase"].clone();
    ensure!(phase == "SoldOut", "{phase}");
    release.namespace_ends(&namespace)
}
