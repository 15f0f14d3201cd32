//! The issuers of tokens, which seckill-api reads from a file.
use serde_json::{Value, json};

use crate::harness::*;

fn issuer() -> Value {
    json!({"name": "main", "url": "https://login.example.com/realms/shop", "audiences": ["seckill"]})
}

fn checksum(objects: &[Value]) -> &Value {
    &pod(objects, "api")["metadata"]["annotations"]["checksum/issuers"]
}

#[test]
fn issuers_reach_the_api_as_a_file() {
    let full = json!({
        "name": "partner-2", "url": "https://partner.example.com/", "audiences": ["seckill", "shop"],
        "algorithms": ["RS256"], "jwksUrl": "https://partner.example.com/keys", "leewaySeconds": 0, "caFile": "/ca/ca.crt",
    });
    let issuers = json!([issuer(), full]);
    let objects = template(json!({"issuers": issuers}));
    let text = get(&objects, "ConfigMap/seckill-issuers")["data"]["issuers.yaml"].as_str();
    let file: Value = serde_yaml::from_str(text.expect("a file")).expect("YAML");
    assert_eq!(file, json!({"issuers": issuers}));

    let mount = &container(&objects, "api")["volumeMounts"][0];
    let volume = &pod(&objects, "api")["spec"]["volumes"][0];
    assert_eq!(mount["name"], volume["name"]);
    assert_eq!(volume["configMap"]["name"], "seckill-issuers");
    let path = format!("{}/issuers.yaml", mount["mountPath"].as_str().expect("a path"));
    assert_eq!(*env(&objects, "api", "SECKILL_ISSUERS_FILE"), path);
    for component in ["operator", "worker", "migrate"] {
        assert_eq!(pod(&objects, component)["spec"].get("volumes"), None, "{component}");
    }
}

#[test]
fn a_change_of_issuers_restarts_the_api_and_nothing_else() {
    let (before, after) = (
        template(json!({"issuers": [issuer()]})),
        template(json!({"issuers": [issuer()], "api": {"drainSeconds": 4}})),
    );
    assert_eq!(checksum(&before), checksum(&after));
    let mut other = issuer();
    other["leewaySeconds"] = json!(60);
    let after = template(json!({"issuers": [other]}));
    assert_ne!(checksum(&before), checksum(&after));
    for component in ["operator", "worker", "migrate"] {
        assert_eq!(pod(&before, component), pod(&after, component));
    }
    let none = template(json!({}));
    assert_eq!(find(&none, "ConfigMap/seckill-issuers"), None);
    assert_eq!(*checksum(&none), Value::Null);
}

#[test]
fn an_invalid_issuer_is_refused_by_name() {
    for (more, named) in [
        (json!({"name": "Main"}), "/issuers/0/name"),
        (json!({"url": "login.example.com"}), "/issuers/0/url"),
        (json!({"audiences": []}), "/issuers/0/audiences"),
        (json!({"algorithms": ["HS256"]}), "/issuers/0/algorithms/0"),
        (json!({"leewaySeconds": 301}), "/issuers/0/leewaySeconds"),
        (json!({"caFile": "ca.crt"}), "/issuers/0/caFile"),
        (json!({"secret": "x"}), "secret"),
    ] {
        let mut issuer = issuer();
        let fields = issuer.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        let refused = try_template("seckill", "shop", json!({"issuers": [issuer]})).expect_err("refused");
        assert!(refused.contains(named), "{more}: {refused}");
    }
    let twice = try_template("seckill", "shop", json!({"issuers": [issuer(), issuer()]})).expect_err("refused");
    assert!(twice.contains("issuers: two of them have the name main"), "{twice}");
    let annotated = json!({"podAnnotations": {"checksum/issuers": "x"}});
    let refused = try_template("seckill", "shop", annotated).expect_err("refused");
    assert!(refused.contains("the chart sets checksum/issuers"), "{refused}");
}
