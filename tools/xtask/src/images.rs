//! Builds container images from local builds, and imports them into the cluster without a registry.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::step;
use crate::command::output;
use crate::environment::Environment;
use crate::programs::PROGRAMS;
use crate::workspace;

pub const PAUSE: &str = "localhost/seckill/pause:1";
/// The base image of the product's Dockerfile: the shared libraries that the programs were linked with.
const BASE: &str = "localhost/seckill/base:local";
pub const REPOSITORY: &str = "localhost/seckill/seckill";

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
            .arg(env.containerd_socket())
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

/// Imports an image into the cluster's container runtime.
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

/// Builds an image from a folder with the files of its root.
fn from_files(env: &Environment, image: &str, files: &Path, config: &[&str]) -> Result<()> {
    let container = output(buildah(env).args(["from", "scratch"]))?;
    let container = container.trim();
    output(buildah(env).args(["copy", "-q", container]).arg(files).arg("/"))?;
    output(buildah(env).arg("config").args(config).arg(container))?;
    output(buildah(env).args(["commit", "-q", "--rm", container, image]))?;
    Ok(())
}

/// Imports the pause image, which every pod needs.
pub fn import_pause(env: &Environment) -> Result<()> {
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

/// Builds the product's image from the programs in a folder, and imports it into the cluster. Returns its tag, which depends
/// on its content.
pub fn product(env: &Environment, programs: &Path) -> Result<String> {
    let workspace = workspace::folder()?;
    let mut content = Command::new("sha256sum");
    content.arg(workspace.join("Dockerfile"));
    for program in PROGRAMS {
        content.arg(programs.join(program));
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
            fs::copy(programs.join(program), prebuilt.join(program))?;
        }
        build_base(env, &prebuilt)?;
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

/// Builds the base image with exactly the shared libraries that the programs were linked with.
fn build_base(env: &Environment, programs: &Path) -> Result<()> {
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
        let copy = files.join(library.strip_prefix("/")?);
        fs::create_dir_all(copy.parent().context("the library has no parent folder")?)?;
        fs::copy(&library, &copy).with_context(|| library.display().to_string())?;
    }
    fs::write(
        files.join("etc/passwd"),
        "nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    )?;
    fs::write(files.join("etc/group"), "nonroot:x:65532:\n")?;
    from_files(env, BASE, &files, &["--user", "65532:65532"])
}
