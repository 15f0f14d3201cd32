//! API processes of two versions on one ledger.
use seckill_ledger::{Format, Sale};

use crate::client::{Request, Response};
use crate::harness::*;
use crate::program::Program;

const TOO_OLD: &str = "the ledger requires format 2, this program speaks 1: upgrade it";

fn program(harness: &Harness, format: &str, pod: &str) -> Program {
    let variables = [("SECKILL_SPOKEN_FORMAT", format), ("SECKILL_POD_NAME", pod)];
    Program::start_with(&harness.mysql_url, &harness.topic, &variables)
}

async fn buy(program: &Program, sale: &Sale, key: &str) -> Response {
    purchase(sale, key, 1).send(program.v1).await.expect("an answer")
}

async fn get(program: &Program, path: &str) -> Response {
    Request::get(path).send(program.v1).await.expect("an answer")
}

/// Program and format of the pods that have a heartbeat.
async fn running(harness: &Harness) -> Vec<(String, u16)> {
    let formats = harness.ledger.clone().speaking(Format(2)).formats().await;
    let running = formats.expect("MySQL answers").running;
    running
        .into_iter()
        .map(|heartbeat| (heartbeat.instance, heartbeat.format.0))
        .collect()
}

#[tokio::test]
async fn an_api_that_is_too_old_answers_nothing_until_it_may_act() {
    let harness = Harness::start().await;
    let sale = harness.sell(10, open()).await;
    let (old, new) = (program(&harness, "1", "old"), program(&harness, "2", "new"));
    for program in [&old, &new] {
        program.wait_for_readiness(|response| response.status == 200).await;
    }
    let key = key();
    let bought = buy(&old, &sale, &key).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    assert_eq!(running(&harness).await, [("new".to_owned(), 2), ("old".to_owned(), 1)]);

    harness.execute("UPDATE required_format SET format = 2").await;
    let is_refused = |response: &Response| response.status == 503 && response.text.contains(TOO_OLD);
    old.wait_for_readiness(is_refused).await;
    let order = format!("/v1/orders/{}", bought.order_no());
    buy(&old, &sale, &self::key()).await.is(503, "not_ready");
    buy(&old, &sale, &key).await.is(503, "not_ready");
    for path in [&path(&sale), &order, "/v1/sales", "/v1/sales/shop/unknown"] {
        get(&old, path).await.is(503, "not_ready");
    }
    // The newer one sells the same sale, and knows the order.
    assert_eq!(buy(&new, &sale, &key).await.body, bought.body);
    assert_eq!(buy(&new, &sale, &self::key()).await.status, 201);
    assert_eq!(get(&new, &order).await.status, 200);

    // A person knows that nothing of the newer format was written.
    harness.execute("UPDATE required_format SET format = 1").await;
    old.wait_for_readiness(|response| response.status == 200).await;
    assert_eq!(buy(&old, &sale, &self::key()).await.status, 201);
    assert_eq!(buy(&old, &sale, &key).await.body, bought.body);

    new.terminate();
    eventually("the heartbeat of a stopped pod is deleted", async || {
        running(&harness).await == [("old".to_owned(), 1)]
    })
    .await;
}

#[tokio::test]
async fn an_api_that_starts_too_old_waits() {
    let harness = Harness::start().await;
    let sale = harness.sell(10, open()).await;
    harness.execute("UPDATE required_format SET format = 2").await;
    let old = program(&harness, "1", "old");
    old.wait_for_readiness(|response| response.status == 503 && response.text.contains(TOO_OLD))
        .await;
    // It is counted although it does not work, so no further raise forgets it.
    assert_eq!(running(&harness).await, [("old".to_owned(), 1)]);
    harness.execute("UPDATE required_format SET format = 1").await;
    old.wait_for_readiness(|response| response.status == 200).await;
    assert_eq!(buy(&old, &sale, &key()).await.status, 201);
}

#[tokio::test]
async fn a_missing_heartbeat_does_not_stop_an_api() {
    let harness = Harness::start().await;
    let sale = harness.sell(10, open()).await;
    harness.execute("DROP TABLE heartbeats").await;
    let program = program(&harness, "1", "silent");
    program.wait_for_readiness(|response| response.status == 200).await;
    assert_eq!(buy(&program, &sale, &key()).await.status, 201);
}
