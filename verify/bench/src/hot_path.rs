//! The instructions that each purchase takes in the code of this project, counted by valgrind. Unlike times, they are the
//! same on a busy machine, so a test can compare them with a budget. A part that needs more fails. If a part needs much
//! less, lower its budget.
//!
//! Not counted: the kernel, tokio, hyper, librdkafka, Redis, Kafka and MySQL. The scenarios measure those.
use std::hint::black_box;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::IntoResponse as _;
use libtest_mimic::{Arguments, Failed, Trial};
use seckill_api::idempotency_key::{Caller, IDEMPOTENCY_KEY};
use seckill_api::problem::Problem;
use seckill_protocol::index::Request;
use seckill_protocol::{Batch, Buyer, Epoch, KeyHash, Order, OrderId, OrderNoKeys, Record, SaleId};
use seckill_stock::purchase::ScriptCall;

/// Purchases in a call of the script, and orders in a record.
const BATCH: u64 = 64;
/// Repetitions in the shorter of two runs. The other run is twice as long, so the difference excludes the start.
const REPETITIONS: u64 = 200;

struct Part {
    name: &'static str,
    /// Instructions for one purchase.
    budget: u64,
    run: fn(u64),
}

const PARTS: [Part; 6] = [
    Part {
        name: "who-buys",
        // Most of it is two SHA-256 in software: valgrind does not know the instructions that processors have for them.
        budget: 14_000,
        run: who_buys,
    },
    Part {
        name: "script-call",
        budget: 2_150,
        run: script_call,
    },
    Part {
        name: "record-encode",
        budget: 1_400,
        run: record_encode,
    },
    Part {
        name: "record-decode",
        budget: 2_350,
        run: record_decode,
    },
    Part {
        name: "order-number",
        budget: 1_020,
        run: order_number,
    },
    Part {
        name: "refusal",
        budget: 5_600,
        run: refusal,
    },
];

/// Reads and hashes the header.
fn who_buys(times: u64) {
    let mut headers = HeaderMap::new();
    headers.insert(
        IDEMPOTENCY_KEY,
        HeaderValue::from_static("8e03978e-40d5-43e8-bc93-6894a57f9324"),
    );
    for _ in 0..times * BATCH {
        let _ = black_box(Caller::from_headers(black_box(&headers)));
    }
}

fn requests() -> Vec<Request> {
    let request = |n| Request {
        buyer: Buyer::anonymous(&format!("buyer {n}")),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(&format!("key {n}")),
    };
    (0..BATCH).map(request).collect()
}

/// Encodes the call to Redis, and decodes the decisions from its reply.
fn script_call(times: u64) {
    let requests = requests();
    let call = ScriptCall {
        sale: SaleId(7),
        epoch: Epoch(12),
        requests: &requests,
    };
    let reply = ["ok".to_owned(), "1".to_owned(), vec!["s"; requests.len()].join(",")];
    for _ in 0..times {
        let mut command = redis::cmd("EVALSHA");
        black_box(command.arg(black_box(&call)).get_packed_command());
        black_box(call.decided(black_box(&reply)));
    }
}

fn record() -> Record {
    let order = |request: Request| Order {
        buyer: request.buyer,
        quantity: request.quantity,
        tier: request.tier,
        key: request.key,
    };
    Record::Batch(Batch {
        sale: SaleId(7),
        epoch: Epoch(12),
        first: 1,
        orders: requests().into_iter().map(order).collect(),
    })
}

fn record_encode(times: u64) {
    let record = record();
    for _ in 0..times {
        black_box(black_box(&record).encode());
    }
}

/// Each record is decoded twice: for the read-back, and in order-worker.
fn record_decode(times: u64) {
    let bytes = record().encode();
    for _ in 0..times {
        let _ = black_box(Record::decode(black_box(&bytes)));
    }
}

fn order_number(times: u64) {
    let Ok(keys) = "1:00112233445566778899aabbccddeeff".parse::<OrderNoKeys>() else {
        return;
    };
    for seq in 0..times * BATCH {
        let order = OrderId {
            sale: SaleId(7),
            epoch: Epoch(12),
            seq,
        };
        let _ = black_box(keys.encode(black_box(order), 0));
    }
}

fn refusal(times: u64) {
    for _ in 0..times * BATCH {
        black_box(
            black_box(Problem::SoldOut {
                left: 0,
                reserved_until: None,
            })
            .into_response(),
        );
    }
}

/// The part that valgrind counts: `[part, times]`.
pub fn run(of: &[String]) -> Result<()> {
    let [name, times] = of else {
        bail!("expected a part and a number of times")
    };
    let part = PARTS.iter().find(|part| part.name == name);
    (part.context("unknown part")?.run)(times.parse()?);
    Ok(())
}

/// Each part is a test, which prints its instructions.
pub fn compare() -> Result<()> {
    let arguments = Arguments {
        test_threads: Some(1),
        ..Arguments::default()
    };
    let trials = PARTS.iter().map(|part| {
        Trial::test(format!("{}_is_within_its_budget", part.name.replace('-', "_")), || {
            within_budget(part).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit()
}

fn within_budget(part: &Part) -> Result<()> {
    let (once, twice) = (counted(part, REPETITIONS)?, counted(part, 2 * REPETITIONS)?);
    let each = (twice - once) / (REPETITIONS * BATCH);
    println!("{}: {each} instructions for a purchase, of {}", part.name, part.budget);
    ensure!(
        each <= part.budget,
        "{} takes {each} instructions for a purchase, and its budget is {}: make it cheaper, or raise the budget in \
         verify/bench/src/hot_path.rs and say why",
        part.name,
        part.budget
    );
    Ok(())
}

fn counted(part: &Part, times: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["budget", "--run", part.name, &times.to_string()])
        .output()
        .context("failed to run valgrind (apt-get install valgrind)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{text}");
    // ==123== Collected : 456789
    let count = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = count.with_context(|| format!("no count in {text}"))?;
    Ok(count.trim().parse()?)
}
