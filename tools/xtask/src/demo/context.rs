//! The demo on an existing cluster: kind, k3d, minikube, or a company's.
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::args::Args;
use super::flash_sales::FlashSales;
use super::forward::Ports;
use super::install;
use super::names::Names;
use super::site::{ClusterSite, Crds, Site};
use super::stores::Stores;
use super::tool::Tool;
use crate::programs::build_load;
use crate::workspace;

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

/// The tools and names of a demo on this cluster. Changes nothing.
pub fn site(args: &Args, context: &str, ports: Ports) -> Result<ClusterSite> {
    let kubectl = Tool::new(["kubectl", "--context", context]);
    let helm = Tool::new(["helm", "--kube-context", context]);
    let curl = Tool::new(["curl"]);
    for (tool, probe) in [
        (&kubectl, ["version", "-o=json"]),
        (&helm, ["version", "--short"]),
        (&curl, ["-s", "-V"]),
    ] {
        tool.text(&probe)?;
    }
    let image = image(args, context)?;
    let workspace = workspace::folder()?;
    let state = workspace.join("target/demo");
    std::fs::create_dir_all(&state)?;
    let exists = |kind: &str, name: &str| -> Result<bool> {
        let found = kubectl.text(&["get", kind, name, "--ignore-not-found", "-o", "name"])?;
        Ok(!found.trim().is_empty())
    };
    let (file, stores) = match (&args.values, &args.mysql, &args.redis) {
        (Some(file), Some(mysql), Some(redis)) => {
            let stores = Stores {
                mysql: Tool::new(mysql.split_whitespace()),
                redis: Tool::new(redis.split_whitespace()),
            };
            (file.clone(), stores)
        }
        (None, None, None) => {
            let file = workspace.join("examples/values-trying-out.yaml");
            (file, stores_of_dependencies(&kubectl))
        }
        _ => bail!("--values, --mysql and --redis must be given together"),
    };
    let names = Names::generated();
    let ingress = args.url.as_deref().map(|url| Ingress::of(url, &names));
    let values = values(&file, &image, &names, args, ingress.as_ref())?;
    let values_file = state.join("values.json");
    std::fs::write(&values_file, serde_json::to_vec_pretty(&values)?)?;
    let header = ingress.and_then(|ingress| ingress.header);
    let with_header = |tool: Tool, flag: &str| match &header {
        Some(header) => tool.with([flag, header]),
        None => tool,
    };
    let load = Tool::new([build_load()?.display().to_string()]).with(["--i-own-this-target"]);
    let forwarded = |port: u16| format!("http://127.0.0.1:{port}");
    Ok(ClusterSite {
        crds: match exists("crd", install::CRD)? {
            true => Crds::Existing,
            false => Crds::Created,
        },
        creates_dependencies: args.values.is_none() && !exists("namespace", install::DEPENDENCIES)?,
        site: Site {
            repository: workspace,
            state,
            flash_sales: FlashSales::Cluster(kubectl.clone()),
            curl: with_header(curl, "-H"),
            load: with_header(load, "--header"),
            stores,
            names,
            api_url: args.url.clone().unwrap_or_else(|| forwarded(ports.api)),
            old_routes_url: args.url.clone().unwrap_or_else(|| forwarded(ports.old_routes)),
            known_versions: BTreeMap::new(),
        },
        kubectl,
        helm,
        values: values_file,
    })
}

fn stores_of_dependencies(kubectl: &Tool) -> Stores {
    let in_pod = |name: &str| {
        let pod = format!("statefulset/{name}");
        kubectl.with(["exec", "-i", "-n", install::DEPENDENCIES, pod.as_str(), "--"])
    };
    Stores {
        mysql: in_pod("mysql").with(["mysql", "-useckill", "-pseckill", "seckill"]),
        redis: in_pod("redis").with(["redis-cli"]),
    }
}

/// The host of the release at the ingress. Without one, its paths would be those of all hosts.
struct Ingress {
    host: String,
    /// The header that names it, unless the URL does.
    header: Option<String>,
}

impl Ingress {
    fn of(url: &str, names: &Names) -> Self {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        let host = authority.split(':').next().unwrap_or_default();
        // An Ingress takes no address as its host.
        let is_name = host.contains(|c: char| c.is_ascii_alphabetic()) && host != "localhost";
        if is_name && !authority.starts_with('[') {
            return Ingress {
                host: host.to_ascii_lowercase(),
                header: None,
            };
        }
        let host = format!("{}.test", names.release);
        Ingress {
            header: Some(format!("Host: {host}")),
            host,
        }
    }
}

