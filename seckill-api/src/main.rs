//! The HTTP API that buyers buy from.
use std::ffi::OsString;

use seckill_api::args::Args;
use seckill_api::run;
use seckill_api::smoke_test::{self, SmokeTestArgs};
use seckill_service::{Shutdown, open_files, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "smoke-test") {
        let program = OsString::from("seckill-api smoke-test");
        let args: SmokeTestArgs = seckill_service::args::parse_words(std::iter::once(program).chain(words));
        return smoke_test::run(args).await;
    }
    let args: Args = seckill_service::parse();
    telemetry::init(&args.telemetry, env!("CARGO_PKG_NAME"));
    open_files::raise_limit();
    run::run_until_shutdown(args, Shutdown::on_signal()).await
}
