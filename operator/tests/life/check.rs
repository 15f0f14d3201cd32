//! The subcommand `check`.
use seckill_operator::args::{Args, Command};
use seckill_operator::check::{Report, check};
use seckill_service::args::parse_from;

use crate::harness::{Harness, set_flag};
use crate::preflight::set_unclean_election;

async fn report(args: Vec<String>) -> Report {
    let Command::Check(args) = parse_from::<Args>(args).expect("valid arguments").command else {
        unreachable!("the subcommand is check")
    };
    check(&args).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_the_servers_lack_and_how_to_correct_it() {
    let harness = Harness::new().await;
    let ready = report(harness.check_args()).await;
    assert!(ready.problems.is_empty(), "{ready}");
    assert!(ready.to_string().contains("are ready for sales"), "{ready}");

    set_unclean_election(&harness, true).await;
    let risky = report(harness.check_args()).await;
    let [problem] = &risky.problems[..] else {
        panic!("{risky}")
    };
    assert!(
        problem.contains("unclean.leader.election.enable") && problem.contains("set it to false"),
        "{risky}"
    );
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_every_server_that_can_not_be_used() {
    let harness = Harness::new().await;
    let mut args = harness.check_args();
    set_flag(&mut args, "--kafka-topic", "no-such-topic");
    set_flag(&mut args, "--redis-url", "redis://127.0.0.1:1");
    set_flag(&mut args, "--mysql-url", "mysql://nobody:wrong@127.0.0.1:1/none");
    let report = report(args).await;
    let [redis, kafka, mysql] = &report.problems[..] else {
        panic!("{report}")
    };
    assert!(redis.starts_with("redis: "), "{report}");
    assert!(
        kafka.starts_with("kafka: ") && kafka.contains("no-such-topic"),
        "{report}"
    );
    assert!(mysql.starts_with("mysql: "), "{report}");
    harness.drop().await;
}
