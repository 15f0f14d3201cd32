//! Rules of the protocol, each broken on purpose in the programs: a checker that finds nothing then is worth nothing.
use crate::faults::{Back, Fault};

pub struct Mutant {
    /// Also the name of the rule at its place in the programs.
    pub name: &'static str,
    pub breaks: &'static str,
    /// What has to happen for it to show.
    pub faults: &'static [Fault],
    /// One of these must find it.
    pub caught_by: &'static [&'static str],
}

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "reply-before-read-back",
        breaks: "a buyer is told the number before the record was read back",
        faults: &[Fault::SoldAndLost],
        caught_by: &["I2", "I6", "I9"],
    },
    Mutant {
        name: "no-relay",
        breaks: "what a dead process sold is never published",
        faults: &[Fault::AbortAt("api.before-append")],
        caught_by: &["I3", "I13"],
    },
    Mutant {
        name: "position-apart",
        breaks: "the position in the log is committed before the orders",
        faults: &[Fault::AbortAt("worker.before-commit")],
        caught_by: &["I2", "I12"],
    },
    Mutant {
        name: "rid-ignored",
        breaks: "an index is trusted though Redis came back as another",
        faults: &[Fault::RedisComesBack(Back::TruncatedAof)],
        caught_by: &["I1", "I2", "I3", "I6", "I7", "I12"],
    },
    Mutant {
        name: "epoch-ignored",
        breaks: "orders are stored whatever their epoch",
        faults: &[Fault::RecordBehindBarrier, Fault::Failover],
        caught_by: &["I9", "I12"],
    },
    Mutant {
        name: "rebuild-without-log",
        breaks: "an index is rebuilt from MySQL alone",
        faults: &[Fault::RebuildFromLog],
        caught_by: &["I1", "I3", "I6", "I12"],
    },
];

pub fn find(name: &str) -> Option<&'static Mutant> {
    MUTANTS.iter().find(|mutant| mutant.name == name)
}
