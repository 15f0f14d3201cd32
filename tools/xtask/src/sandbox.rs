//! The network namespace of the environment. It keeps the machine's own ports and firewall rules unchanged. If no
//! namespace can be created, the machine's own network is used, with a warning.
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::command::output;

/// The name of the namespace of the default state folder.
pub const NAME: &str = "seckill";
/// The node's address. Pods reach Redis, Kafka and MySQL at this address.
pub const NODE_ADDRESS: &str = "10.99.0.1";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    pub namespace: bool,
    /// The name of the namespace.
    #[serde(default = "default_name")]
    name: String,
}

fn default_name() -> String {
    NAME.into()
}

impl Sandbox {
    /// The sandbox of a state folder. Each has a namespace of its own, so environments run side by side.
    pub fn of(state: &Path, default_state: &Path) -> Self {
        let name = if state == default_state {
            default_name()
        } else {
            // The name is a file name.
            NAME.to_owned() + &state.to_string_lossy().replace('/', "-")
        };
        Sandbox { namespace: true, name }
    }

    fn file(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Creates the namespace unless it exists.
    pub fn create(self) -> Result<Self> {
        let sandbox = self;
        if !Path::new(&sandbox.file()).exists() {
            if let Err(error) = output(Command::new("ip").args(["netns", "add", &sandbox.name])) {
                eprintln!("  ! failed to create a network namespace, so the machine's own network is used: {error:#}");
                return Ok(Sandbox {
                    namespace: false,
                    ..sandbox
                });
            }
            let node = format!("{NODE_ADDRESS}/24");
            // A bridge without ports serves as the node's interface, because not every kernel has dummy interfaces.
            for line in [
                "ip link set lo up",
                "ip link add node0 type bridge",
                &format!("ip addr add {node} dev node0"),
                "ip link set node0 up",
                "ip route add default dev node0",
                "sysctl -qw net.ipv4.ip_forward=1",
            ] {
                let mut words = line.split(' ');
                let program = words.next().unwrap_or_default();
                output(sandbox.command(program).args(words))?;
            }
        }
        Ok(sandbox)
    }

    /// The address of the node inside the namespace.
    pub fn node_address(&self) -> &'static str {
        if self.namespace { NODE_ADDRESS } else { "127.0.0.1" }
    }

    /// A command that runs inside the namespace. (`ip netns exec` would hide /sys/fs/cgroup, which the kubelet needs.)
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        if self.namespace {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", self.file())).arg("--").arg(program);
            command
        } else {
            Command::new(program)
        }
    }

    pub fn remove(&self) -> Result<()> {
        if Path::new(&self.file()).exists() {
            output(Command::new("ip").args(["netns", "del", &self.name]))?;
        }
        Ok(())
    }
}
