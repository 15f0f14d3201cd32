//! Container images, built from what this machine built, and handed to the cluster without a registry.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{output, seconds, step};
use crate::environment::Environment;
use crate::{cluster, workspace};

pub const PAUSE: &str = "localhost/seckill/pause:1";
/// What the product's Dockerfile stands on here: the shared libraries that the programs were linked with.
const BASE: &str = "localhost/seckill/base:local";
pub const REPOSITORY: &str = "localhost/seckill/seckill";
const PROGRAMS: &[&str] = &["operator", "seckill-api", "order-worker"];

/// The program that holds a pod's namespaces open.
const PAUSE_PROGRAM: &str = r#"
#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
"#;

pub fn ctr(env: &Environment, args: &[&str]) -> Result<String> {
    output(
        Command::new("ctr")
            .arg("-a")
            .arg(cluster::containerd_socket(env))
            .args(["-n", "k8s.io"])
            .args(args),
    )
}

fn buildah(env: &Environment) -> Command {
    let folder = env.state.join("images");
    let mut command = Command::new("buildah");
    command
        .arg("--root")
        .arg(folder.join("storage"))
        .arg("--runroot")
        .arg(folder.join("run"));
    command
}

/// Hands an image over to the cluster's runtime.
fn import(env: &Environment, image: &str) -> Result<()> {
    let archive = env.state.join("images/archive.tar");
    if archive.exists() {
        fs::remove_file(&archive)?;
    }
    output(
        buildah(env)
            .args(["push", "-q", image])
            .arg(format!("oci-archive:{}:{image}", archive.display())),
    )?;
    ctr(env, &["images", "import", &archive.to_string_lossy()])?;
    Ok(fs::remove_file(archive)?)
}

fn in_cluster(env: &Environment, image: &str) -> Result<bool> {
    Ok(ctr(env, &["images", "ls", "-q"])?.lines().any(|line| line == image))
}

/// The image from a folder with the files of its root.
fn from_files(env: &Environment, image: &str, files: &Path, config: &[&str]) -> Result<()> {
    let container = output(buildah(env).args(["from", "scratch"]))?;
    let container = container.trim();
    output(buildah(env).args(["copy", "-q", container]).arg(files).arg("/"))?;
    output(buildah(env).arg("config").args(config).arg(container))?;
    output(buildah(env).args(["commit", "-q", "--rm", container, image]))?;
    Ok(())
}

/// The pause image, which every pod needs.
pub fn pause(env: &Environment) -> Result<()> {
    if in_cluster(env, PAUSE)? {
        return Ok(());
    }
    let files = env.state.join("images/pause");
    fs::create_dir_all(&files)?;
    let source = env.state.join("images/pause.c");
    fs::write(&source, PAUSE_PROGRAM)?;
    output(
        Command::new("gcc")
            .args(["-static", "-Os", "-s", "-o"])
            .arg(files.join("pause"))
            .arg(source),
    )?;
    from_files(env, PAUSE, &files, &["--entrypoint", r#"["/pause"]"#])?;
    import(env, PAUSE)
}

/// Builds the programs for release, and says where they are.
pub fn build_programs() -> Result<PathBuf> {
    let begun = std::time::Instant::now();
    eprintln!("  … the programs (cargo build --release)");
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--quiet", "--workspace"])
        .current_dir(workspace()?);
    for program in PROGRAMS.iter().chain(["seckill-load"].iter()) {
        command.args(["--bin", program]);
    }
    let status = command.status().context("can't run cargo")?;
    anyhow::ensure!(status.success(), "cargo build --release failed");
    eprintln!("  ✓ the programs ({})", seconds(begun.elapsed()));
    Ok(crate::target_folder()?.join("release"))
}

/// The product's image in the cluster, built from this checkout. Gives its tag, which changes with its content.
pub fn product(env: &Environment) -> Result<String> {
    let release = build_programs()?;
    let workspace = workspace()?;
    let mut content = Command::new("sha256sum");
    content.arg(workspace.join("Dockerfile"));
    for program in PROGRAMS {
        content.arg(release.join(program));
    }
    let sums = output(&mut content)?;
    let digest: String = sums.lines().filter_map(|line| line.get(..4)).collect();
    let tag = format!("{}-{digest}", env!("CARGO_PKG_VERSION"));
    let image = format!("{REPOSITORY}:{tag}");
    if in_cluster(env, &image)? {
        return Ok(tag);
    }
    step(&format!("the image {image}"), "image", |log| {
        let prebuilt = workspace.join("target/image");
        fs::create_dir_all(&prebuilt)?;
        for program in PROGRAMS {
            fs::copy(release.join(program), prebuilt.join(program))?;
        }
        base(env, &prebuilt)?;
        log.run(
            buildah(env)
                .args([
                    "bud",
                    "--isolation",
                    "chroot",
                    "--build-arg",
                    "BINARIES=prebuilt",
                    "--build-arg",
                ])
                .arg(format!("BASE={BASE}"))
                .args(["-t", &image])
                .arg(&workspace),
        )?;
        import(env, &image)
    })?;
    Ok(tag)
}

/// The base image: exactly the shared libraries that the programs need, from where they were linked.
fn base(env: &Environment, programs: &Path) -> Result<()> {
    let files = env.state.join("images/base");
    if files.exists() {
        fs::remove_dir_all(&files)?;
    }
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let needed = output(Command::new("ldd").arg(programs.join(program)))?;
        libraries.extend(
            needed
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    libraries.insert("/etc/ssl/certs/ca-certificates.crt".into());
    for library in libraries {
        let place = files.join(library.strip_prefix("/")?);
        fs::create_dir_all(place.parent().context("a library lies in a folder")?)?;
        fs::copy(&library, &place).with_context(|| library.display().to_string())?;
    }
    fs::write(
        files.join("etc/passwd"),
        "nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    )?;
    fs::write(files.join("etc/group"), "nonroot:x:65532:\n")?;
    from_files(env, BASE, &files, &["--user", "65532:65532"])
}
