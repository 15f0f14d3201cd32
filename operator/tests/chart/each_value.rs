//! Each value has an effect: changing it changes what helm renders.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::*;
use crate::values::all_values;

/// Values with which every other one has an effect.
fn base() -> Value {
    let enabled = json!({"enabled": true});
    json!({
        "issuers": [{"name": "main", "url": "https://login.example.com/", "audiences": ["seckill"]}],
        "redis": {"tls": {"caSecret": "ca"}},
        "kafka": {"properties": "client.id=me", "tls": {"caSecret": "ca"}},
        "mysql": {"tls": {"caSecret": "ca"}},
        "api": {"serviceType": "LoadBalancer"},
        "ingress": {"enabled": true},
        "httpRoute": {"enabled": true, "parentRefs": [{"name": "public"}]},
        "networkPolicy": {"enabled": true},
        "traces": {"endpoint": "http://collector:4318"},
        "legacy": {"enabled": true},
        "metrics": {"serviceMonitor": enabled},
        "prometheusRule": enabled,
        "dashboards": enabled,
    })
}

/// Another value for each path.
fn samples() -> BTreeMap<&'static str, Value> {
    let text = |text: &str| json!(text);
    let labels = json!({"example.com/team": "shop"});
    let resources = json!({"requests": {"cpu": "1"}});
    let peers = json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]);
    BTreeMap::from([
        ("global.imageRegistry", text("mirror.example.com")),
        ("global.imagePullSecrets", json!(["mirror"])),
        ("image.repository", text("registry.example.com/seckill")),
        ("image.tag", text("other")),
        ("image.digest", json!(format!("sha256:{}", "0".repeat(64)))),
        ("image.pullPolicy", text("Always")),
        ("image.pullSecrets", json!(["registry"])),
        ("className", text("shop")),
        ("watchNamespaces", json!(["shop"])),
        ("clusterIdentity", text("production-eu")),
        ("takeOverFrom", text("production-old")),
        ("deletionGraceSeconds", json!(600)),
        ("deletionGuard.enabled", json!(true)),
        ("log.filter", text("debug")),
        ("log.format", text("text")),
        ("traces.endpoint", text("http://other:4318")),
        ("traces.oneIn", json!(10)),
        ("redis.url", text("redis://other:6379")),
        ("redis.existingSecret", text("redis")),
        ("redis.tls.caSecret", text("other-ca")),
        ("redis.tls.caKey", text("root.pem")),
        ("redis.tls.clientSecret", text("client")),
        ("kafka.brokers", text("other:9092")),
        ("kafka.topic", text("other")),
        ("kafka.group", text("other")),
        ("kafka.properties", text("client.id=other")),
        ("kafka.operatorProperties", text("client.id=other")),
        ("kafka.apiProperties", text("client.id=other")),
        ("kafka.workerProperties", text("client.id=other")),
        ("kafka.migrateProperties", text("client.id=other")),
        ("kafka.existingSecret", text("kafka")),
        ("kafka.existingSecretKeys.operator", text("other")),
        ("kafka.existingSecretKeys.api", text("other")),
        ("kafka.existingSecretKeys.worker", text("other")),
        ("kafka.existingSecretKeys.migrate", text("other")),
        ("kafka.tls.caSecret", text("other-ca")),
        ("kafka.tls.caKey", text("root.pem")),
        ("kafka.tls.clientSecret", text("client")),
        ("kafka.createTopic", json!(false)),
        ("kafka.partitions", json!(16)),
        ("kafka.replication", json!(5)),
        ("kafka.minInsync", json!(3)),
        ("mysql.url", text("mysql://seckill:password@other:3306/seckill")),
        (
            "mysql.operatorUrl",
            text("mysql://operator:password@mysql:3306/seckill"),
        ),
        ("mysql.apiUrl", text("mysql://api:password@mysql:3306/seckill")),
        ("mysql.workerUrl", text("mysql://worker:password@mysql:3306/seckill")),
        ("mysql.migrateUrl", text("mysql://migrate:password@mysql:3306/seckill")),
        ("mysql.existingSecret", text("mysql")),
        ("mysql.tls.caSecret", text("other-ca")),
        ("mysql.tls.caKey", text("root.pem")),
        ("mysql.tls.clientSecret", text("client")),
        ("orderNumberKeys.keys", text("1:ffffffffffffffffffffffffffffffff")),
        ("orderNumberKeys.existingSecret", text("keys")),
        ("buyerKey.key", json!("f".repeat(64))),
        ("buyerKey.existingSecret", text("key")),
        ("issuers", json!([])),
        ("operator.replicas", json!(3)),
        ("operator.leaseSeconds", json!(30)),
        ("operator.keda", json!(false)),
        ("operator.podDisruptionBudget", json!(false)),
        ("operator.serviceAccount.create", json!(false)),
        ("operator.serviceAccount.name", text("other")),
        ("operator.serviceAccount.annotations", labels.clone()),
        ("operator.resources", resources.clone()),
        ("api.minReplicas", json!(3)),
        ("api.maxReplicas", json!(30)),
        ("api.resources", resources.clone()),
        ("api.serviceAccount.create", json!(false)),
        ("api.serviceAccount.name", text("other")),
        ("api.serviceAccount.annotations", labels.clone()),
        ("api.serviceType", text("NodePort")),
        ("api.serviceAnnotations", labels.clone()),
        ("api.loadBalancerClass", text("example.com/balancer")),
        ("api.loadBalancerSourceRanges", json!(["192.0.2.0/24"])),
        ("api.externalTrafficPolicy", text("Local")),
        ("api.corsOrigins", json!(["https://shop.example"])),
        ("api.drainSeconds", json!(30)),
        ("api.idleTimeoutSeconds", json!(620)),
        ("api.requestsPerAddress", json!(100)),
        ("api.requestsPerBuyer", json!(5)),
        ("api.trustedProxies", json!(1)),
        ("api.maxConnectionsPerAddress", json!(100)),
        ("api.podDisruptionBudget", json!(false)),
        ("worker.minReplicas", json!(2)),
        ("worker.maxReplicas", json!(4)),
        ("worker.resources", resources.clone()),
        ("worker.serviceAccount.create", json!(false)),
        ("worker.serviceAccount.name", text("other")),
        ("worker.serviceAccount.annotations", labels.clone()),
        ("worker.podDisruptionBudget", json!(false)),
        ("migrate.serviceAccount.create", json!(false)),
        ("migrate.serviceAccount.name", text("other")),
        ("migrate.serviceAccount.annotations", labels.clone()),
        ("migrate.ttlSecondsAfterFinished", json!(3600)),
        ("migrate.resources", resources),
        ("ingress.enabled", json!(false)),
        ("ingress.className", text("nginx")),
        ("ingress.host", text("shop.example.com")),
        ("ingress.annotations", labels.clone()),
        ("ingress.tls", json!([{"secretName": "shop-tls"}])),
        ("httpRoute.enabled", json!(false)),
        ("httpRoute.parentRefs", json!([{"name": "other"}])),
        ("httpRoute.hostnames", json!(["shop.example.com"])),
        ("httpRoute.annotations", labels.clone()),
        ("networkPolicy.enabled", json!(false)),
        ("networkPolicy.buyers", peers.clone()),
        ("networkPolicy.monitoring", peers.clone()),
        ("networkPolicy.redis.ports", json!([6380])),
        ("networkPolicy.redis.to", peers.clone()),
        ("networkPolicy.kafka.ports", json!([9094])),
        ("networkPolicy.kafka.to", peers.clone()),
        ("networkPolicy.mysql.ports", json!([3307])),
        ("networkPolicy.mysql.to", peers.clone()),
        ("networkPolicy.kubernetes.ports", json!([8443])),
        ("networkPolicy.kubernetes.to", peers.clone()),
        ("networkPolicy.issuers.ports", json!([8443])),
        ("networkPolicy.issuers.to", peers.clone()),
        ("networkPolicy.traces.ports", json!([4320])),
        ("networkPolicy.traces.to", peers),
        ("legacy.enabled", json!(false)),
        ("test.sale", text("shop/smoke-test")),
        ("podLabels", json!({"team": "shop"})),
        ("podAnnotations", labels.clone()),
        ("priorityClassName", text("high")),
        ("nodeSelector", json!({"disk": "fast"})),
        ("tolerations", json!([{"key": "sale", "operator": "Exists"}])),
        ("affinity", json!({"nodeAffinity": {}})),
        ("extraEnv", json!([{"name": "A", "value": "b"}])),
        ("extraEnvFrom", json!([{"configMapRef": {"name": "proxies"}}])),
        ("extraVolumes", json!([{"name": "scratch", "emptyDir": {}}])),
        (
            "extraVolumeMounts",
            json!([{"name": "scratch", "mountPath": "/scratch"}]),
        ),
        ("podSecurityContext", json!({"runAsUser": 1000})),
        ("containerSecurityContext", json!({"runAsUser": 1000})),
        ("topologySpreadConstraints", json!([])),
        ("spreadOverZones", json!(false)),
        ("revisionHistoryLimit", json!(3)),
        ("minReadySeconds", json!(5)),
        ("metrics.serviceMonitor.enabled", json!(false)),
        ("metrics.serviceMonitor.labels", labels.clone()),
        ("metrics.serviceMonitor.interval", text("15s")),
        ("metrics.serviceMonitor.scrapeTimeout", text("5s")),
        ("metrics.podMonitor.enabled", json!(false)),
        ("metrics.podMonitor.labels", labels.clone()),
        ("metrics.podMonitor.interval", text("15s")),
        ("metrics.podMonitor.scrapeTimeout", text("5s")),
        ("prometheusRule.enabled", json!(false)),
        ("prometheusRule.labels", labels.clone()),
        ("prometheusRule.runbookUrl", text("https://wiki.example.com/alerts")),
        ("dashboards.enabled", json!(false)),
        ("dashboards.labels", labels.clone()),
        ("dashboards.annotations", labels),
    ])
}

