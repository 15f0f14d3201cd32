//! The operator: runs flash sales on time.
use seckill_operator::args::{Args, Command};
use seckill_operator::{check, emergency_stop, format, manifest, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match seckill_service::parse::<Args>().command {
        Command::Run(args) => run::run(*args).await?,
        Command::Check(args) => {
            let report = check::check(&args).await;
            print!("{report}");
            let found = report.problems.len();
            anyhow::ensure!(
                found == 0,
                "{found} {}",
                if found == 1 { "problem" } else { "problems" }
            );
        }
        Command::CheckFormat(args) => format::check_format(args).await?,
        Command::Suspend(args) => println!("{}", emergency_stop::set(&args, true).await?),
        Command::Resume(args) => println!("{}", emergency_stop::set(&args, false).await?),
        Command::Crd => print!("{}", manifest::crd()?),
    }
    Ok(())
}
