//! NetworkPolicies, and the route of the Gateway API.
use serde_json::{Value, json};

use crate::harness::*;

fn policy<'a>(objects: &'a [Value], component: &str) -> &'a Value {
    &get(objects, &format!("NetworkPolicy/seckill-{component}"))["spec"]
}

/// The TCP ports of the egress rules.
fn egress(policy: &Value) -> Vec<u64> {
    let rules = policy["egress"].as_array().expect("rules");
    let ports = rules.iter().flat_map(|rule| rule["ports"].as_array().expect("ports"));
    let tcp = ports.filter(|port| port["protocol"] == "TCP");
    tcp.map(|port| port["port"].as_u64().expect("a number")).collect()
}

#[test]
fn each_program_reaches_what_it_needs_and_nothing_else() {
    let issuers = json!([{"name": "main", "url": "https://login.example.com/", "audiences": ["seckill"]}]);
    let all = template(json!({"networkPolicy": {"enabled": true}, "issuers": issuers}));
    for (component, ports) in [
        ("operator", &[53, 6379, 9092, 9093, 3306, 443, 6443][..]),
        ("api", &[53, 6379, 9092, 9093, 3306, 443]),
        ("worker", &[53, 6379, 9092, 9093, 3306]),
        ("migrate", &[53, 9092, 9093, 3306]),
    ] {
        let policy = policy(&all, component);
        assert_eq!(egress(policy), ports, "{component}");
        assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
        // It selects the pods of the workload.
        let labels = &pod(&all, component)["metadata"]["labels"];
        for (name, value) in policy["podSelector"]["matchLabels"].as_object().expect("labels") {
            assert_eq!(&labels[name], value, "{component}: {name}");
        }
    }
    let traced = template(json!({"networkPolicy": {"enabled": true}, "traces": {"endpoint": "http://collector:4318"}}));
    for (component, sends) in [("operator", false), ("api", true), ("worker", true), ("migrate", false)] {
        assert_eq!(egress(policy(&traced, component)).contains(&4318), sends, "{component}");
    }
    let without_issuers = template(json!({"networkPolicy": {"enabled": true}}));
    assert!(!egress(policy(&without_issuers, "api")).contains(&443));
    let off = template(json!({}));
    assert!(off.iter().all(|object| object["kind"] != "NetworkPolicy"));
}

#[test]
fn buyers_reach_only_the_api_and_prometheus_only_the_metrics() {
    let ingress = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]);
    let prometheus = json!([{"podSelector": {"matchLabels": {"app": "prometheus"}}}]);
    let own = json!({"enabled": true, "buyers": ingress, "monitoring": prometheus});
    let objects = template(json!({"networkPolicy": own, "legacy": {"enabled": true}}));
    let metrics = json!({"ports": [{"protocol": "TCP", "port": "admin"}], "from": prometheus});
    assert_eq!(policy(&objects, "operator")["ingress"], json!([metrics]));
    assert_eq!(policy(&objects, "worker")["ingress"], json!([metrics]));
    assert!(policy(&objects, "migrate")["ingress"].is_null());
    let buyers = [
        json!({"protocol": "TCP", "port": "http"}),
        json!({"protocol": "TCP", "port": "legacy"}),
    ];
    let labels = &get(&objects, "Pod/seckill-test")["metadata"]["labels"];
    let test = json!({"podSelector": {"matchLabels": {
        "app.kubernetes.io/name": labels["app.kubernetes.io/name"],
        "app.kubernetes.io/instance": labels["app.kubernetes.io/instance"],
        "app.kubernetes.io/component": "test",
    }}});
    let from = json!([ingress[0], test]);
    assert_eq!(
        policy(&objects, "api")["ingress"],
        json!([{"ports": buyers, "from": from}, metrics])
    );
    // The named ports exist.
    let ports = container(&objects, "api")["ports"].as_array().expect("ports");
    for name in ["http", "legacy", "admin"] {
        assert!(ports.iter().any(|port| port["name"] == name), "{name}");
    }
    let everybody = template(json!({"networkPolicy": {"enabled": true}}));
    assert!(policy(&everybody, "api")["ingress"][0]["from"].is_null());
}

#[test]
fn an_api_server_accepts_the_policies() {
    let namespace = Namespace::create();
    let own = json!({
        "enabled": true,
        "buyers": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        "redis": {"ports": [6380], "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "redis"}}}]},
    });
    let objects = try_template("seckill", &namespace.0, json!({"networkPolicy": own})).expect("rendered");
    let policies: Vec<Value> = objects
        .into_iter()
        .filter(|object| object["kind"] == "NetworkPolicy")
        .collect();
    assert_eq!(policies.len(), 4);
    namespace.dry_run(&policies).expect("accepted");
}

#[test]
fn a_route_of_the_gateway_api_leads_to_the_service() {
    let gateways = json!([{"name": "public", "namespace": "gateways"}]);
    let own = json!({"enabled": true, "parentRefs": gateways, "hostnames": ["shop.example.com"]});
    let objects = template(json!({"httpRoute": own, "legacy": {"enabled": true}}));
    let route = &get(&objects, "HTTPRoute/seckill-api")["spec"];
    assert_eq!(
        (&route["parentRefs"], &route["hostnames"]),
        (&gateways, &json!(["shop.example.com"]))
    );
    let service = get(&objects, "Service/seckill-api");
    let ports = service["spec"]["ports"].as_array().expect("ports");
    for rule in route["rules"].as_array().expect("rules") {
        let backend = &rule["backendRefs"][0];
        assert_eq!(backend["name"], service["metadata"]["name"]);
        assert!(ports.iter().any(|port| port["port"] == backend["port"]), "{backend}");
    }
    let refused = try_template("seckill", "shop", json!({"httpRoute": {"enabled": true}})).expect_err("refused");
    assert!(refused.contains("httpRoute.parentRefs is missing"), "{refused}");
}
