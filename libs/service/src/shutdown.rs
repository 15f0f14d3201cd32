//! Ending in order: what is under way is finished, nothing new is begun.
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Exit code of a process that was told to end twice.
const ABORTED: i32 = 130;

/// Tells every part of a process that it shall end. Clones are the same shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that only [`Shutdown::cancel`] begins: for tests and subcommands.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins at SIGTERM or SIGINT. A second signal ends the process at once: whoever sends it does not want to wait.
    /// Must be called inside of the runtime.
    pub fn on_signal() -> Self {
        let shutdown = Self::new();
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => drop(tokio::spawn(follow(shutdown.clone(), terminate, interrupt))),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "signals can't be handled: SIGTERM will end this process without draining");
            }
        }
        shutdown
    }

    /// Resolves when the process shall end; at once if that was said before.
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
    std::process::exit(ABORTED);
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
