//! Ways to install: beside another release, again, without rights on the cluster, and with the deletion guard.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use seckill_e2e::{Cluster, Crowd, PurchaseResult, Release, Sale, Scenario, check_all_named, in_seconds, wait_until};
use serde_json::{Value, json};

pub const SCENARIOS: &[Scenario] = &[
    (
        "two_releases_run_only_the_sales_of_their_own_class",
        two_releases_run_their_own_sales,
    ),
    (
        "a_reinstalled_release_continues_its_sales",
        a_reinstalled_release_continues,
    ),
    (
        "a_namespace_owner_installs_a_release_without_rights_on_the_cluster",
        a_release_without_rights_on_the_cluster,
    ),
    (
        "the_deletion_guard_refuses_to_delete_open_sales_only",
        the_deletion_guard,
    ),
];

const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// Runs a scenario on another release, and removes that release also after a failure.
fn beside(release: &Release, scenario: impl FnOnce(&Release) -> Result<()>) -> Result<()> {
    let other = Release::prepare(release.cluster.clone())?;
    let result = scenario(&other);
    let cleaned = other.clean_up();
    result.and(cleaned)
}

/// Ends a sale now, and waits until it is settled with this many units sold.
fn end_and_settle(cluster: &Cluster, sale: &Sale, mut manifest: Value, sold: usize) -> Result<()> {
    manifest["spec"]["endsAt"] = in_seconds(1).into();
    cluster.apply(&manifest)?;
    let status = sale.wait_for_phase("Settled", WAIT_LIMIT)?;
    ensure!(
        status["ledger"]["sold"] == sold,
        "{}/{}: {status}",
        sale.namespace,
        sale.name
    );
    Ok(())
}

/// Checks that the release shows these orders.
fn check_orders<'a>(release: &Release, numbers: impl IntoIterator<Item = &'a String>) -> Result<()> {
    for number in numbers {
        let order = release.api.get(&format!("/v1/orders/{number}"))?;
        ensure!(order.status == 200, "{number}: {order:?}");
    }
    Ok(())
}

/// A sale of one of two releases.
struct OwnedSale<'a> {
    owner: &'a Release,
    other: &'a Release,
    sale: Sale<'a>,
    manifest: Value,
    stock: usize,
}

impl OwnedSale<'_> {
    fn path(&self) -> String {
        format!("{}/{}", self.sale.namespace, self.sale.name)
    }

    /// Checks that the other release knows neither the sale nor its orders.
    fn check_hidden_from_other(&self, crowd: &Crowd) -> Result<()> {
        let path = self.path();
        // 503 until its ledger is known to be up to date.
        let shown = wait_until("the other release to know its sales", WAIT_LIMIT, || {
            let shown = self.other.api.get(&format!("/v1/sales/{path}"))?;
            Ok((shown.status != 503).then_some(shown))
        })?;
        ensure!(shown.status == 404, "{path} is shown by the other release: {shown:?}");
        let bought = self.other.api.buy_until_final(&path)?;
        ensure!(bought.status == 404, "{path} is sold by the other release: {bought:?}");
        for number in crowd.order_numbers() {
            let order = self.other.api.get(&format!("/v1/orders/{number}"))?;
            ensure!(order.status == 404, "{number} is shown by the other release: {order:?}");
        }
        Ok(())
    }
}

