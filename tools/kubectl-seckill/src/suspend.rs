//! `suspend` and `resume`.
use anyhow::Result;
use seckill_crds::{FlashSale, SUSPEND_ANNOTATION};

use crate::kubectl::{Kubectl, words};

/// Suspends by the annotation, which a GitOps tool leaves as it is. Resuming clears `spec.suspend` too.
pub fn set(kubectl: &Kubectl, sale: &str, suspend: bool) -> Result<()> {
    let namespace = kubectl.one_namespace_flags()?;
    let now: FlashSale = kubectl.object("flashsale", sale)?;
    let state = if suspend { "suspended" } else { "resumed" };
    if now.is_suspended() == suspend {
        println!("{sale} is {state} already");
        return Ok(());
    }
    let patch = match suspend {
        true => format!(r#"{{"metadata":{{"annotations":{{"{SUSPEND_ANNOTATION}":"true"}}}}}}"#),
        false => {
            format!(r#"{{"metadata":{{"annotations":{{"{SUSPEND_ANNOTATION}":null}}}},"spec":{{"suspend":false}}}}"#)
        }
    };
    let args = ["patch", "flashsale", sale, "--type=merge", "-p", &patch];
    kubectl.output(&[&args[..], &words(&namespace)].concat())?;
    let flags: String = namespace.iter().map(|flag| format!(" {flag}")).collect();
    println!("{sale} {state}; `kubectl seckill status {sale}{flags}` shows when the servers have it");
    Ok(())
}
