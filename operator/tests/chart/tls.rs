//! Certificates as files, and accounts of Kafka.
use serde_json::{Value, json};

use crate::harness::*;

fn variables(objects: &[Value], component: &str, prefix: &str) -> Vec<String> {
    let all = container(objects, component)["env"].as_array().expect("a list");
    let names = all.iter().filter_map(|variable| variable["name"].as_str());
    names
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn certificates_are_mounted_into_every_program_and_job() {
    let tls = json!({"caSecret": "private-ca", "caKey": "root.pem", "clientSecret": "seckill-client"});
    let objects = template(json!({"redis": {"tls": tls}, "kafka": {"tls": tls}, "mysql": {"tls": tls}}));
    for component in COMPONENTS {
        for server in ["redis", "kafka", "mysql"] {
            let spec = &pod(&objects, component)["spec"];
            let name = format!("{server}-tls");
            let of_name = |list: &Value| {
                let list = list.as_array().cloned().unwrap_or_default();
                list.into_iter().find(|item| item["name"] == name.as_str())
            };
            let volume = of_name(&spec["volumes"]).expect("a volume");
            let sources = [
                json!({"secret": {"name": "private-ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}}),
                json!({"secret": {"name": "seckill-client", "items": [
                    {"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"},
                ]}}),
            ];
            assert_eq!(volume["projected"]["sources"], json!(sources), "{component}");
            let mount = of_name(&spec["containers"][0]["volumeMounts"]).expect("a mount");
            let folder = format!("/etc/seckill-tls/{server}");
            assert_eq!(
                (&mount["mountPath"], &mount["readOnly"]),
                (&json!(folder), &json!(true))
            );
            // The migrate Job does not use Redis.
            if component == "migrate" && server == "redis" {
                continue;
            }
            let prefix = format!("SECKILL_{}", server.to_uppercase());
            for (variable, file) in [("CA", "ca.crt"), ("CERT", "tls.crt"), ("KEY", "tls.key")] {
                let value = env(&objects, component, &format!("{prefix}_{variable}_FILE"));
                assert_eq!(value, &json!(format!("{folder}/{file}")), "{component}");
            }
        }
    }
    let check = &get(&objects, "Job/seckill-check-format")["spec"]["template"]["spec"]["containers"][0];
    let ca = json!({"name": "SECKILL_MYSQL_CA_FILE", "value": "/etc/seckill-tls/mysql/ca.crt"});
    assert!(check["env"].as_array().expect("a list").contains(&ca), "{check}");
}

#[test]
fn without_certificates_nothing_is_mounted() {
    let objects = template(json!({}));
    for component in COMPONENTS {
        assert!(
            !pod(&objects, component).to_string().contains("seckill-tls"),
            "{component}"
        );
    }
    let objects = template(json!({"mysql": {"tls": {"caSecret": "ca"}}}));
    for component in COMPONENTS {
        let files = variables(&objects, component, "SECKILL_MYSQL_");
        assert!(
            files.contains(&"SECKILL_MYSQL_CA_FILE".to_owned()),
            "{component}: {files:?}"
        );
        assert!(
            !files.contains(&"SECKILL_MYSQL_CERT_FILE".to_owned()),
            "{component}: {files:?}"
        );
    }
}

/// The Secret and the key of a program's Kafka properties.
fn properties_of(objects: &[Value], component: &str) -> Option<(String, String)> {
    let all = container(objects, component)["env"].as_array().expect("a list");
    let variable = all
        .iter()
        .find(|variable| variable["name"] == "SECKILL_KAFKA_PROPERTIES")?;
    let text = |field: &str| {
        variable["valueFrom"]["secretKeyRef"][field]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    Some((text("name"), text("key")))
}

#[test]
fn each_program_can_have_its_own_account_of_kafka() {
    let of = |objects: &[Value]| COMPONENTS.map(|component| properties_of(objects, component).map(|(_, key)| key));
    let some = |keys: [&str; 4]| keys.map(|key| Some(key.to_owned()));
    assert_eq!(of(&template(json!({}))), [None, None, None, None]);
    let shared = template(json!({"kafka": {"properties": "client.id=me"}}));
    assert_eq!(of(&shared), some(["properties"; 4]));

    let own = template(json!({"kafka": {"properties": "client.id=me", "workerProperties": "client.id=worker"}}));
    assert_eq!(
        of(&own),
        some(["properties", "properties", "worker-properties", "properties"])
    );
    let secret = get(&own, "Secret/seckill-kafka");
    assert_eq!(
        secret["data"],
        json!({"properties": "Y2xpZW50LmlkPW1l", "worker-properties": "Y2xpZW50LmlkPXdvcmtlcg=="})
    );

    let keys = json!({"operator": "o", "api": "a"});
    let existing = template(json!({"kafka": {"existingSecret": "accounts", "existingSecretKeys": keys}}));
    assert_eq!(of(&existing), some(["o", "a", "properties", "properties"]));
    assert_eq!(
        properties_of(&existing, "api").map(|(name, _)| name).as_deref(),
        Some("accounts")
    );
    let both = json!({"kafka": {"existingSecret": "accounts", "apiProperties": "client.id=me"}});
    let refused = try_template("seckill", "shop", both).expect_err("refused");
    assert!(
        refused.contains("kafka.apiProperties and kafka.existingSecret exclude each other"),
        "{refused}"
    );
}
