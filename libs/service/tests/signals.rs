//! A file of its own: a signal is for the whole process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
use seckill_service::Shutdown;

#[tokio::test]
async fn sigterm_begins_the_shutdown() {
    let shutdown = Shutdown::on_signal();
    assert!(!shutdown.is_cancelled());
    let pid = std::process::id().to_string();
    let sent = tokio::task::spawn_blocking(move || std::process::Command::new("kill").args(["-TERM", &pid]).status());
    assert!(sent.await.unwrap().unwrap().success());
    shutdown.cancelled().await;
    assert!(shutdown.token().is_cancelled());
}
