//! `seckill-load`: tests how an installation handles a crowd, before the crowd comes.
mod args;
mod output;
mod plot;
mod view;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use seckill_load::{SaleTimes, Target, check, run};

use args::Args;
use output::{Output, Report};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run_load(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("seckill-load: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether every check passed.
async fn run_load(args: &Args) -> Result<bool> {
    let target = Target::resolve_with_ca(&args.target, &args.headers, args.ca_file.as_deref()).await?;
    anyhow::ensure!(
        target.is_loopback() || args.i_own_this_target,
        "{target} is not on this machine. Load on somebody else's service is an attack; if the installation is yours, \
         confirm it with --i-own-this-target"
    );
    target.check_certificate().await?;
    let crowd = args.crowd()?;
    let tokens = match &crowd {
        Some(crowd) => crowd.tokens(),
        None => args.tokens()?,
    };
    let plan = args.plan(target, tokens)?;
    let signed = match crowd {
        Some(crowd) => Some((crowd, SaleTimes::read(&plan).await?)),
        None => None,
    };
    let output = Output::new(args.output, plan.buyers.into(), args.units, plan.route.quantity());
    output.begin(&plan);
    let outcome = run(plan.clone(), |progress| output.progress(progress)).await?;

    let mut checks = check::answers(&plan, &outcome, args.units);
    if let Some((crowd, times)) = &signed {
        checks.extend(check::crowd(&plan, &outcome, crowd, times, args.limit_per_buyer));
    }
    if args.check_orders > 0 && !outcome.wins.is_empty() {
        checks.push(check::orders(&plan, &outcome, args.check_orders).await);
    }
    if let Some(path) = &args.orders_file {
        let numbers: Vec<&str> = outcome.wins.iter().map(|win| win.order_no.as_str()).collect();
        std::fs::write(path, numbers.join("\n")).with_context(|| format!("--orders-file {}", path.display()))?;
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&outcome)).with_context(|| format!("--plot {}", path.display()))?;
    }
    let passed = checks.iter().all(|check| check.passed);
    output.end(&Report::new(&plan, &outcome, checks));
    Ok(passed)
}
