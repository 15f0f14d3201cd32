//! The demo on a cluster that exists: kind, k3d, minikube, or a company's.
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::Args;
use super::screen::Screen;
use super::site::{Site, load_program};
use super::stores::Stores;
use super::tool::Tool;

/// Where `examples/dependencies.yaml` puts the servers.
const DEPENDENCIES: &str = "seckill-dependencies";

/// The ports of `kubectl port-forward` on this machine.
const API_PORT: u16 = 18080;
const OLD_ROUTES_PORT: u16 = 18888;

/// How to hand an image to the cluster, for clusters on this machine.
fn loading(context: &str) -> Option<&'static str> {
    let ways = [
        ("kind-", "kind load docker-image"),
        ("k3d-", "k3d image import"),
        ("minikube", "minikube image load"),
        ("docker-desktop", "nothing to do for"),
        ("rancher-desktop", "nothing to do with the moby engine for"),
    ];
    ways.iter()
        .find(|(prefix, _)| context.starts_with(prefix))
        .map(|(_, way)| *way)
}

/// The site, after it was made sure that a person wants this cluster to be touched.
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
    agreed(args, context)?;
    let (repository, tag) = image(args, context)?;
    let workspace = crate::workspace()?;
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
            screen.waiting("Kafka, MySQL and Redis", || {
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
        _ => bail!("--values, --mysql and --redis go together: servers of your own need all three"),
    };
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut values: serde_json::Value = serde_yaml::from_str(&text).with_context(|| file.display().to_string())?;
    ensure!(values.is_object(), "{}: not the values of a chart", file.display());
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

/// Whether somebody agrees that the cluster is touched.
fn agreed(args: &Args, context: &str) -> Result<()> {
    if args.yes || loading(context).is_some() {
        return Ok(());
    }
    let what = format!(
        "The context {context} is not a cluster on this machine. The demo installs CRDs and a release into the namespace \
         seckill, sales into the namespace shop, and sends 20,000 buyers to it."
    );
    ensure!(
        std::io::stdin().is_terminal(),
        "{what} Say --yes if that is what you want."
    );
    eprint!("{what}\nGo on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    ensure!(answer.trim().eq_ignore_ascii_case("y"), "nothing was changed");
    Ok(())
}

fn image(args: &Args, context: &str) -> Result<(String, String)> {
    let Some(image) = &args.image else {
        let load = match loading(context) {
            Some(way) => format!("{way} seckill:dev"),
            None => "docker push to a registry that the cluster pulls from".into(),
        };
        bail!(
            "--image NAME:TAG is missing: the image that the cluster has. To make one:\n  docker build -t seckill:dev .\n  \
             {load}\n  cargo xtask demo --context {context} --image seckill:dev"
        );
    };
    // A port of the registry has a colon too.
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => Ok((repository.into(), tag.into())),
        _ => bail!("--image {image:?} has no tag; expected for example seckill:dev"),
    }
}

/// `kubectl port-forward`, for as long as this lives.
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
        let begun = Instant::now();
        while site
            .curl
            .text(&["-sf", "-m", "2", &format!("{}/v1/sales", site.api_url)])
            .is_err()
        {
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "kubectl port-forward does not lead to the API"
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
    fn only_clusters_on_this_machine_are_touched_without_asking() {
        for local in ["kind-dev", "k3d-dev", "minikube", "docker-desktop", "rancher-desktop"] {
            assert!(loading(local).is_some(), "{local}");
        }
        for far in ["production", "arn:aws:eks:kind-of", "my-kind-cluster", ""] {
            assert!(loading(far).is_none(), "{far}");
        }
    }
}
