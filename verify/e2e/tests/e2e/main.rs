//! The scenarios, one after the other on one release. `cargo test -p seckill-e2e -- NAME` runs those whose name contains
//! NAME.
mod demo;
mod install;
mod manifests;
mod release;
mod sales;

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

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The scenarios share the release, and some of them remove parts of it.
    arguments.test_threads = Some(1);
    // The last scenarios remove the release.
    let scenarios = [
        manifests::SCENARIOS,
        sales::SCENARIOS,
        install::SCENARIOS,
        release::SCENARIOS,
    ]
    .concat();
    let trial = |(name, scenario): Scenario| {
        Trial::test(name, move || {
            scenario(release()?).map_err(|error| format!("{error:#}").into())
        })
    };
    let slow = demo::SCENARIOS.iter().copied().map(trial);
    let slow = slow.map(|trial| trial.with_ignored_flag(true));
    let trials = slow.chain(scenarios.into_iter().map(trial)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Ok(release)) = RELEASE.get()
        && let Err(error) = release.clean_up()
    {
        eprintln!("e2e: failed to clean up {}: {error:#}", release.name);
    }
    conclusion.exit_code()
}
