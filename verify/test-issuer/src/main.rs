//! The program of `cargo xtask issuer`: an issuer for trying a sale whose buyers have an identity, without a login server.
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use seckill_test_issuer::{Key, TestIssuer};
use tokio::net::TcpListener;

const NAME: &str = "main";
const AUDIENCE: &str = "seckill";

/// Publishes a key, and says how a release and seckill-load use it
#[derive(Parser)]
struct Args {
    /// File of the private key; a new key is written if there is none
    #[arg(long, value_name = "FILE.pem")]
    key: PathBuf,
    /// Address that the pods of seckill-api can reach
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let key = read_or_write(&args.key)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("failed to listen on {}", args.listen))?;
    let issuer = TestIssuer::start_on(listener, &[&key]);
    print!("{}", explanation(&issuer.url, &std::path::absolute(&args.key)?));
    // Until a signal ends the program.
    std::future::pending().await
}

fn read_or_write(path: &Path) -> Result<Key> {
    let file = || path.display().to_string();
    let mut new = OpenOptions::new();
    let pem = match new.write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut written) => {
            let pem = Key::new_ec_pem();
            written.write_all(pem.as_bytes()).with_context(file)?;
            pem
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => std::fs::read_to_string(path).with_context(file)?,
        Err(error) => return Err(error).with_context(file),
    };
    Key::ec_from_pem(&pem).with_context(file)
}

fn explanation(url: &str, key: &Path) -> String {
    let key = key.display();
    format!(
        "The issuer {url} runs until you stop it. It is for tests: everyone who has the key can be any buyer.\n\n\
         Values of the chart:\n\n  \
           issuers:\n  \
           - name: {NAME}\n    \
             url: {url}\n    \
             audiences: [{AUDIENCE}]\n    \
             tierClaim: /tier\n\n\
         In the FlashSale, see examples/access.yaml:\n\n  \
           access:\n    \
             issuer: {NAME}\n\n\
         Buyers with tokens:\n\n  \
           seckill-load URL --sale NAMESPACE/NAME --token-key {key} --issuer {url} --audience {AUDIENCE}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_written_once_and_only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("seckill-test-issuer-{}.pem", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (written, read) = (read_or_write(&path), read_or_write(&path));
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(written.expect("a key").id, read.expect("a key").id);
        assert_eq!(mode & 0o777, 0o600);
    }
}
