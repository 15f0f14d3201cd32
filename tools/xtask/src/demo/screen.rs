//! The demo's output: lines with the time since the start, and a progress bar.
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Clone)]
pub struct Screen {
    started: Instant,
    bars: MultiProgress,
}

impl Screen {
    pub fn new() -> Self {
        Screen {
            started: Instant::now(),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
        }
    }

    /// Prints a line with the time.
    pub fn say(&self, line: impl AsRef<str>) {
        let at = self.started.elapsed().as_secs_f64();
        self.bars.suspend(|| println!("{at:6.1}s  {}", line.as_ref()));
    }

    /// Prints a line without the time, for tables.
    pub fn plain(&self, line: impl AsRef<str>) {
        self.bars.suspend(|| println!("{}", line.as_ref()));
    }

    /// A progress bar, if stdout is a terminal.
    pub fn bar(&self, of: u64) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new(of));
        // The template is fixed. If it had an error, the default style would be good enough.
        if let Ok(style) = ProgressStyle::with_template("         {bar:30} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        bar
    }

    /// Shows a spinner with a message while `f` runs.
    pub fn waiting<T>(&self, what: &str, f: impl FnOnce() -> T) -> T {
        let spinner = self.bars.add(ProgressBar::new_spinner().with_message(what.to_string()));
        spinner.enable_steady_tick(Duration::from_millis(120));
        let result = f();
        spinner.finish_and_clear();
        result
    }
}