/// The two releases share the topic, the group, the database and Redis.
fn two_releases_run_their_own_sales(first: &Release) -> Result<()> {
    const LEFT_FOR_LATER: usize = 2;
    beside(first, |second| {
        second.upgrade(&[])?;
        second.wait_until_reachable()?;
        let sales = sales_of_two_releases(first, second)?;
        let mut crowds = Vec::new();
        for owned in &sales {
            owned.sale.wait_for_phase("Open", WAIT_LIMIT)?;
            let buyers = owned.stock - LEFT_FOR_LATER;
            let crowd = Crowd::buy(&owned.owner.api, &owned.path(), buyers);
            crowd.check_winners(buyers, buyers)?;
            crowds.push(crowd);
        }
        let mut numbers = BTreeSet::new();
        for (owned, crowd) in sales.iter().zip(crowds) {
            check_orders(owned.owner, &crowd.order_numbers())?;
            owned.check_hidden_from_other(&crowd)?;
            for number in crowd.order_numbers() {
                ensure!(numbers.insert(number), "one order number in two sales");
            }
            check_operator(owned.owner, &owned.sale)?;
        }

        second.uninstall()?;
        for owned in sales {
            if owned.owner.name == second.name {
                let (name, phase) = (&owned.sale.name, owned.sale.status()?["phase"].clone());
                ensure!(phase == "Open", "{name}: the phase without a release is {phase}");
                continue;
            }
            Crowd::buy(&owned.owner.api, &owned.path(), 5).check_winners(LEFT_FOR_LATER, 5)?;
            owned.sale.wait_for_phase("SoldOut", WAIT_LIMIT)?;
            end_and_settle(&owned.owner.cluster, &owned.sale, owned.manifest, owned.stock)?;
        }
        Ok(())
    })
}

/// Both classes in each of two namespaces, and each name in both classes.
fn sales_of_two_releases<'a>(first: &'a Release, second: &'a Release) -> Result<Vec<OwnedSale<'a>>> {
    let (here, there) = (first.sales_namespace()?, first.sales_namespace()?);
    let mut sales = Vec::new();
    for (owner, other, namespace, name, stock) in [
        (first, second, &here, "one", 10),
        (second, first, &here, "two", 11),
        (first, second, &there, "two", 12),
        (second, first, &there, "one", 13),
    ] {
        let manifest = Sale::manifest(&owner.class, namespace, name, stock, -1, 300);
        sales.push(OwnedSale {
            owner,
            other,
            sale: Sale::apply(&owner.cluster, &manifest)?,
            manifest,
            stock: stock as usize,
        });
    }
    Ok(sales)
}

/// Checks that all events of a sale were written by operators of the release.
fn check_operator(release: &Release, sale: &Sale) -> Result<()> {
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
        "events of {}/{} were written by {writers:?}",
        sale.namespace,
        sale.name
    );
    Ok(())
}

fn a_reinstalled_release_continues(release: &Release) -> Result<()> {
    beside(release, |again| {
        let keys = "orderNumberKeys.keys=1:00112233445566778899aabbccddeeff";
        let namespace = again.sales_namespace()?;
        let path = format!("{namespace}/goes-on");
        let manifest = Sale::manifest(&again.class, &namespace, "goes-on", 10, -1, 300);
        again.upgrade(&["--set", keys])?;
        again.wait_until_reachable()?;
        let sale = Sale::apply(&again.cluster, &manifest)?;
        sale.wait_for_phase("Open", WAIT_LIMIT)?;
        let before = Crowd::buy(&again.api, &path, 4);
        before.check_winners(4, 4)?;

        again.uninstall()?;
        again.upgrade(&["--set", keys])?;
        again.wait_until_reachable()?;
        let after = Crowd::buy(&again.api, &path, 9);
        after.check_winners(6, 9)?;
        check_orders(again, &before.order_numbers())?;
        check_orders(again, &after.order_numbers())?;
        end_and_settle(&again.cluster, &sale, manifest, 10)
    })
}

