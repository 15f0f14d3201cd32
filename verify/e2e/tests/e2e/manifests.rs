//! What the API server and the chart refuse, and the texts of `kubectl explain`.
use anyhow::{Context, Result, bail, ensure};
use seckill_e2e::{Release, Sale, Scenario, chart, check_all_named};
use serde_json::{Value, json};

pub const SCENARIOS: &[Scenario] = &[
    ("kubectl_explain_names_every_field", kubectl_explain_names_every_field),
    (
        "the_api_server_refuses_a_wrong_manifest_and_names_the_field",
        wrong_manifests_are_refused,
    ),
    (
        "immutable_fields_can_not_be_changed",
        immutable_fields_can_not_be_changed,
    ),
    (
        "the_chart_refuses_unknown_and_invalid_values",
        the_chart_refuses_wrong_values,
    ),
];

fn kubectl_explain_names_every_field(release: &Release) -> Result<()> {
    let explained = release.cluster.kubectl(&["explain", "flashsale.spec", "--recursive"])?;
    check_all_named(
        &explained,
        &[
            "className",
            "item",
            "sku",
            "id",
            "name",
            "price",
            "currency",
            "description",
            "stock",
            "startsAt",
            "endsAt",
            "leadTimeSeconds",
            "coolDownSeconds",
            "demand",
            "apiReplicas",
            "workerReplicas",
            "suspend",
        ],
    )?;
    // Every field needs a description.
    for field in ["stock", "startsAt", "demand.apiReplicas", "item.price"] {
        let one = release
            .cluster
            .kubectl(&["explain", &format!("flashsale.spec.{field}")])?;
        let message = one.split("DESCRIPTION:").nth(1).unwrap_or_default().trim();
        ensure!(
            !message.is_empty() && !message.starts_with("<empty>"),
            "spec.{field} is not explained:\n{one}"
        );
    }
    Ok(())
}

fn wrong_manifests_are_refused(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let right = Sale::manifest(&release.class, &namespace, "wrong", 10, 600, 1200);
    let changes: [(&str, Value, &str); 15] = [
        ("stock", json!(0), "stock"),
        ("stock", json!(-1), "stock"),
        ("stock", json!("many"), "stock"),
        ("stock", Value::Null, "stock"),
        ("startsAt", json!("soon"), "startsAt"),
        ("startsAt", Value::Null, "startsAt"),
        ("endsAt", json!("2020-01-01T00:00:00Z"), "endsAt"),
        ("leadTimeSeconds", json!(-1), "leadTimeSeconds"),
        ("coolDownSeconds", json!(-1), "coolDownSeconds"),
        ("item", Value::Null, "item"),
        ("className", json!("Not A Name"), "className"),
        ("demand", json!({"apiReplicas": -1}), "apiReplicas"),
        (
            "item",
            json!({"sku": "s", "name": "n", "price": "cheap", "currency": "EUR"}),
            "price",
        ),
        (
            "item",
            json!({"sku": "s", "name": "n", "price": "1.00", "currency": "euro"}),
            "currency",
        ),
        (
            "item",
            json!({"sku": "", "name": "n", "price": "1.00", "currency": "EUR"}),
            "sku",
        ),
    ];
    for (field, value, named) in changes {
        let mut manifest = right.clone();
        manifest["spec"][field] = value.clone();
        if value.is_null()
            && let Some(spec) = manifest["spec"].as_object_mut()
        {
            spec.remove(field);
        }
        let message = release
            .cluster
            .expect_refusal(&manifest)
            .with_context(|| format!("{field}: {value}"))?;
        ensure!(
            message.contains(named),
            "{field}: {value}: the message does not name {named}: {message}"
        );
    }
    let mut unknown = right;
    unknown["spec"]["stok"] = json!(1);
    let message = release.cluster.expect_refusal(&unknown)?;
    ensure!(message.contains("stok"), "an unknown field is not named: {message}");
    Ok(())
}

fn immutable_fields_can_not_be_changed(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let right = Sale::manifest(&release.class, &namespace, "fixed", 10, 3600, 7200);
    let sale = Sale::apply(&release.cluster, &right)?;
    let mut changed = right.clone();
    changed["spec"]["className"] = json!("another");
    let message = release.cluster.expect_refusal(&changed)?;
    ensure!(message.contains("className"), "{message}");
    // Applying the same manifest again is no change.
    release.cluster.apply(&right)?;
    sale.delete()
}

fn the_chart_refuses_wrong_values(release: &Release) -> Result<()> {
    let values = release.cluster.values.display().to_string();
    let chart = chart("seckill");
    for (setting, named) in [
        ("imagee.tag=1", "imagee"),
        ("api.replicaz=2", "replicaz"),
        ("ingress.enabled=maybe", "enabled"),
        ("ingress.host=http://shop", "ingress.host: expected"),
        ("kafka.brokers=kafka", "kafka.brokers: expected host:port"),
        ("api.idleTimeoutSeconds=1", "idleTimeoutSeconds"),
        ("api.maxConnectionsPerAddress=-1", "maxConnectionsPerAddress"),
        (
            "orderNumberKeys.keys=1:00112233445566778899aabbccddeeff\\,2:ffeeddccbbaa99887766554433221100",
            "exactly one key has no time",
        ),
        // Without cluster-wide rights the operator can't read the identity of the cluster.
        ("watchNamespaces={shop}", "clusterIdentity"),
        ("clusterIdentity=a b", "clusterIdentity"),
        ("deletionGraceSeconds=-1", "deletionGraceSeconds"),
        (
            "takeOverFrom=old,clusterIdentity=old",
            "takeOverFrom is the clusterIdentity",
        ),
    ] {
        match release
            .cluster
            .helm(&["template", "x", &chart, "-f", &values, "--set", setting])
        {
            Ok(_) => bail!("{setting} was accepted"),
            Err(error) => {
                let message = format!("{error:#}");
                ensure!(
                    message.contains(named),
                    "{setting}: the message does not name {named}: {message}"
                );
            }
        }
    }
    Ok(())
}
