//! The scenarios, one after the other on one release. `cargo test -p seckill-e2e -- NAME` runs those whose name or kind
//! contains NAME.
mod demo;
mod guide;
mod identity;
mod install;
mod legacy;
mod manifests;
mod open_sale;
mod plugin;
mod release;
mod rolling;
mod rotation;
mod sales;
mod secured;
mod traces;

use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Trial};
use seckill_e2e::{Cluster, Release, Scenario};

/// Installed when the first scenario needs it. A filter without matches installs nothing.
static RELEASE: OnceLock<Result<Release, String>> = OnceLock::new();

fn release() -> Result<&'static Release, String> {
    let install = || Cluster::from_environment().and_then(Release::install);
    let release =
        RELEASE.get_or_init(|| install().map_err(|error| format!("failed to install the release: {error:#}")));
    release.as_ref().map_err(Clone::clone)
}

fn of(kind: &str, scenarios: &'static [Scenario]) -> Vec<Trial> {
    let trial = |&(name, scenario): &'static Scenario| {
        Trial::test(name, move || {
            scenario(release()?).map_err(|error| format!("{error:#}").into())
        })
        .with_kind(kind)
    };
    scenarios.iter().map(trial).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The scenarios share the release, and some of them remove parts of it.
    arguments.test_threads = Some(1);
    let slow = [
        of("demo", demo::SCENARIOS),
        of("guide", guide::SCENARIOS),
        of("legacy", legacy::SLOW_SCENARIOS),
        identity::with_keycloak(release),
    ];
    let slow = slow.into_iter().flatten().map(|trial| trial.with_ignored_flag(true));
    // The last scenarios remove the release.
    let usual = [
        of("manifests", manifests::SCENARIOS),
        of("sales", sales::SCENARIOS),
        of("legacy", legacy::SCENARIOS),
        identity::with_test_issuer(release),
        of("plugin", plugin::SCENARIOS),
        of("traces", traces::SCENARIOS),
        of("secured", secured::SCENARIOS),
        of("rotation", rotation::SCENARIOS),
        of("rolling", rolling::SCENARIOS),
        of("install", install::SCENARIOS),
        of("release", release::SCENARIOS),
    ];
    let trials = slow.chain(usual.into_iter().flatten()).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Ok(release)) = RELEASE.get()
        && let Err(error) = release.clean_up()
    {
        eprintln!("e2e: failed to clean up {}: {error:#}", release.name);
    }
    conclusion.exit_code()
}
