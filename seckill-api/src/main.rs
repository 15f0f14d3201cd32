//! The HTTP API that buyers buy from.
use seckill_api::{args::Args, run};
use seckill_service::{Shutdown, open_files, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Args = seckill_service::parse();
    telemetry::init(&args.telemetry, env!("CARGO_PKG_NAME"));
    open_files::raise_limit();
    run::run_until_shutdown(args, Shutdown::on_signal()).await
}
