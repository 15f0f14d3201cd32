//! Clients that take more than their share. Other buyers must not notice.
use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;
use tokio::time::sleep;

use crate::context::{FaultSale, RunContext};
use crate::harness::Target;

/// Callers that hang up while Redis stands still, so that their purchases are waiting.
const CALLERS: usize = 400;
const REDIS_PAUSE: Duration = Duration::from_secs(1);
const SLOW_DURATION: Duration = Duration::from_secs(25);
/// A newcomer gets an answer within this time, whatever others do.
const NEWCOMER_TIMEOUT: Duration = Duration::from_secs(10);

/// The bound on orders holds, although every unit comes back.
pub async fn buy_and_cancel(run: &mut RunContext) -> Result<String> {
    let sale = FaultSale {
        stock: 22,
        buyers: 0,
        max_orders: Some(30),
        ..FaultSale::lasting(12)
    };
    let name = run.open_sale("stormed", sale).await?;
    let seed = run.rng.random();
    run.crowd
        .clone()
        .buy_and_cancel(&name, Duration::from_secs(5), seed)
        .await;
    Ok(format!("clients bought from {name} and cancelled, in a loop for 5 s"))
}

pub async fn hang_up(run: &mut RunContext) -> Result<String> {
    let crowd = run.crowd.clone();
    run.harness.process(Target::Redis, 0).pause()?;
    let callers = crowd.hang_up(CALLERS).await;
    sleep(REDIS_PAUSE).await;
    run.harness.process(Target::Redis, 0).resume()?;
    run.harness.run_for(Duration::from_secs(3)).await?;
    // A batch that had left for Redis before its callers hung up is bought.
    let bought = crowd.ask_again(&callers, run.which).await;
    if bought > CALLERS / 4 {
        run.taken.push(format!(
            "{bought} of {CALLERS} callers got units who had hung up before their turn"
        ));
    }
    Ok(format!(
        "{CALLERS} callers hung up before the answer; {bought} of them bought"
    ))
}

pub async fn share_one_key(run: &mut RunContext) -> Result<String> {
    run.crowd.clone().share_one_key().await;
    check_newcomers(run, "one purchase arrived on thousands of connections").await;
    Ok("one purchase arrived on thousands of connections".into())
}

pub async fn be_slow(run: &mut RunContext) -> Result<String> {
    let mut clients = run.crowd.start_slow_clients(SLOW_DURATION);
    run.harness.run_for(SLOW_DURATION / 2).await?;
    check_newcomers(run, "one host held slow connections").await;
    clients.shutdown().await;
    Ok("one host held slow connections to both seckill-api".into())
}

async fn check_newcomers(run: &mut RunContext, meanwhile: &str) {
    for api in 0..2 {
        if !run.crowd.serves_newcomers(api, NEWCOMER_TIMEOUT).await {
            run.taken
                .push(format!("seckill-api-{api} did not answer a newcomer while {meanwhile}"));
        }
    }
}

/// New tokens have a key that no seckill-api knows yet.
pub async fn rotate_issuer_keys(run: &mut RunContext) -> Result<String> {
    let crowd = run.crowd.clone();
    let rotated = run
        .harness
        .run_until(async { Ok(crowd.members.rotate_keys().await) })
        .await?;
    run.harness.run_for(Duration::from_secs(1)).await?;
    Ok(rotated)
}

/// One seckill-api starts anew while the issuer is away: it serves members when the issuer is back.
pub async fn issuer_is_away(run: &mut RunContext) -> Result<String> {
    let time = Duration::from_secs(8);
    run.crowd.members.stop_issuer().await;
    let which = run.which;
    run.harness.api[which].kill()?;
    run.harness.run_for(time).await?;
    run.crowd.members.start_issuer().await;
    Ok(format!(
        "the issuer was away for {} s, and {} started meanwhile",
        time.as_secs(),
        run.harness.api[which].name
    ))
}
