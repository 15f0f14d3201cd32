//! What the demo shows while it plays: lines with the time since it began, and one bar that moves.
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Clone)]
pub struct Screen {
    began: Instant,
    bars: MultiProgress,
}

impl Screen {
    pub fn new() -> Self {
        Screen {
            began: Instant::now(),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
        }
    }

    /// A line that stays.
    pub fn say(&self, line: impl AsRef<str>) {
        let at = self.began.elapsed().as_secs_f64();
        self.bars.suspend(|| println!("{at:6.1}s  {}", line.as_ref()));
    }

    /// A line without the time: part of a table.
    pub fn plain(&self, line: impl AsRef<str>) {
        self.bars.suspend(|| println!("{}", line.as_ref()));
    }

    /// A bar, where there is a terminal to draw it on.
    pub fn bar(&self, of: u64) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new(of));
        // A fixed template: an error could only be a typing mistake in it, and then the default bar will do.
        if let Ok(style) = ProgressStyle::with_template("         {bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar
    }

    /// What is waited for, for how long.
    pub fn waiting<T>(&self, what: &str, f: impl FnOnce() -> T) -> T {
        let spinner = self.bars.add(ProgressBar::new_spinner().with_message(what.to_string()));
        spinner.enable_steady_tick(Duration::from_millis(120));
        let result = f();
        spinner.finish_and_clear();
        result
    }
}
