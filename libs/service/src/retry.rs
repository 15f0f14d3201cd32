//! Retries until an attempt succeeds. Servers go away and come back, and a pod that crashes in a loop does not help.
use crate::health::Gate;
use crate::log_once::FailureLog;
use crate::shutdown::Shutdown;
use rand::Rng as _;
use std::fmt::Display;
use std::time::Duration;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Of equal failures in a row the first is logged, and then every tenth.
const LOG_EVERY_NTH: u32 = 10;

/// Tries until `attempt` succeeds; `None` if the shutdown came first. Meanwhile the gate is not ready, with the
/// reason. Success does not open the gate: only the caller knows whether more is needed before it is ready.
pub async fn until_ok<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    gate: &Gate,
    shutdown: &Shutdown,
    mut attempt: impl FnMut() -> F,
) -> Option<T> {
    let mut failures = FailureLog::changes_and_every(LOG_EVERY_NTH);
    loop {
        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            result = attempt() => result,
        };
        match result {
            Ok(value) => {
                let failed = failures.succeeded();
                if failed > 0 {
                    tracing::info!(task = what, attempts = failed + 1, "succeeded");
                }
                return Some(value);
            }
            Err(error) => {
                let reason = error.to_string();
                let delay = full_jitter(failures.count());
                if failures.failed(&reason) {
                    tracing::warn!(
                        task = what,
                        attempt = failures.count(),
                        error = reason,
                        "failed, retrying"
                    );
                }
                gate.not_ready(format!("{what}: {reason}"));
                tokio::select! {
                    () = shutdown.cancelled() => return None,
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }
}

/// A random part of a ceiling that doubles, so that many processes that lost the same server do not return at once.
pub fn full_jitter(failures_before: u32) -> Duration {
    rand::rng().random_range(Duration::ZERO..=ceiling(failures_before))
}

fn ceiling(failures_before: u32) -> Duration {
    FIRST_DELAY
        .saturating_mul(1_u32.checked_shl(failures_before).unwrap_or(u32::MAX))
        .min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Health, NotReady};

    #[tokio::test]
    async fn retries_until_success_and_leaves_the_gate_closed() {
        let health = Health::new();
        let gate = health.gate("mysql");
        let mut left = 3;
        let value = until_ok("connect", &gate, &Shutdown::new(), || {
            left -= 1;
            std::future::ready(if left > 0 { Err("connection refused") } else { Ok(7) })
        })
        .await;
        assert_eq!(value, Some(7));
        assert_eq!(
            health.check(),
            Err(NotReady("mysql: connect: connection refused".to_owned()))
        );
    }

    #[tokio::test]
    async fn shutdown_ends_the_retries() {
        let gate = Health::new().gate("mysql");
        let shutdown = Shutdown::new();
        let ender = shutdown.clone();
        let value: Option<()> = until_ok("connect", &gate, &shutdown, || {
            ender.cancel();
            std::future::ready(Err("connection refused"))
        })
        .await;
        assert_eq!(value, None);
    }

    #[tokio::test]
    async fn shutdown_ends_a_hanging_attempt() {
        let gate = Health::new().gate("mysql");
        let shutdown = Shutdown::new();
        shutdown.cancel();
        let value: Option<()> = until_ok("connect", &gate, &shutdown, std::future::pending::<Result<(), String>>).await;
        assert_eq!(value, None);
    }

    #[test]
    fn the_delay_doubles_from_100_ms_to_5_s() {
        let ceilings: Vec<u128> = [0, 1, 2, 5, 6, 31, 32, u32::MAX]
            .iter()
            .map(|n| ceiling(*n).as_millis())
            .collect();
        assert_eq!(ceilings, [100, 200, 400, 3200, 5000, 5000, 5000, 5000]);
    }
}
