//! Installs and uninstalls the demo's release.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::screen::Screen;
use super::site::{ClusterSite, Crds};
use crate::environment::{CONTEXT, Environment, MYSQL_PASSWORD, REDIS_PASSWORD};
use crate::images;

/// The namespace of the servers in `examples/dependencies.yaml`.
pub const DEPENDENCIES: &str = "seckill-dependencies";

pub const CRD: &str = "flashsales.seckill.dev";

/// Writes the chart's values for the local environment and the image tag. The end-to-end tests use them too.
pub fn local_values(env: &Environment, tag: &str) -> Result<PathBuf> {
    let mysql = |user: &str| env.mysql_url(user, "seckill");
    let small = json!({"requests": {"cpu": "10m", "memory": "32Mi"}});
    let values = json!({
        "image": {"repository": images::REPOSITORY, "tag": tag},
        "redis": {"url": env.redis_url()},
        // There is one broker, so one replica.
        "kafka": {"brokers": env.kafka_brokers(), "replication": 1, "minInsync": 1},
        "mysql": {
            "operatorUrl": mysql("operator"),
            "apiUrl": mysql("api"),
            "workerUrl": mysql("worker"),
            "migrateUrl": mysql("migrate"),
        },
        // All servers and all buyers share the few cores of this machine.
        "operator": {"resources": small},
        "api": {"minReplicas": 1, "maxReplicas": 2, "resources": small},
        "worker": {"minReplicas": 1, "maxReplicas": 2, "resources": small},
        "migrate": {"resources": small},
        // A sale whose FlashSale is deleted ends soon.
        "deletionGraceSeconds": 1,
        "ingress": {"enabled": true, "className": env.ingress_class},
        "legacy": {"enabled": true},
    });
    let file = env.state.join("values.json");
    fs::write(&file, serde_json::to_vec_pretty(&values)?).with_context(|| file.display().to_string())?;
    Ok(file)
}

/// The command of a small demo on the local environment, as on a cluster that others use too.
pub fn command_on_context(env: &Environment, tag: &str, values: &Path) -> Result<Vec<String>> {
    let (node, mysql, redis) = (&env.node_address, env.mysql_port, env.redis_port);
    let words = [
        std::env::current_exe()?.display().to_string(),
        "demo".into(),
        "--small".into(),
        "--yes".into(),
        format!("--context={CONTEXT}"),
        format!("--image={}:{tag}", images::REPOSITORY),
        format!("--values={}", values.display()),
        format!("--mysql=mysql -h {node} -P {mysql} -u root --password={MYSQL_PASSWORD} seckill"),
        format!("--redis=redis-cli -h {node} -p {redis} --no-auth-warning -a {REDIS_PASSWORD}"),
    ];
    Ok(words.into())
}

/// Installs what the release needs and the release, and waits until it is ready.
pub fn install(site: &ClusterSite, screen: &Screen) -> Result<()> {
    if site.creates_dependencies {
        let file = site.example("dependencies.yaml");
        screen.waiting("starting Kafka, MySQL and Redis", || {
            site.kubectl.text(&["create", "-f", &file])?;
            let status = ["rollout", "status", "-n", DEPENDENCIES, "--timeout=5m", "statefulset"];
            site.kubectl.text(&status)
        })?;
    }
    let namespace = &site.names.namespace;
    let restricted: Value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    site.kubectl
        .text_with_input(&["apply", "-f", "-"], Some(&restricted.to_string()))?;
    match site.crds {
        Crds::Chart => install_chart(site, screen, "seckill-crds", "seckill-crds", &["--take-ownership"])?,
        Crds::Created => {
            let file = site.repository.join("crds").join(format!("{CRD}.yaml"));
            site.kubectl.text(&["create", "-f", &file.display().to_string()])?;
            let established = ["wait", "--for=condition=Established", "--timeout=60s"];
            site.kubectl.with(established).text(&["crd", CRD])?;
            screen.say(format!("kubectl create: {CRD}"));
        }
        Crds::Existing => {}
    }
    let values = site.values.display().to_string();
    install_chart(site, screen, &site.names.release, "seckill", &["-f", &values])
}

