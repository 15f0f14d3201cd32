//! The release with TLS to all servers, an account with few rights for each program, and network policies.
//!
//! `SECKILL_TLS_VALUES` has the values. The accounts are those of examples/: `redis.acl`, `kafka-acls.sh` and `grants.sql`.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{Crowd, Release, Sale, Scenario, in_seconds, wait_until};
use serde_json::{Value, json};

use crate::sales::WAIT_LIMIT;

pub const SCENARIOS: &[Scenario] = &[
    (
        "a_release_with_tls_and_few_rights_sells_and_settles",
        a_release_with_tls_and_few_rights_sells_and_settles,
    ),
    (
        "a_wrong_ca_password_or_right_is_named_by_readiness_and_condition",
        a_wrong_ca_password_or_right_is_named,
    ),
];

/// Of the Secret with the CA of the servers, which the values name.
pub const CA_SECRET: &str = "servers-ca";

pub fn secure(release: &Release) -> Result<()> {
    let values = std::env::var("SECKILL_TLS_VALUES").context("SECKILL_TLS_VALUES")?;
    apply_cas(release, CA_SECRET, &["ca"])?;
    release.upgrade(&["-f", &values])?;
    release.wait_until_reachable()
}

/// Writes a Secret with these of the CAs of the tests.
pub fn apply_cas(release: &Release, secret: &str, cas: &[&str]) -> Result<()> {
    let folder = std::env::var("SECKILL_TEST_CERTIFICATES").context("SECKILL_TEST_CERTIFICATES")?;
    let read = |ca: &&str| {
        let file = format!("{folder}/{ca}.crt");
        std::fs::read_to_string(&file).context(file)
    };
    let certificates = cas.iter().map(read).collect::<Result<String>>()?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": release.namespace, "name": secret},
        "stringData": {"ca.crt": certificates},
    });
    release.cluster.apply(&secret).map(drop)
}

fn a_release_with_tls_and_few_rights_sells_and_settles(release: &Release) -> Result<()> {
    secure(release)?;
    let operator = Deployment::of(release, "operator")?;
    let checked = operator.exec(&["/usr/local/bin/operator", "check"])?;
    ensure!(checked.contains("are ready for sales"), "{checked}");
    let namespace = release.sales_namespace()?;
    let mut manifest = Sale::manifest(&release.class, &namespace, "secured", 20, -1, 600);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    sale.wait_for_condition("Preflight", "True", WAIT_LIMIT)?;
    Crowd::buy(&release.api, &format!("{namespace}/secured"), 30).check_winners(20, 30)?;
    manifest["spec"]["endsAt"] = in_seconds(1).into();
    release.cluster.apply(&manifest)?;
    let status = sale.wait_for_phase("Settled", WAIT_LIMIT)?;
    ensure!(status["ledger"]["sold"] == 20, "{status}");
    Ok(())
}

