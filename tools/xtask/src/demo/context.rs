//! The demo on an existing cluster: kind, k3d, minikube, or a company's.
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::args::Args;
use super::screen::Screen;
use super::site::{Site, load_program};
use super::stores::Stores;
use super::tool::Tool;
use crate::workspace;

/// The namespace of the servers in `examples/dependencies.yaml`.
const DEPENDENCIES: &str = "seckill-dependencies";

/// The ports of `kubectl port-forward` on this machine.
const API_PORT: u16 = 18080;
const OLD_ROUTES_PORT: u16 = 18888;

/// Time limit for the API to answer through the port forward.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);

/// The command that loads an image into the cluster, for clusters on this machine.
fn load_command(context: &str) -> Option<&'static str> {
    let commands = [
        ("kind-", "kind load docker-image"),
        ("k3d-", "k3d image import"),
        ("minikube", "minikube image load"),
        ("docker-desktop", "nothing to do for"),
        ("rancher-desktop", "nothing to do with the moby engine for"),
    ];
    commands
        .iter()
        .find(|(prefix, _)| context.starts_with(prefix))
        .map(|(_, command)| *command)
}

/// The site, after the user has agreed that this cluster is changed.
pub fn site(args: &Args, context: &str, screen: &Screen) -> Result<Site> {
    let kubectl = Tool::new(["kubectl", "--context", context]);
    let helm = Tool::new(["helm", "--kube-context", context]);
    for (tool, probe) in [
        (&kubectl, ["version", "-o=json"]),
        (&helm, ["version", "--short"]),
        (&Tool::new(["curl"]), ["-s", "-V"]),
    ] {
        tool.text(&probe)?;
    }
    ask_consent(args, context)?;
    let (repository, tag) = image(args, context)?;
    let workspace = workspace::folder()?;
    let folder = workspace.join("target/demo");
    std::fs::create_dir_all(&folder)?;

    let (file, stores) = match (&args.values, &args.mysql, &args.redis) {
        (Some(file), Some(mysql), Some(redis)) => {
            let stores = Stores {
                mysql: Tool::new(mysql.split_whitespace()),
                redis: Tool::new(redis.split_whitespace()),
            };
            (file.clone(), stores)
        }
        (None, None, None) => {
            let file = workspace.join("examples/dependencies.yaml").display().to_string();
            screen.waiting("starting Kafka, MySQL and Redis", || {
                kubectl.text(&["apply", "-f", &file])?;
                kubectl.text(&["rollout", "status", "-n", DEPENDENCIES, "--timeout=5m", "statefulset"])
            })?;
            let in_pod = |name: &str| {
                let pod = format!("statefulset/{name}");
                kubectl.with(["exec", "-i", "-n", DEPENDENCIES, pod.as_str(), "--"])
            };
            let stores = Stores {
                mysql: in_pod("mysql").with(["mysql", "-useckill", "-pseckill", "seckill"]),
                redis: in_pod("redis").with(["redis-cli"]),
            };
            (workspace.join("examples/values-trying-out.yaml"), stores)
        }
        _ => bail!("--values, --mysql and --redis must be given together"),
    };
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut values: serde_json::Value = serde_yaml::from_str(&text).with_context(|| file.display().to_string())?;
    ensure!(values.is_object(), "{} is not a values file", file.display());
    values["image"] = json!({"repository": repository, "tag": tag});
    values["legacy"] = json!({"enabled": true});
    values["ingress"] = json!({"enabled": args.url.is_some(), "className": args.ingress_class});
    let values_file = folder.join("values.json");
    std::fs::write(&values_file, serde_json::to_vec_pretty(&values)?)?;
    let forwarded = |port: u16| format!("http://127.0.0.1:{port}");
    Ok(Site {
        repository: workspace,
        state: folder,
        kubectl,
        helm,
        curl: Tool::new(["curl"]),
        load: Tool::new([load_program()?.display().to_string()]).with(["--i-own-this-target"]),
        stores,
        values: values_file,
        take_crds: false,
        api_url: args.url.clone().unwrap_or_else(|| forwarded(API_PORT)),
        old_routes_url: args.url.clone().unwrap_or_else(|| forwarded(OLD_ROUTES_PORT)),
        known_versions: BTreeMap::new(),
    })
}

/// Asks before a cluster on another machine is changed.
fn ask_consent(args: &Args, context: &str) -> Result<()> {
    if args.yes || load_command(context).is_some() {
        return Ok(());
    }
    let what = format!(
        "The context {context} is not a cluster on this machine. The demo installs CRDs and a release into the namespace \
         seckill, sales into the namespace shop, and sends 20,000 buyers to it."
    );
    ensure!(std::io::stdin().is_terminal(), "{what} Pass --yes to agree.");
    eprint!("{what}\nContinue? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    ensure!(
        answer.trim().eq_ignore_ascii_case("y"),
        "cancelled; nothing was changed"
    );
    Ok(())
}

fn image(args: &Args, context: &str) -> Result<(String, String)> {
    let Some(image) = &args.image else {
        let load = match load_command(context) {
            Some(command) => format!("{command} seckill:dev"),
            None => "docker push to a registry that the cluster pulls from".into(),
        };
        bail!(
            "--image NAME:TAG is missing: it names an image that the cluster can use. To build one:\n  docker build -t seckill:dev .\n  \
             {load}\n  cargo xtask demo --context {context} --image seckill:dev"
        );
    };
    // A registry's port has a colon too.
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => Ok((repository.into(), tag.into())),
        _ => bail!("--image {image:?} has no tag; expected for example seckill:dev"),
    }
}

/// A running `kubectl port-forward`; it stops when this is dropped.
pub struct Forward(Child);

impl Forward {
    pub fn start(site: &Site) -> Result<Self> {
        let ports = [format!("{API_PORT}:8080"), format!("{OLD_ROUTES_PORT}:8888")];
        let child = site
            .kubectl
            .command(&[
                "port-forward",
                "-n",
                super::install::RELEASE,
                "service/seckill-api",
                &ports[0],
                &ports[1],
            ])
            .stdout(Stdio::null())
            .spawn()
            .context("kubectl port-forward")?;
        let forward = Forward(child);
        let started = Instant::now();
        while site
            .curl
            .text(&["-sf", "-m", "2", &format!("{}/v1/sales", site.api_url)])
            .is_err()
        {
            ensure!(
                started.elapsed() < FORWARD_TIMEOUT,
                "the API did not answer through kubectl port-forward"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(forward)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_clusters_are_changed_without_consent() {
        for local in ["kind-dev", "k3d-dev", "minikube", "docker-desktop", "rancher-desktop"] {
            assert!(load_command(local).is_some(), "{local}");
        }
        for remote in ["production", "arn:aws:eks:kind-of", "my-kind-cluster", ""] {
            assert!(load_command(remote).is_none(), "{remote}");
        }
    }
}
