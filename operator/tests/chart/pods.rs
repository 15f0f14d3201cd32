//! Settings of pods, which have the same keys for all programs, and of Services and disruption budgets.
use serde_json::{Value, json};

use crate::harness::*;

fn settings() -> Value {
    json!({
        "podLabels": {"team": "shop"},
        "podAnnotations": {"example.com/team": "shop"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "sale", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "Exists"}]},
        ]}}},
        "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"}],
        "extraEnvFrom": [{"configMapRef": {"name": "proxies"}}],
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "private-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": true}],
    })
}

/// Whether a list or an object has everything of another one.
fn has_all(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Array(value), Value::Array(expected)) => expected.iter().all(|item| value.contains(item)),
        (Value::Object(value), Value::Object(expected)) => {
            expected.iter().all(|(name, item)| value.get(name) == Some(item))
        }
        (value, expected) => value == expected,
    }
}

fn assert_settings(objects: &[Value], component: &str, expected: &Value) {
    let (pod, container) = (pod(objects, component), container(objects, component));
    for (key, rendered) in [
        ("podLabels", &pod["metadata"]["labels"]),
        ("podAnnotations", &pod["metadata"]["annotations"]),
        ("priorityClassName", &pod["spec"]["priorityClassName"]),
        ("nodeSelector", &pod["spec"]["nodeSelector"]),
        ("tolerations", &pod["spec"]["tolerations"]),
        ("affinity", &pod["spec"]["affinity"]),
        ("extraEnv", &container["env"]),
        ("extraEnvFrom", &container["envFrom"]),
        ("extraVolumes", &pod["spec"]["volumes"]),
        ("extraVolumeMounts", &container["volumeMounts"]),
    ] {
        let set = expected.get(key).is_none_or(|expected| has_all(rendered, expected));
        assert!(set, "{component}: {key}: {rendered} has not {}", expected[key]);
    }
}

#[test]
fn settings_of_all_programs_reach_every_pod() {
    let namespace = Namespace::create();
    let objects = template(settings());
    for component in COMPONENTS {
        assert_settings(&objects, component, &settings());
        let selector = &workload(&objects, component)["spec"]["selector"];
        assert!(selector["matchLabels"].get("team").is_none(), "{component}: {selector}");
    }
    let objects = try_template("seckill", &namespace.0, settings()).expect("rendered");
    namespace.dry_run(&objects).expect("accepted");
}

#[test]
fn settings_of_one_program_are_added_to_those_of_all() {
    let own = json!({
        "podLabels": {"tier": "one"},
        "podAnnotations": {"example.com/team": "own"},
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "own", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "extraEnv": [{"name": "OWN", "value": "1"}, {"name": "SSL_CERT_FILE", "value": "/own.crt"}],
        "extraEnvFrom": [{"secretRef": {"name": "own"}}],
        "extraVolumes": [{"name": "own", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "own", "mountPath": "/own"}],
    });
    let mut expected = own.clone();
    expected["tolerations"] = json!([{"key": "sale", "operator": "Exists"}, {"key": "own", "operator": "Exists"}]);
    expected["extraVolumes"] =
        json!([{"name": "ca", "secret": {"secretName": "private-ca"}}, {"name": "own", "emptyDir": {}}]);
    for component in COMPONENTS {
        let mut with = settings();
        with[component] = own.clone();
        let objects = template(with);
        assert_settings(&objects, component, &expected);
        assert_eq!(env(&objects, component, "SSL_CERT_FILE"), "/own.crt");
        for other in COMPONENTS.iter().filter(|other| **other != component) {
            assert_settings(&objects, other, &settings());
            assert!(
                pod(&objects, other)["metadata"]["labels"].get("tier").is_none(),
                "{other}"
            );
        }
    }
}

#[test]
fn an_extra_variable_replaces_the_one_of_the_chart() {
    let objects = template(json!({"extraEnv": [{"name": "SECKILL_LOG", "value": "debug"}]}));
    for component in COMPONENTS {
        assert_eq!(env(&objects, component, "SECKILL_LOG"), "debug");
    }
}

#[test]
fn labels_that_select_pods_can_not_be_changed() {
    for component in ["", "api."] {
        let key = format!("{component}podLabels.app\\.kubernetes\\.io/component=x");
        let args = ["template", "seckill", &chart(), "-f", "-", "--set", &key];
        let refused = helm(&args, &values(json!({}))).expect_err("refused");
        assert!(
            refused.contains("podLabels: the chart sets app.kubernetes.io/component"),
            "{refused}"
        );
    }
}