fn a_release_without_rights_on_the_cluster(release: &Release) -> Result<()> {
    beside(release, |admin| {
        let (shop, games) = (admin.sales_namespace()?, admin.sales_namespace()?);
        let foreign = admin.sales_namespace()?;
        // The administrator of the cluster does this once; the owner of the namespaces does the rest.
        let owner = create_owner(admin, &[&admin.namespace, &shop, &games], &foreign)?;
        let tenant = admin.as_user(&owner);
        let watched = format!("watchNamespaces={{{shop},{games}}},clusterIdentity=e2e,operator.keda=false");
        tenant.upgrade(&["--set", &watched])?;
        tenant.wait_until_reachable()?;

        let manifest = |namespace: &str, name: &str| Sale::manifest(&admin.class, namespace, name, 10, -1, 300);
        let unwatched = Sale::apply(&admin.cluster, &manifest(&foreign, "foreign"))?;
        for namespace in [&shop, &games] {
            sell_out_and_settle(&tenant, namespace)?;
        }
        let status = unwatched.status()?;
        ensure!(
            status == json!({"observedGeneration": -1}),
            "a sale in a namespace that is not watched has more than the default status: {status}"
        );
        let response = tenant.api.buy_until_final(&format!("{foreign}/foreign"))?;
        ensure!(response.status == 404, "{response:?}");

        check_no_cluster_objects(admin)?;
        check_rights_of_the_manual(admin, &[&shop, &games], &foreign)?;

        // The operator loses its rights in the namespace with it, but gets the event of the deletion before.
        let gone = Sale::apply(&tenant.cluster, &manifest(&games, "gone"))?;
        gone.wait_for_phase("Open", WAIT_LIMIT)?;
        admin.delete_namespace(&games)?;
        wait_until("the sale to be closed", WAIT_LIMIT, || {
            let response = tenant.api.buy_until_final(&format!("{games}/gone"))?;
            Ok((response.result() == PurchaseResult::Ended).then_some(()))
        })?;

        tenant.uninstall()?;
        wait_until("everything of the release to be gone", WAIT_LIMIT, || {
            admin.check_only_keys_remain()?;
            Ok(Some(()))
        })
    })
}

/// Makes a user the administrator of these namespaces, and checks that it has no rights in a foreign one.
fn create_owner(admin: &Release, namespaces: &[&String], foreign: &str) -> Result<String> {
    let owner = format!("{}-owner", admin.name);
    let (role, user) = ("--clusterrole=admin", format!("--user={owner}"));
    for namespace in namespaces {
        admin
            .cluster
            .kubectl(&["create", "rolebinding", "owner", "-n", namespace, role, &user])?;
    }
    let elsewhere = rights(&admin.cluster, "", &owner, foreign)?;
    ensure!(
        elsewhere.is_empty(),
        "the owner has rights outside of its namespaces: {elsewhere:#?}"
    );
    Ok(owner)
}

/// A whole sale in a namespace, from its manifest to its settlement.
fn sell_out_and_settle(release: &Release, namespace: &str) -> Result<()> {
    let manifest = Sale::manifest(&release.class, namespace, "whole", 10, -1, 300);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let crowd = Crowd::buy(&release.api, &format!("{namespace}/whole"), 15);
    crowd.check_winners(10, 15)?;
    check_orders(release, &crowd.order_numbers())?;
    end_and_settle(&release.cluster, &sale, manifest, 10)
}

/// Checks that the release has no objects of the cluster scope.
fn check_no_cluster_objects(tenant: &Release) -> Result<()> {
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
    ensure!(both.is_empty(), "cluster-scoped objects: {both:?}");
    Ok(())
}

/// The lines of `kubectl auth can-i --list` for a user, without those that every user has.
fn rights(cluster: &Cluster, kind: &str, name: &str, namespace: &str) -> Result<BTreeSet<String>> {
    let list = |name: &str| -> Result<BTreeSet<String>> {
        let who = format!("--as={kind}{name}");
        let table = cluster.kubectl(&["auth", "can-i", "--list", &who, "-n", namespace])?;
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(table.lines().map(line).collect())
    };
    let everybody = list("of-nobody")?;
    ensure!(!everybody.is_empty(), "no rights of every user are listed");
    Ok(list(name)?.difference(&everybody).cloned().collect())
}

