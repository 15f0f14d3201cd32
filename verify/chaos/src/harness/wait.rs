//! Waits until a server answers, or until servers agree.
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Time limit for a server or program to answer. A start takes far less, but the machine may be busy with builds.
pub const START_TIMEOUT: Duration = Duration::from_secs(90);

/// Repeats an attempt until it succeeds.
pub async fn wait_until(what: &str, attempt: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    wait_for(what, attempt).await
}

/// Repeats an attempt until it succeeds. Returns its result.
pub async fn wait_for<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        let error = match tokio::time::timeout(Duration::from_secs(10), attempt()).await {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer".into(),
        };
        if started.elapsed() > START_TIMEOUT {
            bail!("{what} not available after {} s: {error}", START_TIMEOUT.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
}
