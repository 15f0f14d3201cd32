//! `cargo xtask down`: stops every process that the environment started, and only those, and deletes its state.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::cache::step;
use crate::command::output;
use crate::environment::Environment;
use crate::images;
use crate::process::Processes;
use crate::sandbox::Sandbox;

/// The servers. The order matters: each process stops before those that it would otherwise restart.
const STOP_ORDER: &[&str] = &[
    "envoy",
    "contour",
    "kube-proxy",
    "kube-scheduler",
    "kube-controller-manager",
    "kubelet",
    "containers",
    "containerd",
    "kube-apiserver",
    "etcd",
    "kafka",
    "mysql",
    "redis",
    "mariadb",
    "valkey",
    "keycloak",
];

pub fn down() -> Result<()> {
    let state = Environment::state_folder()?;
    if !state.exists() {
        eprintln!("  no environment is running");
        return Ok(());
    }
    step("stopping the environment", "down", |_| {
        let processes = Processes::new(&state)?;
        // Our programs, which would wait for their servers.
        let names = processes.names()?;
        for name in names.iter().filter(|name| !STOP_ORDER.contains(&name.as_str())) {
            processes.stop(name)?;
        }
        for name in STOP_ORDER {
            match *name {
                "containers" => remove_containers(&state),
                name => processes.stop(name)?,
            }
        }
        unmount(&state)?;
        remove_cgroups();
        Sandbox::of(&state, &Environment::default_state_folder()?).remove()?;
        Ok(fs::remove_dir_all(&state)?)
    })
}

/// Removes the pods' containers, and kills the shims of our container runtime, which outlive it by design.
fn remove_containers(state: &Path) {
    if let Ok(env) = Environment::load() {
        let list = |args: &[&str]| images::ctr(&env, args).unwrap_or_default();
        for task in list(&["tasks", "ls", "-q"]).lines() {
            // This fails for a container that was removed together with another one of its pod.
            let _ = images::ctr(&env, &["tasks", "rm", "-f", task]);
        }
        for container in list(&["containers", "ls", "-q"]).lines() {
            let _ = images::ctr(&env, &["containers", "rm", container]);
        }
    }
    let socket = state.join("containerd/containerd.sock");
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("containerd-shim") && line.contains(&*socket.to_string_lossy()) {
            let _ = Command::new("kill")
                .args(["-KILL", &entry.file_name().to_string_lossy()])
                .status();
        }
    }
}

/// Unmounts everything in the state folder, innermost first.
fn unmount(state: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let ours = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|mount| Path::new(mount).starts_with(state));
    for mount in ours.collect::<Vec<_>>().into_iter().rev() {
        output(Command::new("umount").args(["-l", mount]))?;
    }
    Ok(())
}

/// Removes the kubelet's control groups. One that is not empty is kept, which does no harm.
fn remove_cgroups() {
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let pods = controller.path().join("kubepods");
        if pods.exists() {
            let _ = Command::new("find")
                .arg(&pods)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .output();
        }
    }
}
