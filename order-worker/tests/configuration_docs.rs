//! Compares docs/configuration.md with the program's arguments.
use clap::CommandFactory as _;
use seckill_order_worker::args::Args;
use seckill_service::args::documented;

#[test]
fn documented_configuration_is_current() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(file).expect("the page");
    let expected = documented(&page, &Args::command()).expect("a section for this program");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, &expected).expect("the page is written");
    } else {
        assert!(
            page == expected,
            "docs/configuration.md is out of date; run `UPDATE=1 cargo test --workspace --test configuration_docs`"
        );
    }
}
