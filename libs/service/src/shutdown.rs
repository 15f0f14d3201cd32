//! Graceful shutdown: current work is finished and no new work is started.
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Exit code after a second signal.
const ABORT_EXIT_CODE: i32 = 130;

/// Tells every part of a process to stop. Clones are the same shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A shutdown that only [`Shutdown::cancel`] starts, for tests and subcommands.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that starts at SIGTERM or SIGINT. A second signal ends the process immediately. Must be called inside
    /// of the runtime.
    pub fn on_signal() -> Self {
        let shutdown = Self::new();
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => drop(tokio::spawn(follow(shutdown.clone(), terminate, interrupt))),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "installing signal handlers failed: SIGTERM will end this process without draining");
            }
        }
        shutdown
    }

    /// Resolves when the shutdown starts, or immediately if it has started.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.0.cancelled()
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    pub fn cancel(&self) {
        self.0.cancel();
    }

    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

async fn follow(shutdown: Shutdown, mut terminate: Signal, mut interrupt: Signal) {
    let name = either(&mut terminate, &mut interrupt).await;
    tracing::info!(signal = name, "shutting down; a second signal aborts");
    shutdown.cancel();
    let name = either(&mut terminate, &mut interrupt).await;
    tracing::warn!(signal = name, "aborted");
    std::process::exit(ABORT_EXIT_CODE);
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
