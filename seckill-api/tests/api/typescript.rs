//! The example in TypeScript: its generated types are current, it compiles, and it buys.
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use seckill_api::metrics::AnswerLabels;
use tokio::process::Command;

use crate::harness::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/typescript");

/// A copy of the example, with its packages.
fn copy(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("typescript-{name}"));
    let _ = std::fs::remove_dir_all(&folder); // of an earlier run, perhaps
    std::fs::create_dir_all(&folder).expect("created");
    for file in ["package.json", "tsconfig.json", "seckill-api.d.ts", "buy.ts"] {
        std::fs::copy(Path::new(EXAMPLE).join(file), folder.join(file)).expect("copied");
    }
    let packages = environment("SECKILL_TEST_NODE_MODULES");
    symlink(packages, folder.join("node_modules")).expect("linked");
    folder
}

async fn run(folder: &Path, program: impl AsRef<Path>, args: &[&str]) -> Output {
    let mut command = Command::new("node");
    command.arg(program.as_ref()).args(args).current_dir(folder);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    output
        .await
        .expect("Node.js is installed; run `cargo xtask test integration`")
}

#[track_caller]
fn text_of(output: &Output) -> String {
    let (out, errors) = (&output.stdout, &output.stderr);
    let (out, errors) = (String::from_utf8_lossy(out), String::from_utf8_lossy(errors));
    assert!(output.status.success(), "{out}{errors}");
    out.into_owned()
}

#[tokio::test]
async fn the_generated_types_of_the_typescript_example_are_current() {
    let folder = copy("types");
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let generator = "node_modules/openapi-typescript/bin/cli.js";
    text_of(&run(&folder, generator, &[document, "--output", "generated.d.ts"]).await);
    let generated = std::fs::read_to_string(folder.join("generated.d.ts")).expect("generated");
    let committed = std::fs::read_to_string(folder.join("seckill-api.d.ts")).expect("the file");
    assert!(
        committed == generated,
        "examples/typescript/seckill-api.d.ts is not current; run `npm run generate` there"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_example_retries_until_it_has_bought() {
    let folder = copy("buy");
    text_of(&run(&folder, "node_modules/typescript/bin/tsc", &[]).await);
    let harness = Harness::start().await;
    // It has no index yet, so the first answers are 503.
    let sale = harness.announce(1, open()).await;
    let url = format!("http://{}", harness.v1);
    let name = format!("{}/{}", sale.namespace, sale.name);
    let args = [url.as_str(), name.as_str()];
    let buy = run(&folder, "build/buy.js", &args);
    let refused = AnswerLabels {
        route: "/v1/sales/{namespace}/{name}/orders".into(),
        status: 503,
        code: "not_ready",
    };
    let sell = async {
        let answers = &harness.metrics.answers;
        eventually("it tries once", async || answers.get_or_create(&refused).get() > 0).await;
        harness.preheat(&sale).await;
    };
    let (output, ()) = harness.while_storing(async { tokio::join!(buy, sell) }).await;
    let lines: Vec<String> = text_of(&output).lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("bought "), "{lines:?}");
    assert!(
        ["shown processing", "shown placed"].contains(&lines[1].as_str()),
        "{lines:?}"
    );
    assert_eq!(lines[2], "now cancelled");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("again after not_ready"),
        "{output:?}"
    );
}