/// The values of the file, with the demo's own.
fn values(
    file: &Path,
    (repository, tag): &(String, String),
    names: &Names,
    args: &Args,
    ingress: Option<&Ingress>,
) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut values: Value = serde_yaml::from_str(&text).with_context(|| file.display().to_string())?;
    ensure!(values.is_object(), "{} is not a values file", file.display());
    values["image"] = json!({"repository": repository, "tag": tag});
    values["className"] = json!(names.class);
    values["legacy"] = json!({"enabled": true});
    values["ingress"] = match ingress {
        Some(ingress) => json!({"enabled": true, "className": args.ingress_class, "host": ingress.host}),
        None => json!({"enabled": false}),
    };
    Ok(values)
}

/// What the demo will do in the cluster, one line each.
pub fn plan(args: &Args, context: &str, site: &ClusterSite, buyers: u64) -> Vec<String> {
    let names = &site.names;
    let mut lines = vec![format!("In the cluster of the context {context}, the demo")];
    lines.push(match site.crds {
        Crds::Existing => format!("- uses the CustomResourceDefinition {} that is there", install::CRD),
        _ => format!("- creates the CustomResourceDefinition {}", install::CRD),
    });
    let (new, file) = (install::DEPENDENCIES, "examples/dependencies.yaml");
    lines.push(match (&args.values, site.creates_dependencies) {
        (Some(file), _) => format!(
            "- uses the Kafka, MySQL and Redis of {}: it may create the topic and tables; the rows and records of its sales stay",
            file.display()
        ),
        (None, true) => format!("- starts Kafka, MySQL and Redis ({file}) in the new namespace {new}"),
        (None, false) => format!("- uses Kafka, MySQL and Redis in the namespace {new} that is there"),
    });
    lines.push(format!(
        "- installs the Helm release {} into the new namespace {}, with roles for the whole cluster",
        names.release, names.namespace
    ));
    lines.push(format!("- creates sales in the new namespace {}", names.sales));
    lines.push(match &args.url {
        Some(url) => format!("- sends {buyers} buyers to {url}"),
        None => format!("- sends {buyers} buyers through kubectl port-forward"),
    });
    lines.push(match args.keep {
        true => "At the end, it deletes nothing.".into(),
        false => "At the end, it deletes what it created, and nothing else.".into(),
    });
    lines
}

/// The commands that delete what a demo with `--keep` has created.
pub fn commands_to_remove(site: &ClusterSite) -> Vec<String> {
    let names = &site.names;
    let kubectl = |args: &[&str]| site.kubectl.line(args);
    let mut commands = vec![
        kubectl(&["delete", "namespace", &names.sales]),
        site.helm
            .line(&["uninstall", &names.release, "-n", &names.namespace, "--wait"]),
        kubectl(&["delete", "namespace", &names.namespace]),
    ];
    if site.crds == Crds::Created {
        commands.push(kubectl(&["delete", "crd", install::CRD]));
    }
    if site.creates_dependencies {
        commands.push(kubectl(&["delete", "namespace", install::DEPENDENCIES]));
    }
    commands
}

/// Says what the demo will do, and asks.
pub fn ask_consent(args: &Args, plan: &[String]) -> Result<()> {
    let plan = plan.join("\n");
    eprintln!("{plan}");
    if args.yes {
        return Ok(());
    }
    ensure!(std::io::stdin().is_terminal(), "nobody can agree here; pass --yes");
    eprint!("Continue? [y/N] ");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_on_this_machine_load_images_without_a_registry() {
        for local in ["kind-dev", "k3d-dev", "minikube", "docker-desktop", "rancher-desktop"] {
            assert!(load_command(local).is_some(), "{local}");
        }
        for remote in ["production", "arn:aws:eks:kind-of", "my-kind-cluster", ""] {
            assert!(load_command(remote).is_none(), "{remote}");
        }
    }

    #[test]
    fn a_release_never_takes_the_paths_of_all_hosts() {
        let names = Names::generated();
        for named in [
            "https://Shop.example/x",
            "http://shop.example:8080",
            "http://shop.example",
        ] {
            let ingress = Ingress::of(named, &names);
            assert_eq!(
                (ingress.host.as_str(), ingress.header),
                ("shop.example", None),
                "{named}"
            );
        }
        for address in ["http://127.0.0.1:8880", "http://[::1]:80", "http://localhost"] {
            let ingress = Ingress::of(address, &names);
            assert_eq!(ingress.host, format!("{}.test", names.release), "{address}");
            assert_eq!(ingress.header, Some(format!("Host: {}", ingress.host)), "{address}");
        }
    }
}
