//! Installs and uninstalls the demo's release.
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::screen::Screen;
use super::site::Site;
use crate::environment::Environment;
use crate::images;

/// Name and namespace of the release.
pub const RELEASE: &str = "seckill";

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

/// Installs both charts and waits until the release is ready.
pub fn install(site: &Site, screen: &Screen) -> Result<()> {
    let namespace: Value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": RELEASE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    site.kubectl
        .text_with_input(&["apply", "-f", "-"], Some(&namespace.to_string()))?;
    for (release, chart) in [("seckill-crds", "seckill-crds"), (RELEASE, "seckill")] {
        let folder = site.repository.join("helm").join(chart).display().to_string();
        let mut args = vec![
            "upgrade",
            "--install",
            release,
            &folder,
            "-n",
            RELEASE,
            "--wait",
            "--timeout",
            "5m",
        ];
        let values = site.values.display().to_string();
        if release == RELEASE {
            args.extend(["-f", &values]);
        } else if site.take_crds {
            args.push("--take-ownership");
        }
        screen.waiting(&format!("helm install {release}"), || site.helm.text(&args))?;
        screen.say(format!("helm install {release} helm/{chart}: ready"));
    }
    Ok(())
}

/// Deletes the sales and the release. The chart keeps the CRDs.
pub fn uninstall(site: &Site, screen: &Screen, sales_namespace: &str) -> Result<()> {
    screen.waiting("uninstalling the release", || {
        site.kubectl.text(&[
            "delete",
            "namespace",
            sales_namespace,
            "--ignore-not-found",
            "--timeout=120s",
        ])?;
        site.helm.text(&[
            "uninstall",
            RELEASE,
            "-n",
            RELEASE,
            "--ignore-not-found",
            "--wait",
            "--timeout",
            "3m",
        ])
    })?;
    screen.say("helm uninstall seckill: done");
    Ok(())
}

/// Saves the programs' logs in `target/demo/logs`.
pub fn save_logs(site: &Site) -> Result<PathBuf> {
    let folder = site.repository.join("target/demo/logs");
    fs::create_dir_all(&folder)?;
    let pods = site.kubectl.text(&["get", "pods", "-n", RELEASE, "-o", "name"])?;
    for pod in pods.lines() {
        let log = site
            .kubectl
            .text(&["logs", "-n", RELEASE, pod, "--all-containers", "--tail=20000"]);
        let file = folder.join(format!("{}.log", pod.trim_start_matches("pod/")));
        fs::write(file, log.unwrap_or_else(|error| format!("{error:#}")))?;
    }
    let state = site
        .kubectl
        .text(&["get", "all,flashsales,events", "-A", "-o", "wide"])?;
    fs::write(folder.join("cluster.txt"), state)?;
    Ok(folder)
}
