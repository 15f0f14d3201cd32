//! Starts the rest of a real single-node cluster: a node that runs pods, and an ingress controller.
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cache::step;
use crate::command::output;
use crate::environment::Environment;
use crate::images;
use crate::process::Processes;
use crate::tools::Tools;

/// Time limit for a process of the cluster to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(120);
pub const INGRESS_PORT: u16 = 8880;

pub fn start(env: &Environment, tools: &Tools) -> Result<()> {
    let processes = Processes::new(&env.state)?;
    let cluster = Cluster {
        env,
        tools,
        processes: &processes,
    };
    step("the node", "node", |_| {
        cluster.containerd()?;
        cluster.scheduler()?;
        images::import_pause(env)?;
        cluster.kubelet()?;
        cluster.proxy()?;
        processes.wait("kubelet", START_TIMEOUT, || {
            let ready = cluster.kubectl(&[
                "get",
                "node",
                "node1",
                "-o",
                "jsonpath={.status.conditions[?(@.type=='Ready')].status}",
            ])?;
            if ready == "True" {
                Ok(())
            } else {
                bail!("the node is not ready: {ready}")
            }
        })
    })?;
    step("the ingress controller", "ingress", |_| cluster.ingress())
}

struct Cluster<'a> {
    env: &'a Environment,
    tools: &'a Tools,
    processes: &'a Processes,
}

