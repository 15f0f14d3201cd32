//! Asks before this machine is changed.
use std::fs;
use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};

use crate::scope::Scope;
use crate::{cache, tools};

/// Says what will be installed and changed, and asks once if a person is at the terminal.
pub fn ask(yes: bool, scope: Scope) -> Result<()> {
    let agreed = cache::folder()?.join(match scope {
        Scope::Stores => "agreed-stores",
        Scope::Servers | Scope::Cluster => "agreed",
    });
    if yes || agreed.exists() || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprintln!(
        "{}\nUse a disposable machine. State and cache: {}",
        tools::consent_text(scope),
        cache::folder()?.display()
    );
    eprint!("Continue? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("cancelled; nothing was changed");
    }
    fs::create_dir_all(cache::folder()?)?;
    Ok(fs::write(agreed, "")?)
}