/// Settings of one program, and what it says about each server.
struct Wrong {
    name: &'static str,
    settings: Vec<(&'static str, String)>,
    named: Named,
}

/// By server, words that the reason has.
pub type Named = [(&'static str, &'static [&'static str]); 3];

pub const CA_IS_WRONG: Named = [
    ("Redis", &["not signed by a known CA"]),
    ("Kafka", &["certificate"]),
    ("MySQL", &["certificate"]),
];
pub const PASSWORD_IS_WRONG: Named = [
    ("Redis", &["password of user seckill is wrong"]),
    ("Kafka", &["authentication"]),
    ("MySQL", &["access denied"]),
];

/// The base image has these CAs. None of them has signed the certificates of the servers.
const OTHER_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

fn wrong_settings(program: &Deployment) -> Result<Vec<Wrong>> {
    let (redis, mysql) = (
        program.secret("SECKILL_REDIS_URL")?,
        program.secret("SECKILL_MYSQL_URL")?,
    );
    let kafka = program.secret("SECKILL_KAFKA_PROPERTIES")?;
    let with_user = |url: &str, user: &str, password: &str| -> Result<String> {
        let (scheme, rest) = url.split_once("://").context("a URL")?;
        let (_, host) = rest.split_once('@').context("a URL with a user")?;
        Ok(format!("{scheme}://{user}:{password}@{host}"))
    };
    let kafka_as = |user: &str, password: &str| {
        let others = kafka
            .split(',')
            .filter(|property| !property.starts_with("sasl.username=") && !property.starts_with("sasl.password="));
        let login = [format!("sasl.username={user}"), format!("sasl.password={password}")];
        others.map(str::to_owned).chain(login).collect::<Vec<_>>().join(",")
    };
    Ok(vec![
        Wrong {
            name: "ca",
            settings: [
                "SECKILL_REDIS_CA_FILE",
                "SECKILL_KAFKA_CA_FILE",
                "SECKILL_MYSQL_CA_FILE",
            ]
            .map(|variable| (variable, OTHER_CA.to_owned()))
            .into(),
            named: CA_IS_WRONG,
        },
        Wrong {
            name: "password",
            settings: vec![
                ("SECKILL_REDIS_URL", with_user(&redis, "seckill", "wrong")?),
                ("SECKILL_KAFKA_PROPERTIES", kafka_as("operator", "wrong")),
                ("SECKILL_MYSQL_URL", with_user(&mysql, "operator", "wrong")?),
            ],
            named: PASSWORD_IS_WRONG,
        },
        Wrong {
            name: "right",
            settings: vec![
                ("SECKILL_REDIS_URL", with_user(&redis, "without-info", "change-me")?),
                ("SECKILL_KAFKA_PROPERTIES", kafka_as("seckill", "seckill")),
                ("SECKILL_MYSQL_URL", with_user(&mysql, "without-rights", "seckill")?),
            ],
            named: [
                ("Redis", &["grant +info"]),
                ("Kafka", &["authorization", "examples/kafka-acls.sh"]),
                ("MySQL", &["denied", "without-rights"]),
            ],
        },
    ])
}

/// Each program is started once more with wrong settings, beside the release.
fn a_wrong_ca_password_or_right_is_named(release: &Release) -> Result<()> {
    secure(release)?;
    let cluster = &release.cluster;
    let (api, operator) = (Deployment::of(release, "api")?, Deployment::of(release, "operator")?);
    // Each of these operators is the leader of a class of its own.
    let lease_rights = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"namespace": release.namespace, "name": "leases-of-tests"},
        "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}],
    });
    let account = operator.object["spec"]["template"]["spec"]["serviceAccountName"].clone();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"namespace": release.namespace, "name": "leases-of-tests"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "leases-of-tests"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": release.namespace}],
    });
    cluster.apply(&lease_rights)?;
    cluster.apply(&binding)?;

    let namespace = release.sales_namespace()?;
    let mut sales = Vec::new();
    for wrong in wrong_settings(&api)? {
        api.start_pod(wrong.name, &wrong.settings)?;
        let class = format!("{}-{}", release.class, wrong.name);
        let mut settings = wrong.settings.clone();
        settings.push(("SECKILL_CLASS", class.clone()));
        settings.push(("SECKILL_LEASE_NAME", class.clone()));
        operator.start_pod(wrong.name, &settings)?;
        let manifest = Sale::manifest(&class, &namespace, wrong.name, 5, 600, 900);
        sales.push((wrong, Sale::apply(cluster, &manifest)?));
    }
    for (wrong, sale) in &sales {
        wait_until(
            &format!("seckill-api to name each wrong {}", wrong.name),
            WAIT_LIMIT,
            || {
                let reason = api.reason_of_pod(wrong.name)?;
                check_named(&wrong.named, &reason).map(Some)
            },
        )?;
        wait_until(
            &format!("the conditions of a sale to name each wrong {}", wrong.name),
            WAIT_LIMIT,
            || {
                let status = sale.status()?;
                let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
                let messages = conditions.iter().filter_map(|condition| condition["message"].as_str());
                check_named(&wrong.named, &messages.collect::<Vec<_>>().join("\n")).map(Some)
            },
        )?;
    }
    for (wrong, sale) in sales {
        api.delete_pod(wrong.name)?;
        operator.delete_pod(wrong.name)?;
        cluster.kubectl(&["delete", "flashsale", &sale.name, "-n", &sale.namespace, "--wait=false"])?;
    }
    release.upgrade(&[]).map(drop)
}

/// Checks that a reason names each server with these words.
pub fn check_named(named: &Named, text: &str) -> Result<()> {
    let found = text.to_lowercase();
    for (server, words) in named {
        for word in *words {
            ensure!(
                found.contains(&word.to_lowercase()),
                "{server} is not named with {word:?}: {text}"
            );
        }
    }
    Ok(())
}