impl Cluster<'_> {
    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.env.sandbox.command(program)
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        output(self.env.command(&self.env.kubectl).args(args))
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.env.state.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn containerd(&self) -> Result<()> {
        let folder = self.folder("containerd")?;
        let cni = self.folder("cni")?;
        fs::write(
            cni.join("10-bridge.conflist"),
            serde_json::to_vec_pretty(&serde_json::json!({
                "cniVersion": "1.0.0",
                "name": "bridge",
                "plugins": [
                    {
                        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                        "ipam": {
                            "type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]],
                            "routes": [{"dst": "0.0.0.0/0"}], "dataDir": folder.join("addresses"),
                        },
                    },
                    {"type": "portmap", "capabilities": {"portMappings": true}},
                ],
            }))?,
        )?;
        let (root, state, socket) = (folder.join("root"), folder.join("state"), self.env.containerd_socket());
        let config = folder.join("config.toml");
        let (root, state, socket) = (root.display(), state.display(), socket.display());
        fs::write(
            &config,
            format!(
                r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  # Without CAP_SYS_RESOURCE, runc fails to lower the score and kills every container.
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#,
                pause = images::PAUSE,
                cni = cni.display(),
            ),
        )?;
        self.processes
            .start("containerd", self.inside("containerd").arg("--config").arg(config))?;
        self.processes.wait("containerd", START_TIMEOUT, || {
            images::ctr(self.env, &["version"]).map(drop)
        })
    }

    fn scheduler(&self) -> Result<()> {
        let mut command = self.inside(self.tools.cluster.join("kube-scheduler"));
        command
            .arg(format!("--kubeconfig={}", self.env.kubeconfig.display()))
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        self.processes.start("kube-scheduler", &mut command)?;
        Ok(())
    }

    fn kubelet(&self) -> Result<()> {
        let folder = self.folder("kubelet")?;
        let config = folder.join("config.yaml");
        let socket = self.env.containerd_socket();
        fs::write(
            &config,
            serde_json::to_vec_pretty(&serde_json::json!({
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "failCgroupV1": false,
                "failSwapOn": false,
                "cgroupDriver": "cgroupfs",
                "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
                "authorization": {"mode": "AlwaysAllow"},
                "address": self.env.node_address,
                "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
                "clusterDomain": "cluster.local",
                "resolvConf": "",
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "localStorageCapacityIsolation": false,
                "podLogsDir": folder.join("logs"),
            }))?,
        )?;
        let mut command = self.inside(self.tools.cluster.join("kubelet"));
        command
            .arg(format!("--config={}", config.display()))
            .arg(format!("--kubeconfig={}", self.env.kubeconfig.display()))
            .arg(format!("--root-dir={}", folder.join("root").display()))
            .arg(format!("--node-ip={}", self.env.node_address))
            .arg("--hostname-override=node1");
        self.processes.start("kubelet", &mut command)?;
        Ok(())
    }

    fn proxy(&self) -> Result<()> {
        let mut command = self.inside(self.tools.cluster.join("kube-proxy"));
        command
            .arg(format!("--kubeconfig={}", self.env.kubeconfig.display()))
            .args([
                "--hostname-override=node1",
                "--cluster-cidr=10.244.0.0/16",
                "--conntrack-max-per-core=0",
                "--proxy-mode=nftables",
            ]);
        self.processes.start("kube-proxy", &mut command)?;
        Ok(())
    }

    fn ingress(&self) -> Result<()> {
        let crds = self.tools.contour.join("crds.yaml");
        self.kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()])?;
        let manifest = self.env.state.join("ingress.json");
        fs::write(
            &manifest,
            serde_json::to_vec(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "projectcontour"}},
                {
                    "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "contour"},
                    "spec": {"controller": "projectcontour.io/ingress-controller"},
                },
            ]}))?,
        )?;
        self.kubectl(&["apply", "--server-side", "-f", &manifest.to_string_lossy()])?;

        // Envoy's default limit of 1,024 requests to a backend is too low for the demo.
        let config = self.env.state.join("contour.yaml");
        fs::write(
            &config,
            "cluster:\n  circuit-breakers:\n    max-connections: 20000\n    max-pending-requests: 20000\n    \
             max-requests: 20000\n    max-retries: 50\n",
        )?;
        let contour = self.tools.contour.join("contour");
        let mut command = self.inside(&contour);
        command
            .arg("serve")
            .arg(format!("--config-path={}", config.display()))
            .arg(format!("--kubeconfig={}", self.env.kubeconfig.display()))
            .arg(format!("--envoy-service-http-port={INGRESS_PORT}"))
            .args([
                "--ingress-class-name=contour",
                "--insecure",
                "--xds-address=127.0.0.1",
                "--xds-port=8001",
                "--http-address=127.0.0.1",
                "--http-port=8010",
                "--health-address=127.0.0.1",
                "--health-port=8003",
                "--envoy-service-http-address=0.0.0.0",
                "--stats-address=127.0.0.1",
                "--disable-leader-election",
            ]);
        self.processes.start("contour", &mut command)?;

        let folder = self.folder("envoy")?;
        let bootstrap = folder.join("bootstrap.json");
        output(
            Command::new(&contour)
                .args([
                    "bootstrap",
                    "--xds-address=127.0.0.1",
                    "--xds-port=8001",
                    "--admin-address",
                ])
                .arg(folder.join("admin.sock"))
                .arg(&bootstrap),
        )?;
        // This build of Envoy exits when its parent process exits, so a shell stays as the parent, and passes SIGTERM on.
        let mut command = self.inside("sh");
        command
            .args(["-c", "trap 'kill $!' TERM; \"$@\" & wait $!", "sh"])
            .arg(self.tools.envoy.join("envoy"));
        command
            .arg("-c")
            .arg(&bootstrap)
            .args(["--service-cluster", "seckill", "--service-node", "node1"]);
        // The shared memory for hot restarts is the same for all environments of a machine.
        command.args(["--log-level", "error", "--concurrency", "2", "--disable-hot-restart"]);
        self.processes.start("envoy", &mut command)?;
        self.processes.wait("envoy", START_TIMEOUT, || {
            output(
                Command::new("curl")
                    .args(["-sf", "-m", "2", "--unix-socket"])
                    .arg(folder.join("admin.sock"))
                    .arg("http://envoy/ready"),
            )
            .map(drop)
        })
    }
}
