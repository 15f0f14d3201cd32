//! docs/integration.md, followed as it is written.
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use seckill_e2e::{Release, Scenario, repository};
use serde_json::{Value, json};

use crate::identity::KeycloakServer;

/// `cargo xtask test extended` runs them.
pub const SCENARIOS: &[Scenario] = &[(
    "the_integration_guide_works_as_written",
    the_integration_guide_works_as_written,
)];

const GUIDE: &str = "docs/integration.md";

fn the_integration_guide_works_as_written(release: &Release) -> Result<()> {
    let own = Release::prepare(release.cluster.clone())?;
    let result = follow(&own);
    result.and(own.clean_up())
}

fn follow(release: &Release) -> Result<()> {
    let keycloak = KeycloakServer::from_environment()?;
    let namespace = release.sales_namespace()?;
    let folder = prepare_folder(release, &namespace)?;
    // The guide begins where docs/installation.md ends.
    let values = folder.join("my-values.yaml").display().to_string();
    let chart = folder.join("helm/seckill").display().to_string();
    let install = [
        "install",
        &release.name,
        &chart,
        "-n",
        &release.namespace,
        "-f",
        &values,
    ];
    release
        .cluster
        .helm(&[&install[..], &["--wait", "--timeout", "5m"]].concat())?;

    let text = fs::read_to_string(repository().join(GUIDE))?;
    let value = |name: &str| -> Result<String> {
        Ok(match name {
            "KEYCLOAK" => keycloak.url.clone(),
            "KEYCLOAK_ADMIN_PASSWORD" => keycloak.password.clone(),
            "REALM" => format!("guide-{}", release.name),
            "API" => release.cluster.ingress_url.replace("127.0.0.1", HOST),
            "RELEASE" => release.name.clone(),
            "NAMESPACE" => namespace.clone(),
            _ => bail!("{GUIDE} has the variable {name}, which the test does not know"),
        })
    };
    let variables = documented_variables(&text);
    ensure!(variables.len() == 6, "{variables:?}");
    let path = std::env::var("PATH")?;
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script(&text)])
        .current_dir(&folder)
        .env_clear()
        .env(
            "PATH",
            format!("{}:{}:{path}", folder.join("programs").display(), keycloak.programs),
        )
        .env("KUBECONFIG", std::env::var("KUBECONFIG")?)
        // kcadm.sh and npm write there.
        .env("HOME", &folder);
    for name in variables {
        bash.env(name, value(name)?);
    }
    let output = bash.output()?;
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{}\n{out}\n{errors}", output.status);
    Ok(())
}

/// Of the release at the ingress.
const HOST: &str = "localhost";

/// A folder with the parts of the repository that the guide uses, and the values of the installation.
fn prepare_folder(release: &Release, namespace: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide");
    let _ = fs::remove_dir_all(&folder); // of an earlier run, perhaps
    let repository = fs::canonicalize(repository())?;
    let example = "examples/typescript";
    for subfolder in [example, "programs"] {
        fs::create_dir_all(folder.join(subfolder))?;
    }
    symlink(repository.join("helm"), folder.join("helm"))?;
    for file in ["package.json", "tsconfig.json", "seckill-api.d.ts", "buy.ts"] {
        fs::copy(repository.join(example).join(file), folder.join(example).join(file))?;
    }
    // The namespace of the tests can't reach a registry. The packages were installed outside.
    let packages = std::env::var("SECKILL_TEST_NODE_MODULES").context("SECKILL_TEST_NODE_MODULES")?;
    let npm = folder.join("programs/npm");
    fs::write(
        &npm,
        format!(
            "#!/bin/sh\n[ \"$1\" = ci ] && exec ln -s '{packages}' node_modules\n\
             PATH=${{PATH#*:}}\nexec npm \"$@\"\n"
        ),
    )?;
    fs::set_permissions(npm, fs::Permissions::from_mode(0o755))?;

    let values = fs::read_to_string(&release.cluster.values)?;
    let mut values: Value = serde_json::from_str(&values).context("the values are not JSON")?;
    values["ingress"]["host"] = json!(HOST);
    // The guide names no class. Another release of this class does not see the namespace.
    values["watchNamespaces"] = json!([namespace]);
    values["clusterIdentity"] = json!("e2e");
    fs::write(folder.join("my-values.yaml"), values.to_string())?;
    Ok(folder)
}

/// The names in the first table of the page.
fn documented_variables(text: &str) -> Vec<&str> {
    let rows = text.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .collect()
}

/// All blocks of the page for a shell, one after the other. Where a command ends with `# prints TEXT`, its output must
/// have this text.
fn script(text: &str) -> String {
    let mut script = String::new();
    let (mut inside, mut command) = (false, String::new());
    for (number, line) in (1..).zip(text.lines()) {
        match (inside, line) {
            (false, "```sh") => {
                inside = true;
                script += &format!("echo '== {GUIDE}:{number}'\n");
            }
            (true, "```") => inside = false,
            (true, line) => {
                command += line;
                command.push('\n');
                if !line.ends_with('\\') {
                    script += &checked(&command);
                    command.clear();
                }
            }
            (false, _) => {}
        }
    }
    script
}

fn checked(command: &str) -> String {
    let Some((command, expected)) = command.trim_end().rsplit_once("# prints ") else {
        return command.to_owned();
    };
    let expected = expected.replace('"', "\\\"");
    format!(
        "printed=$( {command})\necho \"$printed\"\n\
         case \"$printed\" in *\"{expected}\"*) ;; *) echo \"expected: {expected}\"; exit 1 ;; esac\n"
    )
}
