//! `cargo xtask issuer`: builds and runs the issuer of `verify/test-issuer`, for trying a sale whose buyers have an identity.
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::cargo::cargo;
use crate::command::run;
use crate::environment::Environment;
use crate::workspace;

const PORT: u16 = 9400;

#[derive(clap::Args)]
pub struct Args {
    /// File of the issuer's private key; a new key is written if there is none [default: issuer.pem in the folder of builds]
    #[arg(long, value_name = "FILE.pem")]
    key: Option<PathBuf>,
    /// Address that the pods of seckill-api can reach [default: the node of the environment if it is running, else
    /// 127.0.0.1:9400]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

pub fn issuer(args: &Args) -> Result<()> {
    cargo(&["build", "--quiet", "-p", "seckill-test-issuer"])?;
    let built = workspace::target_folder()?;
    let program = built.join("debug/test-issuer");
    let key = args.key.clone().unwrap_or_else(|| built.join("issuer.pem"));
    let (mut command, address) = match Environment::load() {
        Ok(env) => (env.command(&program), env.node_address.clone()),
        Err(_) => (Command::new(&program), "127.0.0.1".into()),
    };
    let listen = args.listen.clone().unwrap_or_else(|| format!("{address}:{PORT}"));
    run(command.arg("--key").arg(key).args(["--listen", &listen]))
}
