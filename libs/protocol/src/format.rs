//! The format: one number for all that the programs write for each other, so that different versions can run side by side.
//!
//! | format | what a program that speaks it knows |
//! |---|---|
//! | 1 | the records IDENTITY, BARRIER, BATCH, TOTAL, CANCEL, PAID and CLOSE; sales with and without an IDENTITY; one price and one tier for each sale; orders that need no payment |
//! | 2 | sales whose buyers have an identity: the issuer in IDENTITY and in the row |
//! | 3 | sales with tiers: in IDENTITY and in the row; the tier of an order in BATCH and in holdings |
//!
//! A program of format 3 also knows formats 1 and 2. Each program tells in its heartbeat which format it speaks. The ledger
//! has a row with the format that it requires, and a program that does not speak it does not act ([`check`]). The operator
//! raises that row in the transaction that writes the row of the first sale that needs a newer format (`sale::needed_format`), if
//! all running programs speak it ([`raise`]). It never lowers it: what was written in the newer format stays in the log.
//!
//! So whatever belongs to a newer format (a record kind, a field that a record or a holding must not lose, a word in a column)
//! is written for sales that need the format only. Then no program ever meets what it does not know, and no reader needs a
//! second way to read. The exception is a failover of MySQL that loses its tail, and the raise with it: then the IDENTITY of
//! the sale has the format, and a worker that does not speak it stores nothing from there on.
//!
//! To raise the format, see "How to add" in CONTRIBUTING.md.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// From 1 on. A greater one has all of the smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Format(pub u16);

/// The format that this code speaks.
pub const FORMAT: Format = Format(3);

impl Format {
    pub const FIRST: Format = Format(1);

    /// Records before the second format have no format.
    pub(crate) fn is_first(&self) -> bool {
        *self == Format::FIRST
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Format {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Format)
    }
}

/// A program does not act on a ledger that it does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ledger requires format {required}, this program speaks {spoken}: upgrade it")]
pub struct NotSpoken {
    pub required: Format,
    pub spoken: Format,
}

/// Whether a program that speaks this format may act on a ledger that requires that one.
pub fn check(required: Format, spoken: Format) -> Result<(), NotSpoken> {
    match spoken >= required {
        true => Ok(()),
        false => Err(NotSpoken { required, spoken }),
    }
}

/// A running program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// `operator`, `seckill-api` or `order-worker`.
    pub program: String,
    /// The name of its pod.
    pub instance: String,
    pub format: Format,
}

/// Running programs that do not speak the format that a new sale needs. The sale waits for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooOld {
    pub needed: Format,
    pub programs: Vec<Heartbeat>,
}

/// The format that the ledger requires once a sale was created. `running` has the heartbeats of all running programs.
pub fn raise(required: Format, needed: Format, running: &[Heartbeat]) -> Result<Format, TooOld> {
    if needed <= required {
        return Ok(required);
    }
    let too_old = |heartbeat: &&Heartbeat| heartbeat.format < needed;
    let programs: Vec<Heartbeat> = running.iter().filter(too_old).cloned().collect();
    match programs.is_empty() {
        true => Ok(needed),
        false => Err(TooOld { needed, programs }),
    }
}

/// Programs that a message names.
const MAX_NAMED: usize = 5;

impl fmt::Display for TooOld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the sale needs format {}, which these pods do not speak: ",
            self.needed
        )?;
        for (n, heartbeat) in self.programs.iter().take(MAX_NAMED).enumerate() {
            let Heartbeat {
                program,
                instance,
                format,
            } = heartbeat;
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{program}/{instance} (format {format})")?;
        }
        if let Some(more @ 1..) = self.programs.len().checked_sub(MAX_NAMED) {
            write!(f, " and {more} more")?;
        }
        f.write_str(
            "; upgrade or stop them, and the sale is accepted within seconds; a pod that was killed counts for 30 s",
        )
    }
}

impl std::error::Error for TooOld {}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(formats: &[u16]) -> Vec<Heartbeat> {
        let heartbeat = |(n, format): (usize, &u16)| Heartbeat {
            program: "order-worker".into(),
            instance: format!("pod-{n}"),
            format: Format(*format),
        };
        formats.iter().enumerate().map(heartbeat).collect()
    }

    #[test]
    fn a_program_acts_on_its_own_and_older_formats() {
        assert_eq!(check(Format(2), Format(2)), Ok(()));
        assert_eq!(check(Format(1), Format(2)), Ok(()));
        let refused = check(Format(2), Format(1)).expect_err("too old");
        assert_eq!(
            refused.to_string(),
            "the ledger requires format 2, this program speaks 1: upgrade it"
        );
    }

    #[test]
    fn the_required_format_rises_if_all_running_programs_speak_it() {
        assert_eq!(raise(Format(1), Format(2), &running(&[2, 3, 2])), Ok(Format(2)));
        assert_eq!(raise(Format(1), Format(2), &[]), Ok(Format(2)));
        let refused = raise(Format(1), Format(2), &running(&[2, 1, 2])).expect_err("one is too old");
        assert_eq!(refused.programs, [running(&[2, 1])[1].clone()]);
    }

    #[test]
    fn the_required_format_is_never_lowered() {
        assert_eq!(raise(Format(3), Format(2), &running(&[3])), Ok(Format(3)));
        // Programs that are too old for the ledger do not delay a sale that changes nothing.
        assert_eq!(raise(Format(2), Format(1), &running(&[1])), Ok(Format(2)));
        assert_eq!(raise(Format(2), Format(2), &running(&[1])), Ok(Format(2)));
    }

    #[test]
    fn at_most_five_pods_are_named() {
        let message = |formats: &[u16]| {
            raise(Format(1), Format(2), &running(formats))
                .expect_err("too old")
                .to_string()
        };
        let two = message(&[1, 1]);
        assert!(
            two.contains("order-worker/pod-0 (format 1), order-worker/pod-1 (format 1);"),
            "{two}"
        );
        let five = message(&[1; 5]);
        assert!(five.contains("pod-4") && !five.contains("more"), "{five}");
        let eight = message(&[1; 8]);
        assert!(
            eight.contains("pod-4 (format 1) and 3 more;") && !eight.contains("pod-5"),
            "{eight}"
        );
    }
}