#[test]
fn a_digest_replaces_the_tag_of_the_image() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let image = |more: Value| {
        let objects = template(more);
        let images: Vec<_> = COMPONENTS
            .map(|component| container(&objects, component)["image"].clone())
            .into();
        assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
        images[0].as_str().expect("an image").to_owned()
    };
    let pinned = image(json!({"image": {"tag": "1", "digest": digest}}));
    assert_eq!(pinned, format!("ghcr.io/seckill/seckill@{digest}"));
    for (repository, mirrored) in [
        ("ghcr.io/seckill/seckill", "mirror/seckill/seckill:1"),
        ("localhost/seckill", "mirror/seckill:1"),
        ("registry:5000/seckill", "mirror/seckill:1"),
        ("seckill/seckill", "mirror/seckill/seckill:1"),
        ("seckill", "mirror/seckill:1"),
    ] {
        let global = json!({"global": {"imageRegistry": "mirror"}, "image": {"repository": repository, "tag": "1"}});
        assert_eq!(image(global), mirrored);
    }
}

#[test]
fn pods_of_a_program_are_spread_over_nodes() {
    let topologies = |objects: &[Value], component: &str| -> Vec<String> {
        let constraints = pod(objects, component)["spec"]["topologySpreadConstraints"]
            .as_array()
            .cloned();
        let own = json!(component);
        constraints
            .unwrap_or_default()
            .iter()
            .map(|constraint| {
                let counted = &constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"];
                assert_eq!(counted, &own, "{constraint}");
                constraint["topologyKey"].as_str().expect("a key").to_owned()
            })
            .collect()
    };
    let objects = template(json!({"worker": {"topologySpreadConstraints": [
        {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
    ]}}));
    for component in ["operator", "api"] {
        assert_eq!(
            topologies(&objects, component),
            ["kubernetes.io/hostname"],
            "{component}"
        );
    }
    assert_eq!(topologies(&objects, "worker"), ["rack"]);
    let none = template(json!({"topologySpreadConstraints": []}));
    assert_eq!(topologies(&none, "api"), [""; 0]);
}

#[test]
fn pods_prefer_zones_with_fewer_pods_of_the_program() {
    let anti_affinity = |more: Value, component: &str| {
        let objects = template(more);
        pod(&objects, component)["spec"]["affinity"]["podAntiAffinity"].clone()
    };
    let other_kind = json!({"affinity": {"nodeAffinity": {}}});
    for component in ["operator", "api", "worker"] {
        for more in [json!({}), other_kind.clone()] {
            let preferred = &anti_affinity(more, component)["preferredDuringSchedulingIgnoredDuringExecution"][0];
            let term = &preferred["podAffinityTerm"];
            assert_eq!(term["topologyKey"], "topology.kubernetes.io/zone");
            let counted = &term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"];
            assert_eq!(counted, component);
        }
    }
    let own = json!({"requiredDuringSchedulingIgnoredDuringExecution": []});
    assert_eq!(anti_affinity(json!({"affinity": {"podAntiAffinity": own}}), "api"), own);
    assert_eq!(anti_affinity(json!({"spreadOverZones": false}), "api"), Value::Null);
}

#[test]
fn service_accounts_can_be_annotated_or_brought_along() {
    let namespace = Namespace::create();
    let annotated = json!({"serviceAccount": {"annotations": {"example.com/role": "seckill"}}});
    let existing = json!({"serviceAccount": {"create": false, "name": "618"}});
    for component in COMPONENTS {
        let own = format!("ServiceAccount/seckill-{component}");
        let objects = template(json!({component: annotated}));
        assert_eq!(
            get(&objects, &own)["metadata"]["annotations"]["example.com/role"],
            "seckill"
        );

        let objects = try_template("seckill", &namespace.0, json!({component: existing})).expect("rendered");
        assert_eq!(find(&objects, &own), None);
        assert_eq!(pod(&objects, component)["spec"]["serviceAccountName"], "618");
        namespace.dry_run(&objects).expect("accepted");
    }
    // The operator keeps its rights and its token.
    let objects = template(json!({"operator": existing}));
    for object in objects
        .iter()
        .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding")))
    {
        assert_eq!(object["subjects"][0]["name"], "618", "{}", id(object));
    }
    assert_eq!(pod(&objects, "operator")["spec"]["automountServiceAccountToken"], true);
    let default = template(json!({"api": {"serviceAccount": {"create": false}}}));
    assert_eq!(pod(&default, "api")["spec"]["serviceAccountName"], "default");
}

#[test]
fn each_program_has_a_disruption_budget_unless_it_is_off() {
    let budgets = |more: Value| -> Vec<String> {
        let objects = template(more);
        let ids = objects.iter().map(id);
        let mut budgets: Vec<_> = ids
            .filter_map(|id| Some(id.strip_prefix("PodDisruptionBudget/seckill-")?.to_owned()))
            .collect();
        budgets.sort();
        budgets
    };
    assert_eq!(budgets(json!({})), ["api", "operator", "worker"]);
    // It would say nothing about a single replica.
    assert_eq!(budgets(json!({"operator": {"replicas": 1}})), ["api", "worker"]);
    for component in ["api", "operator", "worker"] {
        let left = budgets(json!({component: {"podDisruptionBudget": false}}));
        assert!(
            left.len() == 2 && !left.contains(&component.to_owned()),
            "{component}: {left:?}"
        );
    }
}

#[test]
fn rollout_and_job_fields_are_values() {
    let default = template(json!({}));
    assert_eq!(
        workload(&default, "migrate")["spec"].get("ttlSecondsAfterFinished"),
        None
    );
    let objects = template(json!({
        "revisionHistoryLimit": 3, "minReadySeconds": 7, "migrate": {"ttlSecondsAfterFinished": 0},
    }));
    for component in ["operator", "api", "worker"] {
        let spec = &workload(&objects, component)["spec"];
        assert_eq!(
            (&spec["revisionHistoryLimit"], &spec["minReadySeconds"]),
            (&json!(3), &json!(7)),
            "{component}"
        );
    }
    assert_eq!(workload(&objects, "migrate")["spec"]["ttlSecondsAfterFinished"], 0);
}

#[test]
fn the_service_for_buyers_can_be_a_load_balancer() {
    let namespace = Namespace::create();
    let api = json!({"api": {
        "serviceType": "LoadBalancer",
        "serviceAnnotations": {"example.com/internal": "true"},
        "loadBalancerClass": "example.com/balancer",
        "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"],
        "externalTrafficPolicy": "Local",
    }});
    let objects = try_template("seckill", &namespace.0, api).expect("rendered");
    let service = get(&objects, "Service/seckill-api");
    assert_eq!(service["metadata"]["annotations"]["example.com/internal"], "true");
    for (field, value) in [
        ("type", json!("LoadBalancer")),
        ("loadBalancerClass", json!("example.com/balancer")),
        ("loadBalancerSourceRanges", json!(["192.0.2.0/24", "2001:db8::/32"])),
        ("externalTrafficPolicy", json!("Local")),
    ] {
        assert_eq!(service["spec"][field], value, "{field}");
    }
    namespace.dry_run(&objects).expect("accepted");
}

