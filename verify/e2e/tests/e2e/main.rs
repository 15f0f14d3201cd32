//! The scenarios, one after another on one release. `cargo test -p e2e -- NAME` plays those whose name contains NAME.
mod install;
mod manifests;
mod release;
mod sales;

use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Trial};
use seckill_e2e::{Cluster, Release};

/// A scenario: what it tells, and how.
type Scenario = (&'static str, fn(&Release) -> anyhow::Result<()>);

/// Installed when the first scenario needs it: with a filter that leaves none, nothing is.
static RELEASE: OnceLock<Result<Release, String>> = OnceLock::new();

fn release() -> Result<&'static Release, String> {
    let install = || Cluster::from_environment().and_then(Release::install);
    let release =
        RELEASE.get_or_init(|| install().map_err(|error| format!("the release can't be installed: {error:#}")));
    release.as_ref().map_err(Clone::clone)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the release, and some of them take parts of it away.
    arguments.test_threads = Some(1);
    // In this order: the last ones take the release away.
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
    let conclusion = libtest_mimic::run(&arguments, scenarios.into_iter().map(trial).collect());
    if let Some(Ok(release)) = RELEASE.get()
        && let Err(error) = release.clean_up()
    {
        eprintln!("e2e: something of {} is left: {error:#}", release.name);
    }
    conclusion.exit_code()
}
