//! A small model of an upgrade: two workers on one partition, an older and a newer one, and an operator of the newer version
//! that creates a sale of the newer format. Does any program read what it does not understand, and does the raise of the
//! required format shut out a program that runs? The decisions are those of `seckill_protocol::format`.
use seckill_protocol::Format;
use seckill_protocol::format::{Heartbeat, check, raise};
use stateright::{Model, Property};

pub const UNDERSTOOD: &str = "no program folds a record of a format that it does not speak";
pub const NOT_SHUT_OUT: &str = "a program that runs and has a heartbeat is not shut out by a raise";

const OLD: Format = Format(1);
const NEW: Format = Format(2);
const FORMATS: [Format; 2] = [OLD, NEW];
const MAX_RECORDS: usize = 3;

/// A rule that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatRule {
    /// The transaction that moves the position reads the required format.
    Fence,
    /// Programs with a heartbeat delay the raise.
    HeartbeatsCount,
    /// The row of the sale and the raise are one transaction.
    RaiseWithTheRow,
    /// The required format is never lowered.
    NeverLower,
    /// A worker restores the row of a sale only if it speaks the format of its IDENTITY.
    IdentityHasFormat,
    /// With the row of a sale it restores the raise.
    RestoreRaises,
}

#[derive(Default)]
pub struct Formats {
    pub broken: Option<FormatRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogRecord {
    /// Of a sale that needs the older format.
    Old,
    /// The IDENTITY of the sale that needs the newer format.
    Identity,
    /// A record that only the newer format has.
    New,
}

/// What MySQL loses together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FormatLedger {
    required: Format,
    /// The row of the newer sale.
    row: bool,
    position: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Program {
    runs: bool,
    has_heartbeat: bool,
    /// The range of the log that it has read and not stored.
    read: Option<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FormatsState {
    log: Vec<LogRecord>,
    ledger: FormatLedger,
    /// The last copy on the replica.
    copy: FormatLedger,
    programs: [Program; 2],
    misread: bool,
    shut_out: bool,
    refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatsAction {
    /// With its first heartbeat, or without it: the write may fail.
    Start {
        program: usize,
        heartbeat: bool,
    },
    Stop {
        program: usize,
    },
    Beat {
        program: usize,
    },
    /// It was killed or cut off long enough ago.
    HeartbeatEnds {
        program: usize,
    },
    Read {
        program: usize,
    },
    Store {
        program: usize,
    },
    AppendOld,
    CreateOld,
    CreateNew,
    /// Only if the rule is broken that the raise comes with the row.
    RaiseLater,
    AppendNew,
    Replicates,
    FailsOver,
}

impl Formats {
    fn breaks(&self, rule: FormatRule) -> bool {
        self.broken == Some(rule)
    }

    fn heartbeats(&self, state: &FormatsState) -> Vec<Heartbeat> {
        if self.breaks(FormatRule::HeartbeatsCount) {
            return Vec::new();
        }
        let heartbeat = |n: &usize| Heartbeat {
            program: "order-worker".into(),
            instance: n.to_string(),
            format: FORMATS[*n],
        };
        let with_heartbeat = (0..FORMATS.len()).filter(|n| state.programs[*n].has_heartbeat);
        with_heartbeat.map(|n| heartbeat(&n)).collect()
    }

    /// Creates a sale; false: it has to wait.
    fn create(&self, state: &mut FormatsState, needed: Format) -> bool {
        let before = state.ledger.required;
        let Ok(required) = raise(before, needed, &self.heartbeats(state)) else {
            return false;
        };
        state.ledger.required = match self.breaks(FormatRule::NeverLower) {
            true => needed,
            false => required,
        };
        let is_shut_out = |n: &usize| {
            let program = &state.programs[*n];
            program.runs && program.has_heartbeat && FORMATS[*n] < state.ledger.required
        };
        state.shut_out |= state.ledger.required > before && (0..FORMATS.len()).any(|n| is_shut_out(&n));
        true
    }

    fn store(&self, state: &mut FormatsState, program: usize) -> Option<()> {
        let spoken = FORMATS[program];
        let (from, to) = state.programs[program].read.take()?;
        if !self.breaks(FormatRule::Fence) && check(state.ledger.required, spoken).is_err() {
            state.refused = true;
            return Some(());
        }
        if state.ledger.position != from {
            return Some(());
        }
        let mut ledger = state.ledger;
        for record in &state.log[from..to] {
            match record {
                LogRecord::Old => {}
                LogRecord::Identity if !ledger.row => {
                    if !self.breaks(FormatRule::IdentityHasFormat) && check(NEW, spoken).is_err() {
                        state.refused = true;
                        return Some(());
                    }
                    ledger.row = true;
                    if !self.breaks(FormatRule::RestoreRaises) {
                        ledger.required = ledger.required.max(NEW);
                    }
                }
                // A record of an unknown sale stops the partition.
                LogRecord::New if !ledger.row => return Some(()),
                LogRecord::Identity | LogRecord::New => {}
            }
            state.misread |= *record != LogRecord::Old && spoken < NEW;
        }
        ledger.position = to;
        state.ledger = ledger;
        Some(())
    }

    fn append_new(state: &mut FormatsState) -> Option<()> {
        let begun = state.log.contains(&LogRecord::Identity);
        let record = match begun {
            true => LogRecord::New,
            false => LogRecord::Identity,
        };
        // The operator begins the sale when it has read its row; buyers go on while MySQL lacks it.
        (begun || state.ledger.row).then(|| state.log.push(record))
    }
}

impl Model for Formats {
    type State = FormatsState;
    type Action = FormatsAction;

    fn init_states(&self) -> Vec<FormatsState> {
        let ledger = FormatLedger {
            required: OLD,
            row: false,
            position: 0,
        };
        let program = Program {
            runs: false,
            has_heartbeat: false,
            read: None,
        };
        vec![FormatsState {
            log: Vec::new(),
            ledger,
            copy: ledger,
            programs: [program.clone(), program],
            misread: false,
            shut_out: false,
            refused: false,
        }]
    }

    fn actions(&self, state: &FormatsState, actions: &mut Vec<FormatsAction>) {
        for (program, its) in state.programs.iter().enumerate() {
            if its.runs {
                actions.extend([
                    FormatsAction::Stop { program },
                    FormatsAction::Beat { program },
                    FormatsAction::Read { program },
                    FormatsAction::Store { program },
                ]);
            } else {
                let starts = [true, false].map(|heartbeat| FormatsAction::Start { program, heartbeat });
                actions.extend(starts);
            }
            actions.push(FormatsAction::HeartbeatEnds { program });
        }
        if state.log.len() < MAX_RECORDS {
            actions.extend([FormatsAction::AppendOld, FormatsAction::AppendNew]);
        }
        actions.extend([
            FormatsAction::CreateOld,
            FormatsAction::CreateNew,
            FormatsAction::Replicates,
            FormatsAction::FailsOver,
        ]);
        if self.breaks(FormatRule::RaiseWithTheRow) {
            actions.push(FormatsAction::RaiseLater);
        }
    }

    fn next_state(&self, last: &FormatsState, action: FormatsAction) -> Option<FormatsState> {
        let mut state = last.clone();
        match action {
            FormatsAction::Start { program, heartbeat } => {
                state.programs[program] = Program {
                    runs: true,
                    has_heartbeat: heartbeat,
                    read: None,
                };
            }
            FormatsAction::Stop { program } => {
                state.programs[program].runs = false;
                state.programs[program].read = None;
            }
            FormatsAction::Beat { program } => state.programs[program].has_heartbeat = true,
            FormatsAction::HeartbeatEnds { program } => state.programs[program].has_heartbeat = false,
            FormatsAction::Read { program } => {
                state.programs[program].read = Some((state.ledger.position, state.log.len()));
            }
            FormatsAction::Store { program } => self.store(&mut state, program)?,
            FormatsAction::AppendOld => state.log.push(LogRecord::Old),
            FormatsAction::CreateOld => _ = self.create(&mut state, OLD),
            FormatsAction::CreateNew => {
                let is_known = state.ledger.row || state.log.contains(&LogRecord::Identity);
                let later = self.breaks(FormatRule::RaiseWithTheRow);
                state.ledger.row |= !is_known && (later || self.create(&mut state, NEW));
            }
            FormatsAction::RaiseLater => _ = state.ledger.row && self.create(&mut state, NEW),
            FormatsAction::AppendNew => Self::append_new(&mut state)?,
            FormatsAction::Replicates => state.copy = state.ledger,
            FormatsAction::FailsOver => state.ledger = state.copy,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(UNDERSTOOD, |_, state: &FormatsState| !state.misread),
            Property::always(NOT_SHUT_OUT, |_, state: &FormatsState| !state.shut_out),
            Property::sometimes("a program is refused", |_, state: &FormatsState| state.refused),
            Property::sometimes("records of the newer format are stored", |_, state: &FormatsState| {
                let stored = &state.log[..state.ledger.position];
                stored.contains(&LogRecord::New)
            }),
            Property::sometimes("a lost raise comes back", |_, state: &FormatsState| {
                state.ledger.required == NEW && state.copy.required == OLD && state.refused
            }),
        ]
    }
}
