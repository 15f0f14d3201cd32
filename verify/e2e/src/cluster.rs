//! kubectl and helm.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The cluster of the environment.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubectl: PathBuf,
    helm: PathBuf,
    /// The user whom kubectl and helm impersonate; None is the user of the kubeconfig.
    user: Option<String>,
    pub ingress_url: String,
    pub values: PathBuf,
}

impl Cluster {
    pub fn from_environment() -> Result<Self> {
        let needed =
            |name: &str| std::env::var(name).with_context(|| format!("{name} is not set; see verify/e2e/src/lib.rs"));
        let program = |name: &str, default: &str| std::env::var_os(name).map_or(default.into(), PathBuf::from);
        needed("KUBECONFIG")?;
        Ok(Cluster {
            kubectl: program("SECKILL_KUBECTL", "kubectl"),
            helm: program("SECKILL_HELM", "helm"),
            user: None,
            ingress_url: needed("SECKILL_INGRESS_URL")?.trim_end_matches('/').into(),
            values: needed("SECKILL_HELM_VALUES")?.into(),
        })
    }

    /// The same cluster, as a user who may have fewer rights.
    pub fn as_user(&self, user: &str) -> Self {
        Cluster {
            user: Some(user.into()),
            ..self.clone()
        }
    }

    /// Returns the output of kubectl; an error has its message.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run(&self.kubectl, "--as", args, None)
    }

    pub fn helm(&self, args: &[&str]) -> Result<String> {
        self.run(&self.helm, "--kube-as-user", args, None)
    }

    pub fn apply(&self, object: &Value) -> Result<String> {
        let apply = ["apply", "-f", "-"];
        self.run(&self.kubectl, "--as", &apply, Some(&object.to_string()))
    }

    fn run(&self, program: &Path, user_flag: &str, args: &[&str], input: Option<&str>) -> Result<String> {
        let user = self.user.as_ref().map(|user| format!("{user_flag}={user}"));
        let args: Vec<_> = args.iter().copied().chain(user.as_deref()).collect();
        run(program, &args, input)
    }

    /// Returns the message by which the API server refuses the object; an error if it accepts the object.
    pub fn expect_refusal(&self, object: &Value) -> Result<String> {
        match self.apply(object) {
            Ok(_) => bail!("accepted, but should have been refused: {object}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Returns the object, None if it does not exist.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let text = self.kubectl(&["get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "json"])?;
        match text.trim() {
            "" => Ok(None),
            text => Ok(Some(serde_json::from_str(text)?)),
        }
    }

    pub fn create_namespace(&self, name: &str, labels: Value) -> Result<()> {
        let namespace = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        });
        self.apply(&namespace).map(|_| ())
    }
}

/// Repeats an attempt until it returns a value. After an error it tries again.
pub fn wait_until<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        let result = attempt();
        if let Ok(Some(value)) = result {
            return Ok(value);
        }
        if started.elapsed() > limit {
            let why = result.err().map(|e| format!(": {e:#}")).unwrap_or_default();
            bail!("waited {limit:?} for {what}{why}");
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

fn run(program: &Path, args: &[&str], input: Option<&str>) -> Result<String> {
    let what = || format!("{} {}", program.display(), args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(what)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).with_context(what)?;
    }
    let output = child.wait_with_output().with_context(what)?;
    if !output.status.success() {
        bail!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
