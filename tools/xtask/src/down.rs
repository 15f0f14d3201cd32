//! Takes the local environment away: only what it started, and all of that.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::cache::{output, step};
use crate::environment::Environment;
use crate::images;
use crate::process::Processes;
use crate::sandbox::Sandbox;

/// In this order, so that nothing brings back what was ended before it.
const ORDER: &[&str] = &[
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
];

pub fn down() -> Result<()> {
    let state = Environment::state_folder()?;
    if !state.exists() {
        eprintln!("  nothing is up");
        return Ok(());
    }
    step("taking the environment away", "down", |_| {
        let processes = Processes::new(&state)?;
        for name in ORDER {
            match *name {
                "containers" => containers(&state),
                name => processes.stop(name)?,
            }
        }
        for name in processes.names()? {
            processes.stop(&name)?;
        }
        unmount(&state)?;
        cgroups();
        Sandbox { namespace: true }.remove()?;
        Ok(fs::remove_dir_all(&state)?)
    })
}

/// Ends the pods' containers, and the shims of our own container runtime, which outlive it by design.
fn containers(state: &Path) {
    if let Ok(env) = Environment::load() {
        let list = |args: &[&str]| images::ctr(&env, args).unwrap_or_default();
        for task in list(&["tasks", "ls", "-q"]).lines() {
            // Some are gone by now: a pod's other container went with it.
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

/// Unmounts all that lies in the state folder, the innermost first.
fn unmount(state: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let ours = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| Path::new(place).starts_with(state));
    for place in ours.collect::<Vec<_>>().into_iter().rev() {
        output(Command::new("umount").args(["-l", place]))?;
    }
    Ok(())
}

/// Removes the kubelet's control groups, which are empty by now. One that is not stays: nothing depends on it.
fn cgroups() {
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
