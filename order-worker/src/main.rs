//! The order-worker: folds the order log into MySQL, and migrates its schema.
use seckill_order_worker::args::{Args, Command};
use seckill_order_worker::{migrate, quarantine, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Run(args) => run::run(args).await,
        Command::Migrate(args) => migrate::migrate(args).await,
        Command::Quarantine(args) => quarantine::quarantine(args).await,
    }
}
