//! What is done again and again beside storing, whatever fails in between.
use std::fmt::Display;

/// Of failures in a row the first is logged, and when it works again.
pub struct Passes {
    what: &'static str,
    failing: bool,
}

impl Passes {
    pub fn of(what: &'static str) -> Self {
        Passes { what, failing: false }
    }

    pub fn note<E: Display>(&mut self, pass: Result<(), E>) {
        let what = self.what;
        let failed = pass.is_err();
        match pass {
            Ok(()) if self.failing => tracing::info!(what, "it works again"),
            Err(error) if !self.failing => tracing::warn!(what, %error, "it failed, trying again until it works"),
            Ok(()) | Err(_) => {}
        }
        self.failing = failed;
    }
}
