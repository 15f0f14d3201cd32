//! Compares docs/configuration.md with the program's arguments.
use clap::CommandFactory as _;
use seckill_operator::args::Args;
use seckill_service::args::check_documentation;

#[test]
fn documented_configuration_is_current() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    check_documentation(file, &Args::command()).expect("docs/configuration.md is current");
}