fn install_chart(site: &ClusterSite, screen: &Screen, release: &str, chart: &str, flags: &[&str]) -> Result<()> {
    let folder = site.repository.join("helm").join(chart).display().to_string();
    let install = ["upgrade", "--install", release, &folder, "-n", &site.names.namespace];
    let args = [&install[..], &["--wait", "--timeout", "5m"], flags].concat();
    screen.waiting(&format!("helm install {release}"), || site.helm.text(&args))?;
    screen.say(format!("helm install {release} helm/{chart}: ready"));
    Ok(())
}

/// Deletes the sales and the release. In the cluster of `cargo xtask up`, the chart keeps the CRDs.
pub fn uninstall(site: &ClusterSite, screen: &Screen) -> Result<()> {
    let names = &site.names;
    let sales = screen.waiting("deleting the sales", || delete_namespace(site, &names.sales));
    let uninstall = ["uninstall", &names.release, "-n", &names.namespace];
    let flags = ["--ignore-not-found", "--wait", "--timeout", "3m"];
    let release = screen.waiting("uninstalling the release", || {
        site.helm.text(&[uninstall, flags].concat())
    });
    sales.and(release)?;
    screen.say(format!("helm uninstall {}: done", names.release));
    Ok(())
}

/// Deletes everything that the demo has created in a cluster that others use too, and nothing else. One failure does not
/// keep the rest from being deleted.
pub fn remove(site: &ClusterSite, screen: &Screen) -> Result<()> {
    let mut results = vec![
        uninstall(site, screen),
        screen.waiting("deleting the namespace", || {
            delete_namespace(site, &site.names.namespace)
        }),
    ];
    if site.crds == Crds::Created {
        results.push(remove_crd(site, screen));
    }
    if site.creates_dependencies {
        results.push(screen.waiting("deleting Kafka, MySQL and Redis", || {
            delete_namespace(site, DEPENDENCIES)
        }));
    }
    results.into_iter().collect::<Result<Vec<()>>>()?;
    screen.say("deleted everything that the demo created");
    Ok(())
}

/// Deletes the CRD, unless somebody else has created FlashSales meanwhile.
fn remove_crd(site: &ClusterSite, screen: &Screen) -> Result<()> {
    let others = site
        .kubectl
        .text(&["get", CRD, "-A", "-o", "name", "--ignore-not-found"])?;
    if others.trim().is_empty() {
        site.kubectl
            .text(&["delete", "crd", CRD, "--ignore-not-found", "--timeout=60s"])?;
    } else {
        screen.say(format!("{CRD} is kept: somebody else has created FlashSales"));
    }
    Ok(())
}

fn delete_namespace(site: &ClusterSite, name: &str) -> Result<()> {
    let delete = ["delete", "namespace", name, "--ignore-not-found", "--timeout=180s"];
    site.kubectl.text(&delete).map(drop)
}

/// Saves the programs' logs in `target/demo/logs`.
pub fn save_logs(site: &ClusterSite) -> Result<PathBuf> {
    let folder = site.repository.join("target/demo/logs");
    fs::create_dir_all(&folder)?;
    let namespace = &site.names.namespace;
    let pods = site.kubectl.text(&["get", "pods", "-n", namespace, "-o", "name"])?;
    for pod in pods.lines() {
        let log = site
            .kubectl
            .text(&["logs", "-n", namespace, pod, "--all-containers", "--tail=20000"]);
        let file = folder.join(format!("{}.log", pod.trim_start_matches("pod/")));
        fs::write(file, log.unwrap_or_else(|error| format!("{error:#}")))?;
    }
    let state = site
        .kubectl
        .text(&["get", "all,flashsales,events", "-A", "-o", "wide"])?;
    fs::write(folder.join("cluster.txt"), state)?;
    Ok(folder)
}