#[test]
fn origins_of_pages_reach_the_api_as_one_list() {
    let none = json!(template(json!({}))).to_string();
    assert!(!none.contains("SECKILL_CORS_ORIGINS"), "{none}");
    let origins = ["https://shop.example", "http://localhost:3000"];
    let listed = template(json!({"api": {"corsOrigins": origins}}));
    assert_eq!(*env(&listed, "api", "SECKILL_CORS_ORIGINS"), origins.join(","));
}

#[test]
fn rate_limits_reach_the_api() {
    let limits = |objects: &[Value]| {
        ["REQUESTS_PER_ADDRESS", "REQUESTS_PER_BUYER", "TRUSTED_PROXIES"]
            .map(|name| env(objects, "api", &format!("SECKILL_{name}")).clone())
    };
    assert_eq!(limits(&template(json!({}))), ["0", "20", "0"]);
    // Helm reads numbers as floating point.
    let set = json!({"api": {"requestsPerAddress": 1_000_000, "requestsPerBuyer": 0, "trustedProxies": 1}});
    assert_eq!(limits(&template(set)), ["1000000", "0", "1"]);
}

#[test]
fn a_longer_drain_extends_the_time_to_terminate() {
    let grace = |objects: &[Value]| pod(objects, "api")["spec"]["terminationGracePeriodSeconds"].clone();
    let default = template(json!({}));
    assert_eq!(
        (env(&default, "api", "SECKILL_DRAIN_SECONDS"), grace(&default)),
        (&json!("3"), json!(45))
    );
    let longer = template(json!({"api": {"drainSeconds": 60}}));
    assert_eq!(
        (env(&longer, "api", "SECKILL_DRAIN_SECONDS"), grace(&longer)),
        (&json!("60"), json!(102))
    );
}
