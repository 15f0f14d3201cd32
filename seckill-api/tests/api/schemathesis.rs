//! Schemathesis sends generated requests to the API, and checks every answer against the OpenAPI document.
use std::path::Path;
use std::process::Stdio;

use seckill_api::metrics::AnswerLabels;
use seckill_ledger::SaleTerms;
use seckill_protocol::index::SaleState;
use tokio::process::Command;

use crate::harness::*;

/// The same seed generates the same requests. `SECKILL_TEST_SEED` replaces it.
const SEED: &str = "1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_generated_request_breaks_the_contract() {
    check_generated_requests("short", 50, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "sends 10,000 requests"]
async fn none_of_many_generated_requests_breaks_the_contract() {
    check_generated_requests("long", 2500, 10_000).await;
}

/// Each operation gets so many random requests, after those for the bounds of each parameter. Sequences of requests follow.
async fn check_generated_requests(name: &str, random: u32, at_least: u32) {
    let harness = Harness::start().await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("schemathesis-{name}"));
    std::fs::create_dir_all(&folder).expect("created");
    write_dictionaries(&harness, &folder).await;
    let config = folder.join("schemathesis.toml");
    std::fs::write(&config, include_str!("schemathesis.toml")).expect("written");
    let seed = std::env::var("SECKILL_TEST_SEED").unwrap_or_else(|_| SEED.to_owned());
    let run = Command::new(environment("SECKILL_TEST_PYTHON"))
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(&config)
        .args(["run", &format!("http://{}/openapi.json", harness.v1)])
        .args(["--seed", &seed, "--max-examples", &random.to_string()])
        .current_dir(&folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = harness.while_storing(run).await.expect("schemathesis is installed");
    let report = String::from_utf8_lossy(&output.stdout);
    println!("{report}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let generated = report.lines().find_map(|line| line.trim().split_once(" generated"));
    let generated: u32 = generated.and_then(|(number, _)| number.parse().ok()).expect("a number");
    assert!(generated >= at_least, "{generated} requests");
    let bought = AnswerLabels {
        route: "/v1/sales/{namespace}/{name}/orders".into(),
        status: 201,
        code: "ok",
    };
    let bought = harness.metrics.answers.get_or_create(&bought).get();
    assert!(bought >= 5, "{bought} purchases");
}

/// What exists: a sale in each state, orders, and keys that have bought.
async fn write_dictionaries(harness: &Harness, folder: &Path) {
    let sale = harness.sell(1_000_000, open()).await;
    let suspended = SaleTerms {
        state: SaleState::Suspended,
        ..open()
    };
    let sales = [
        &sale,
        &harness.sell(2, open()).await,
        &harness.sell(5, not_open_yet()).await,
        &harness.sell(5, over()).await,
        &harness.sell(5, suspended).await,
        &harness.announce(5, open()).await,
    ];
    let mut keys: Vec<String> = (0..1000).map(|_| key()).collect();
    let mut orders = Vec::new();
    for key in &keys[..10] {
        orders.push(harness.buy(&sale, key).await.order_no().to_owned());
    }
    keys.extend((0..1000).map(|_| format!("\"{}=\"", key())));
    write_dictionary(&folder.join("namespaces"), [&sale.namespace]);
    write_dictionary(&folder.join("sales"), sales.map(|sale| &sale.name));
    write_dictionary(&folder.join("orders"), &orders);
    write_dictionary(&folder.join("keys"), &keys);
}

/// One quoted value on each line.
fn write_dictionary<'a>(file: &Path, values: impl IntoIterator<Item = &'a String>) {
    let lines: String = values.into_iter().map(|value| format!("{value:?}\n")).collect();
    std::fs::write(file, lines).expect("written");
}
