//! Runs kubectl.
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// Which cluster, and where in it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Scope {
    /// The namespace of the sales; without it, that of the context
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Sales of all namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The namespace of the release; without it, all namespaces are searched
    #[arg(long, global = true)]
    pub release_namespace: Option<String>,
    /// The context of the kubeconfig
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig
    #[arg(long, global = true)]
    pub kubeconfig: Option<String>,
}

const REQUEST_TIMEOUT: &str = "--request-timeout=10s";

pub struct Kubectl {
    pub scope: Scope,
}

/// A list as kubectl prints it.
#[derive(serde::Deserialize)]
struct List<T> {
    items: Vec<T>,
}

impl Kubectl {
    pub fn new(scope: Scope) -> Self {
        Kubectl { scope }
    }

    /// A command for the cluster of the user. `KUBECTL` names another program than the kubectl on the PATH.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()));
        let flags = [
            ("--context", &self.scope.context),
            ("--kubeconfig", &self.scope.kubeconfig),
        ];
        for (flag, value) in flags {
            command.args(value.iter().map(|value| format!("{flag}={value}")));
        }
        // A node that does not answer must not hold up the others.
        if matches!(args.first(), Some(&"get" | &"version")) {
            command.arg(REQUEST_TIMEOUT);
        }
        command.args(args);
        command
    }

    /// Returns what kubectl prints. The error is what it says.
    pub fn output(&self, args: &[&str]) -> Result<String> {
        let output = self
            .command(args)
            .stdin(Stdio::null())
            .output()
            .context("failed to run kubectl")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs kubectl in the terminal of the user.
    pub fn run(&self, args: &[&str]) -> Result<()> {
        let status = self.command(args).status().context("failed to run kubectl")?;
        match status.success() {
            true => Ok(()),
            false => bail!("kubectl {} failed with {status}", args.join(" ")),
        }
    }

    /// The objects of a kind, in the namespaces of the user.
    pub fn list<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>> {
        let namespace = self.namespace_flags();
        self.list_with(&[&["get", kind], &words(&namespace)[..]].concat())
    }

    /// The objects that a command of kubectl lists.
    pub fn list_with<T: DeserializeOwned>(&self, args: &[&str]) -> Result<Vec<T>> {
        let text = self.output(&[args, &["-o", "json"]].concat())?;
        let list: List<T> = serde_json::from_str(&text).with_context(|| format!("kubectl {}", args.join(" ")))?;
        Ok(list.items)
    }

    pub fn object<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Result<T> {
        let namespace = self.one_namespace_flags()?;
        let text = self.output(&[&["get", kind, name, "-o", "json"], &words(&namespace)[..]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{kind} {name}"))
    }

    pub fn namespace_flags(&self) -> Vec<String> {
        match (&self.scope.namespace, self.scope.all_namespaces) {
            (_, true) => vec!["--all-namespaces".into()],
            (Some(namespace), _) => vec![format!("--namespace={namespace}")],
            (None, _) => Vec::new(),
        }
    }

    /// For a command about one sale.
    pub fn one_namespace_flags(&self) -> Result<Vec<String>> {
        if self.scope.all_namespaces {
            bail!("a sale is in one namespace: use --namespace instead of --all-namespaces");
        }
        Ok(self.namespace_flags())
    }
}

pub fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}