/// A program of the release.
pub struct Deployment<'a> {
    release: &'a Release,
    object: Value,
}

impl<'a> Deployment<'a> {
    pub fn of(release: &'a Release, component: &str) -> Result<Self> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
            release.name
        );
        let found = [
            "get",
            "deployment",
            "-n",
            &release.namespace,
            "-l",
            &selector,
            "-o",
            "json",
        ];
        let list: Value = serde_json::from_str(&release.cluster.kubectl(&found)?)?;
        let object = list["items"][0].clone();
        ensure!(object.is_object(), "no Deployment of {component}");
        Ok(Deployment { release, object })
    }

    /// Runs a command in one of its pods.
    fn exec(&self, command: &[&str]) -> Result<String> {
        let name = self.object["metadata"]["name"].as_str().unwrap_or_default();
        let deployment = format!("deployment/{name}");
        let exec = ["exec", "-n", &self.release.namespace, &deployment, "--"];
        self.release.cluster.kubectl(&[&exec, command].concat())
    }

    fn pod(&self, name: &str) -> String {
        let program = self.object["metadata"]["name"].as_str().unwrap_or_default();
        format!("{program}-wrong-{name}")
    }

    /// The value of a variable that comes from a Secret.
    pub fn secret(&self, variable: &str) -> Result<String> {
        let env = self.object["spec"]["template"]["spec"]["containers"][0]["env"].as_array();
        let found = env.into_iter().flatten().find(|env| env["name"] == variable);
        let from = &found.with_context(|| variable.to_owned())?["valueFrom"]["secretKeyRef"];
        let (name, key) = (from["name"].as_str(), from["key"].as_str());
        let (name, key) = (name.unwrap_or_default(), key.unwrap_or_default());
        let template = format!("-o=go-template={{{{index .data {key:?} | base64decode}}}}");
        let namespace = &self.release.namespace;
        self.release
            .cluster
            .kubectl(&["get", "secret", name, "-n", namespace, &template])
    }

    /// Starts a pod like those of the Deployment, which no Service selects, with other settings.
    pub fn start_pod(&self, name: &str, settings: &[(&str, String)]) -> Result<()> {
        self.start_pod_with_ca(name, settings, CA_SECRET)
    }

    /// The same, with the CA of the servers in another Secret.
    pub fn start_pod_with_ca(&self, name: &str, settings: &[(&str, String)], ca_secret: &str) -> Result<()> {
        let mut spec = self.object["spec"]["template"]["spec"].clone();
        let env = spec["containers"][0]["env"].as_array_mut().context("no env")?;
        for (variable, value) in settings {
            env.retain(|env| env["name"] != *variable);
            env.push(json!({"name": variable, "value": value}));
        }
        for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
            let sources = volume.pointer_mut("/projected/sources").and_then(Value::as_array_mut);
            for source in sources.into_iter().flatten() {
                if source["secret"]["name"] == CA_SECRET {
                    source["secret"]["name"] = ca_secret.into();
                }
            }
        }
        spec["containers"][0]["startupProbe"] = Value::Null;
        spec["containers"][0]["livenessProbe"] = Value::Null;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": self.release.namespace, "name": self.pod(name)},
            "spec": spec,
        });
        self.release.cluster.apply(&pod).map(drop)
    }

    pub fn delete_pod(&self, name: &str) -> Result<()> {
        let delete = [
            "delete",
            "pod",
            &self.pod(name),
            "-n",
            &self.release.namespace,
            "--wait=false",
        ];
        self.release.cluster.kubectl(&delete).map(drop)
    }

    /// Why the pod is not ready, as `/readyz` says.
    pub fn reason_of_pod(&self, name: &str) -> Result<String> {
        let address = [
            "get",
            "pod",
            &self.pod(name),
            "-n",
            &self.release.namespace,
            "-o=jsonpath={.status.podIP}",
        ];
        let address = self.release.cluster.kubectl(&address)?;
        ensure!(!address.is_empty(), "the pod has no address yet");
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build();
        let agent = ureq::Agent::from(agent);
        let mut answer = agent.get(format!("http://{address}:9090/readyz")).call()?;
        Ok(answer.body_mut().read_to_string()?)
    }
}