/// Checks that the rights are those of docs/operator.md.
fn check_rights_of_the_manual(tenant: &Release, watched: &[&String], foreign: &str) -> Result<()> {
    let name = format!("{}-seckill", tenant.name);
    let account = format!("system:serviceaccount:{}:", tenant.namespace);
    let of_the_operator = |namespace: &str| rights(&tenant.cluster, &account, &format!("{name}-operator"), namespace);
    let expected = |lines: &[&str]| -> BTreeSet<String> { lines.iter().map(|l| l.replace("NAME", &name)).collect() };

    let of_sales = expected(&[
        "events.events.k8s.io [] [] [create patch]",
        "flashsales.seckill.dev [] [] [get list watch]",
        "flashsales.seckill.dev/status [] [] [patch]",
        "namespaces [] [] [get]",
    ]);
    for namespace in watched {
        let seen = of_the_operator(namespace)?;
        ensure!(seen == of_sales, "in a watched namespace: {seen:#?}");
    }
    let seen = of_the_operator(&tenant.namespace)?;
    let of_its_own = expected(&[
        "deployments.apps [] [NAME-api] [list watch]",
        "deployments.apps [] [NAME-worker] [list watch]",
        "deployments.apps/scale [] [NAME-api] [patch]",
        "deployments.apps/scale [] [NAME-worker] [patch]",
        "events.events.k8s.io [] [] [create patch]",
        "horizontalpodautoscalers.autoscaling [] [] [list watch]",
        "leases.coordination.k8s.io [] [] [create]",
        "leases.coordination.k8s.io [] [NAME-operator] [get update]",
        "pods [] [] [list]",
    ]);
    ensure!(seen == of_its_own, "in the namespace of the release: {seen:#?}");
    // A right on the whole cluster would be listed here too.
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
    let result = guarded.and_then(|_| what_the_guard_refuses(release));
    // The guard is off by default.
    release.upgrade(&[])?;
    let policies = "validatingadmissionpolicies,validatingadmissionpolicybindings";
    let own = format!("app.kubernetes.io/instance={}", release.name);
    let left = release.cluster.kubectl(&["get", policies, "-l", &own, "-o", "name"])?;
    ensure!(left.is_empty(), "still there: {left}");
    result
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
        sale.wait_for_phase("Open", WAIT_LIMIT)?;
    }
    let path = |sale: &Sale| format!("{}/{}", sale.namespace, sale.name);
    Crowd::buy(&release.api, &path(&sold_out), 2).check_winners(2, 2)?;
    sold_out.wait_for_phase("SoldOut", WAIT_LIMIT)?;

    // The API server takes a moment to enforce the policy: until then deletions are dry runs.
    let dry_run = ["delete", "flashsale", "kept", "-n", &namespace, "--dry-run=server"];
    wait_until("the guard to be in force", WAIT_LIMIT, || {
        Ok(cluster.kubectl(&dry_run).is_err().then_some(()))
    })?;
    for (sale, phase) in [(&kept, "Open"), (&sold_out, "SoldOut")] {
        let message = match sale.delete() {
            Ok(()) => bail!("{} is {phase} and was deleted", sale.name),
            Err(error) => format!("{error:#}"),
        };
        let what_to_do = [
            &format!("the sale is {phase}"),
            "spec.endsAt",
            "seckill.dev/allow-deletion=true",
        ];
        check_all_named(&message, &what_to_do)?;
    }
    let all = format!("/apis/seckill.dev/v1alpha1/namespaces/{namespace}/flashsales");
    match cluster.kubectl(&["delete", "--raw", &all]) {
        Ok(_) => bail!("the whole collection was deleted"),
        Err(error) => check_all_named(&format!("{error:#}"), &["the sale is"])?,
    }
    let bought = release.api.buy_until_final(&path(&kept))?;
    ensure!(
        bought.result() == PurchaseResult::Won,
        "the sale stopped selling: {bought:?}"
    );

    // The guard allows: not open yet, of another release, and with the annotation.
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
    let allow = [
        "annotate",
        "flashsale",
        "let-go",
        "-n",
        &namespace,
        "seckill.dev/allow-deletion=true",
    ];
    cluster.kubectl(&allow)?;
    let_go.delete()?;

    // The guard allows deletion after the end, as its message says.
    to_be_kept["spec"]["endsAt"] = in_seconds(1).into();
    cluster.apply(&to_be_kept)?;
    kept.wait_for_phase("Ended", WAIT_LIMIT)?;
    kept.delete()?;

    // Deleting the namespace deletes the sold-out sale with it.
    let phase = sold_out.status()?["phase"].clone();
    ensure!(phase == "SoldOut", "{phase}");
    release.delete_namespace(&namespace)
}
