//! The log on stdout: one line per event, as JSON for machines or text for people.
use crate::config::{LogFormat, TelemetryArgs};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts the log. A second call keeps the settings of the first.
pub fn init(args: &TelemetryArgs, program: &str) {
    // Nothing is lost: the filter was parsed together with the arguments.
    let filter = EnvFilter::builder().parse_lossy(args.log.as_str());
    let registry = tracing_subscriber::registry().with(filter);
    let result = match args.log_format {
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_span_list(false),
            )
            .try_init(),
        LogFormat::Text => registry.with(tracing_subscriber::fmt::layer()).try_init(),
    };
    if result.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
        tracing::info!(program, version = env!("CARGO_PKG_VERSION"), "starting");
    }
}

/// Logs a panic as one line, because a collector of JSON lines would split the default text.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(place, message, backtrace = %std::backtrace::Backtrace::capture(), "panic");
}