/// What has to change with a value, because the chart refuses both together.
fn companion(path: &str) -> Value {
    match path {
        "redis.existingSecret" => json!({"redis": {"url": ""}}),
        "mysql.existingSecret" => json!({"mysql": {"url": ""}}),
        "kafka.existingSecret" => json!({"kafka": {"properties": ""}}),
        "orderNumberKeys.existingSecret" => json!({"orderNumberKeys": {"keys": ""}}),
        "buyerKey.existingSecret" => json!({"buyerKey": {"key": ""}}),
        "watchNamespaces" => json!({"clusterIdentity": "production-eu"}),
        path if path.starts_with("metrics.podMonitor.") => {
            json!({"metrics": {"serviceMonitor": {"enabled": false}, "podMonitor": {"enabled": true}}})
        }
        path if path.starts_with("kafka.existingSecretKeys.") => {
            json!({"kafka": {"properties": "", "existingSecret": "kafka"}})
        }
        _ => json!({}),
    }
}

/// `{"a": {"b": value}}` for `a.b`.
fn nested(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, key| json!({key: inner}))
}

fn rendered(values: &Value) -> Result<String, String> {
    // A cluster that has KEDA.
    let keda = ["--api-versions", "keda.sh/v1alpha1"];
    let template = ["template", "seckill", &chart(), "-n", "shop", "-f", "-"];
    helm(&[&template[..], &keda].concat(), values)
}

#[test]
fn each_value_changes_what_is_rendered() {
    let samples = samples();
    let without: Vec<String> = all_values()
        .into_iter()
        .filter(|path| !samples.contains_key(path.as_str()))
        .collect();
    assert!(without.is_empty(), "add a sample of {without:?}");
    let unknown: Vec<&&str> = samples.keys().filter(|path| !all_values().contains(**path)).collect();
    assert!(unknown.is_empty(), "there is no value {unknown:?}");
    let mut without_effect = Vec::new();
    for (path, sample) in samples {
        let mut before = values(base());
        merge(&mut before, companion(path));
        let mut after = before.clone();
        merge(&mut after, nested(path, sample));
        // Some are required, so there is nothing to render before.
        let before = rendered(&before).unwrap_or_default();
        let after = rendered(&after).unwrap_or_else(|error| panic!("{path}: {error}"));
        if before == after {
            without_effect.push(path);
        }
    }
    assert!(without_effect.is_empty(), "without effect: {without_effect:?}");
}
