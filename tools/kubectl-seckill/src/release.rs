//! The pods of a release.
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;

use crate::kubectl::Kubectl;

const COMPONENT: &str = "app.kubernetes.io/component";
/// The label with the name of the Helm release.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// A program of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Operator,
    Api,
    Worker,
}

impl Program {
    pub const ALL: [Program; 3] = [Program::Operator, Program::Api, Program::Worker];

    /// As in the labels of the chart.
    pub fn component(self) -> &'static str {
        match self {
            Program::Operator => "operator",
            Program::Api => "api",
            Program::Worker => "worker",
        }
    }

    /// In the image.
    fn path(self) -> &'static str {
        match self {
            Program::Operator => "/usr/local/bin/operator",
            Program::Api => "/usr/local/bin/seckill-api",
            Program::Worker => "/usr/local/bin/order-worker",
        }
    }
}

/// A pod of a program.
pub struct ProgramPod {
    pub program: Program,
    pub namespace: String,
    pub name: String,
    /// The container of the program. A mesh may have added others.
    pub container: String,
    /// Neither ended nor about to end.
    pub running: bool,
    pub ready: bool,
    pub pod: Pod,
}

impl ProgramPod {
    /// None for pods of other software, which may have the same labels.
    fn of(pod: Pod) -> Option<Self> {
        let (program, container) = pod.spec.as_ref()?.containers.iter().find_map(|container| {
            let path = container.command.as_ref()?.first()?;
            let program = Program::ALL.into_iter().find(|program| program.path() == path)?;
            Some((program, container.name.clone()))
        })?;
        let labels = pod.metadata.labels.as_ref()?;
        // A Job of the chart runs the same programs.
        (labels.get(COMPONENT).map(String::as_str) == Some(program.component())).then_some(())?;
        let status = pod.status.as_ref()?;
        let conditions = status.conditions.iter().flatten();
        let ready = conditions
            .filter(|condition| condition.type_ == "Ready")
            .any(|condition| condition.status == "True");
        let running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
        Some(ProgramPod {
            program,
            container,
            running,
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            ready,
            pod,
        })
    }

    /// The name of the Helm release.
    pub fn release(&self) -> &str {
        let labels = self.pod.metadata.labels.as_ref();
        let instance = labels.and_then(|labels| labels.get(INSTANCE));
        instance.map_or("", String::as_str)
    }

    /// What the program exports.
    pub fn metrics(&self, kubectl: &Kubectl) -> Result<String> {
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let admin = ports.into_iter().find(|port| port.name.as_deref() == Some("admin"));
        let port = admin.context("the pod has no port named admin")?.container_port;
        let (namespace, name) = (&self.namespace, &self.name);
        kubectl.output(&[
            "get",
            "--raw",
            &format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics"),
        ])
    }
}

/// The pods of the release, or of all releases of the cluster.
pub fn pods(kubectl: &Kubectl) -> Result<Vec<ProgramPod>> {
    let components = Program::ALL.map(Program::component).join(",");
    let selector = format!("{COMPONENT} in ({components})");
    let namespace = match &kubectl.scope.release_namespace {
        Some(namespace) => format!("--namespace={namespace}"),
        None => "--all-namespaces".into(),
    };
    let pods: Vec<Pod> = kubectl
        .list_with(&["get", "pods", "-l", &selector, &namespace])
        .context("failed to find the release; if you may not list pods everywhere, use --release-namespace")?;
    let mut pods: Vec<ProgramPod> = pods.into_iter().filter_map(ProgramPod::of).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    ensure!(
        !pods.is_empty(),
        "no release found; --release-namespace names its namespace"
    );
    Ok(pods)
}

/// Runs a subcommand of a program in one of its pods.
pub fn run_in(kubectl: &Kubectl, program: Program, words: &[&str]) -> Result<()> {
    let of_program = pods(kubectl)?.into_iter();
    let of_program = of_program.filter(|pod| pod.program == program && pod.running);
    let mut of_program: Vec<ProgramPod> = of_program.collect();
    // A pod that is not ready may be able to say why.
    of_program.sort_by_key(|pod| !pod.ready);
    let namespaces: Vec<&str> = of_program.iter().map(|pod| pod.namespace.as_str()).collect();
    let Some(pod) = of_program.first() else {
        bail!("no running pod of {} found", program.component());
    };
    ensure!(
        namespaces.iter().all(|namespace| *namespace == pod.namespace),
        "there are several releases; --release-namespace names one of {}",
        distinct(&namespaces).join(", ")
    );
    let exec = [
        "exec",
        "-n",
        &pod.namespace,
        &pod.name,
        "-c",
        &pod.container,
        "--",
        program.path(),
    ];
    kubectl.run(&[&exec[..], words].concat())
}

fn distinct<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    names
}
