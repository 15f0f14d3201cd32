//! Compares docs/configuration.md with the program's arguments.
use clap::CommandFactory as _;
use seckill_api::args::Args;
use seckill_api::smoke_test::SmokeTestArgs;
use seckill_service::args::check_documentation;

#[test]
fn documented_configuration_is_current() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    for command in [Args::command(), SmokeTestArgs::command()] {
        check_documentation(file, &command).expect("docs/configuration.md is current");
    }
}
