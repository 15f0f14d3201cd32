//! `kubectl port-forward` to the API, wherever it runs.
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::site::ClusterSite;
use super::tool::Tool;

/// Time limit for the API to answer through the port forward.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The ports on this machine that lead to the API and to its routes of the old demo.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub api: u16,
    pub old_routes: u16,
}

impl Ports {
    pub fn free() -> Result<Self> {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").context("no free port");
        // Both are bound at the same time, so that they differ.
        let (api, old_routes) = (listen()?, listen()?);
        Ok(Ports {
            api: api.local_addr()?.port(),
            old_routes: old_routes.local_addr()?.port(),
        })
    }
}

/// Forwards to a pod of the Service until it is dropped. When the pod goes away, it forwards to another one.
///
/// `kubectl port-forward service/NAME` would lead to one pod for ever: after that pod is gone, it accepts connections and
/// never answers them.
pub struct Forward {
    ending: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    pub fn start(site: &ClusterSite, ports: Ports) -> Result<Self> {
        let kubectl = site.kubectl.with(["-n", &site.names.namespace]);
        let selector = site.names.api_selector();
        let mut to_pod = ForwardToPod::start(&kubectl, &selector, ports)?;
        let (ending, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(CHECK_INTERVAL) {
                if to_pod.has_ended()
                    && let Ok(next) = ForwardToPod::start(&kubectl, &selector, ports)
                {
                    to_pod = next;
                }
            }
        });
        let forward = Forward {
            ending: Some(ending),
            thread: Some(thread),
        };
        forward.wait_until_ready(site)?;
        Ok(forward)
    }

    fn wait_until_ready(&self, site: &ClusterSite) -> Result<()> {
        let url = format!("{}/v1/sales", site.api_url);
        let started = Instant::now();
        while let Err(error) = site.curl.text(&["-sf", "-m", "2", &url]) {
            ensure!(
                started.elapsed() < FORWARD_TIMEOUT,
                "the API did not answer through kubectl port-forward: {error:#}"
            );
            thread::sleep(CHECK_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.ending.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// `kubectl port-forward` to one pod. It is killed when this is dropped, or has ended.
struct ForwardToPod {
    forward: Child,
    /// It exits when the pod is gone.
    pod: Child,
}

impl ForwardToPod {
    fn start(kubectl: &Tool, selector: &str, ports: Ports) -> Result<Self> {
        let pods = kubectl.text(&["get", "pods", "-l", selector, "-o", "json"])?;
        let pod = ready_pod(&serde_json::from_str(&pods)?).context("no pod of the API is ready")?;
        let spawn = |args: &[&str]| {
            // The buyers report what fails.
            let mut command = kubectl.command(args);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().with_context(|| kubectl.line(args))
        };
        let (api, old_routes) = (format!("{}:8080", ports.api), format!("{}:8888", ports.old_routes));
        Ok(ForwardToPod {
            pod: spawn(&["wait", "--for=delete", &pod, "--timeout=24h"])?,
            forward: spawn(&["port-forward", &pod, &api, &old_routes])?,
        })
    }

    /// Whether the pod is gone, or the forward has failed. The ports are free then.
    fn has_ended(&mut self) -> bool {
        let exited = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        let ended = exited(&mut self.pod) || exited(&mut self.forward);
        if ended {
            self.kill();
        }
        ended
    }

    fn kill(&mut self) {
        for child in [&mut self.forward, &mut self.pod] {
            // It may have exited.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Drop for ForwardToPod {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `pod/NAME` of a pod that is ready and stays.
fn ready_pod(pods: &Value) -> Option<String> {
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pods = pods["items"].as_array().into_iter().flatten();
    let pod = pods.filter(stays).find(is_ready)?;
    Some(format!("pod/{}", pod["metadata"]["name"].as_str()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::demo::flash_sales::FlashSales;
    use crate::demo::names::Names;
    use crate::demo::site::Site;
    use crate::demo::stores::Stores;

    /// A site whose tools are these programs.
    fn site(kubectl: Tool, curl: Tool) -> ClusterSite {
        ClusterSite {
            site: Site {
                repository: "/".into(),
                state: "/".into(),
                flash_sales: FlashSales::Cluster(kubectl.clone()),
                curl,
                load: Tool::new(["false"]),
                stores: Stores {
                    mysql: Tool::new(["false"]),
                    redis: Tool::new(["false"]),
                },
                names: Names::generated(),
                api_url: String::new(),
                old_routes_url: String::new(),
                known_versions: Default::default(),
            },
            kubectl,
            helm: Tool::new(["false"]),
            values: "/".into(),
            crds: crate::demo::site::Crds::Existing,
            creates_dependencies: false,
        }
    }

    #[test]
    fn a_forward_follows_the_service_to_another_pod() {
        let folder = std::env::temp_dir().join(Names::generated().release);
        fs::create_dir(&folder).expect("a folder");
        let starts = folder.join("starts");
        // Each pod goes away at once. A forward to it would stay.
        let script = format!(
            r#"case "$3" in
            get) echo '{{"items":[{{"metadata":{{"name":"one"}},"status":{{"conditions":[{{"type":"Ready","status":"True"}}]}}}}]}}';;
            port-forward) echo "$4" >>{}; exec sleep 600;;
            esac"#,
            starts.display()
        );
        let kubectl = Tool::new(["sh", "-c", &script, "kubectl"]);
        let ports = Ports::free().expect("free ports");
        let forward = Forward::start(&site(kubectl, Tool::new(["true"])), ports).expect("starts");
        let text = || fs::read_to_string(&starts).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(60);
        while text().lines().count() < 3 {
            assert!(Instant::now() < deadline, "it was not started again");
            thread::sleep(Duration::from_millis(10));
        }
        drop(forward);
        assert!(text().lines().all(|pod| pod == "pod/one"), "{}", text());
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_pod_that_ends_or_starts_is_not_chosen() {
        let pod = |name: &str, ready: &str, deleted: Option<&str>| {
            json!({
                "metadata": {"name": name, "deletionTimestamp": deleted},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let (ends, starts) = (pod("a", "True", Some("2030-01-01T00:00:00Z")), pod("b", "False", None));
        assert_eq!(ready_pod(&json!({"items": [ends, starts]})), None);
        let stays = pod("c", "True", None);
        assert_eq!(
            ready_pod(&json!({"items": [ends, starts, stays]})),
            Some("pod/c".into())
        );
    }
}
