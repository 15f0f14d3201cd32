//! `cargo xtask demo`: starts the product, sends two crowds of buyers, and accounts for every unit.
//!
//! - [`programs`]: the three programs as processes of this machine, and FlashSales in a folder
//! - [`install`]: a release on a cluster; [`context`]: on a cluster that others use too
//! - [`run`]: the sales, on either
mod args;
mod context;
mod flash_sales;
mod forward;
mod install;
mod load;
mod names;
mod programs;
mod report;
mod run;
mod sales;
mod screen;
mod site;
mod stores;
mod tool;
mod watch;

pub use args::Args;
pub use install::{command_on_context, local_values};
pub use programs::{keep_small, metrics_addresses, sale_to_draw, small_sale};
pub use run::DrawnSale;

use anyhow::Result;

use forward::{Forward, Ports};
use run::{ON_CLUSTER, cases, run_sales};
use screen::Screen;
use site::ClusterSite;

use crate::programs::{QUICK, build};
use crate::scope::Scope;
use crate::up::up;
use crate::{consent, down, images, lock};

pub fn demo(args: &Args) -> Result<()> {
    if let Some(context) = &args.context {
        return demo_on_context(args, context);
    }
    let _lock = lock::take()?;
    match args.cluster {
        true => demo_on_local_cluster(args),
        false => programs::demo(args),
    }
}

/// On a cluster that is made for it.
fn demo_on_local_cluster(args: &Args) -> Result<()> {
    consent::ask(args.yes, Scope::Cluster)?;
    let env = up(Scope::Cluster)?;
    let tag = images::product(&env, &build(&QUICK)?)?;
    let site = ClusterSite::local(&env, install::local_values(&env, &tag)?)?;
    let screen = Screen::new();
    let result =
        install::install(&site, &screen).and_then(|()| run_sales(&site, &screen, cases(args.small), &ON_CLUSTER));
    save_logs(&site, &screen, &result);
    let ended = match args.keep {
        true => result,
        false => result.and(install::uninstall(&site, &screen)),
    };
    if args.keep {
        usage(&site, &screen);
        return ended;
    }
    ended.and(down::down())
}

/// The demo on an existing cluster, after the user has agreed that it is changed.
fn demo_on_context(args: &Args, context: &str) -> Result<()> {
    let screen = Screen::new();
    let ports = Ports::free()?;
    let site = context::site(args, context, ports)?;
    let cases = cases(args.small);
    let buyers = cases.iter().map(|case| case.buyers).sum();
    context::ask_consent(args, &context::plan(args, context, &site, buyers))?;
    let result = install::install(&site, &screen).and_then(|()| {
        // It ends before the release does.
        let _forward = match args.url {
            None => Some(Forward::start(&site, ports)?),
            Some(_) => None,
        };
        run_sales(&site, &screen, cases, &ON_CLUSTER)
    });
    save_logs(&site, &screen, &result);
    if args.keep {
        screen.plain("Kept. To delete it:");
        for command in context::commands_to_remove(&site) {
            screen.plain(format!("  {command}"));
        }
        return result;
    }
    result.and(install::remove(&site, &screen))
}

/// Saves the programs' logs if the demo failed.
fn save_logs(site: &ClusterSite, screen: &Screen, result: &Result<()>) {
    if result.is_ok() {
        return;
    }
    match install::save_logs(site) {
        Ok(folder) => screen.say(format!("the programs' logs: {}", folder.display())),
        Err(error) => screen.say(format!("failed to save the programs' logs: {error:#}")),
    }
}

/// Prints how to use the environment that is kept.
fn usage(site: &ClusterSite, screen: &Screen) {
    let (sales, namespace) = (&site.names.sales, &site.names.namespace);
    let lines = [
        "The environment keeps running. Use it from this folder:".to_string(),
        String::new(),
        "  cargo xtask exec -- bash                      # a shell inside its network, with kubectl, helm, mysql, redis-cli".into(),
        format!("  cargo xtask exec -- kubectl get pods -n {namespace}"),
        format!("  cargo xtask exec -- kubectl get fsale -n {sales} -w"),
        format!("  cargo xtask exec -- kubectl describe fsale -n {sales}"),
        format!("  cargo xtask exec -- curl -s {}/v1/sales", site.api_url),
        format!(
            "  cargo xtask exec -- curl -s {}/v1/sales/{sales}/NAME/orders -H \"Idempotency-Key: $(uuidgen)\" --json '{{\"quantity\":1}}'",
            site.api_url
        ),
        "  cargo xtask down                              # stop and delete it".into(),
    ];
    for line in lines {
        screen.plain(line);
    }
}
