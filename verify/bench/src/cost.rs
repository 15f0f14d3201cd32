//! Who takes the processors' time: microseconds of a core for each answer, by program. On a machine that all share, this
//! is what limits a scenario.
use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::rounds::Rounds;
use crate::site::Program;

/// What one kind of answer costs, in the rounds of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cost {
    /// Of what: `purchases`, `their limit`.
    pub what: String,
    /// Microseconds of a core, by program.
    pub shares: BTreeMap<String, Rounds>,
}

impl Cost {
    pub fn new(what: impl Into<String>) -> Self {
        Cost {
            what: what.into(),
            shares: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, spent: BTreeMap<String, f64>) {
        for (program, us) in spent {
            self.shares.entry(program).or_default().0.push(us);
        }
    }

    pub fn total(&self) -> f64 {
        self.shares.values().map(Rounds::median).sum()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.1} us of a core each", self.what, self.total())?;
        for (program, us) in &self.shares {
            write!(f, ", {program} {:.1}", us.median())?;
        }
        Ok(())
    }
}

/// The servers' processes, by a word of their command line.
const SERVERS: [(&str, &str); 5] = [
    ("redis-server", "Redis"),
    ("valkey-server", "Redis"),
    ("mysqld", "MySQL"),
    ("mariadbd", "MySQL"),
    ("kafka.Kafka", "Kafka"),
];

/// Whose process this is, if it is a server's.
fn server(command_line: &str) -> Option<&'static str> {
    let mut words = command_line
        .split(['\0', ' '])
        .map(|word| word.rsplit('/').next().unwrap_or(word));
    let name = words.find_map(|word| SERVERS.iter().find(|(program, _)| *program == word))?;
    Some(name.1)
}

/// Reads what each program has taken so far.
pub struct Meter {
    /// Process ids, and whose they are.
    processes: Vec<(u32, String)>,
    at: Vec<f64>,
}

impl Meter {
    /// Of this process (`buyers`), of these programs, and of the servers of this machine.
    pub fn start(programs: &[(&str, &Program)]) -> Result<Self> {
        let mut processes = vec![(std::process::id(), "buyers".to_owned())];
        for (name, program) in programs {
            processes.push((program.pid()?, (*name).to_owned()));
        }
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // One that has ended meanwhile has none.
            let command_line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if let Some(server) = server(&command_line) {
                processes.push((pid, server.to_owned()));
            }
        }
        let mut meter = Meter {
            processes,
            at: Vec::new(),
        };
        meter.at = meter.read()?;
        Ok(meter)
    }

    /// Microseconds of a core for each of so many answers, since the start or the last call.
    pub fn spent(&mut self, answers: u64) -> Result<BTreeMap<String, f64>> {
        let now = self.read()?;
        let mut spent = BTreeMap::new();
        for ((_, name), (before, after)) in self.processes.iter().zip(self.at.iter().zip(&now)) {
            *spent.entry(name.clone()).or_default() += (after - before) * 1e6 / answers as f64;
        }
        self.at = now;
        Ok(spent)
    }

    fn read(&self) -> Result<Vec<f64>> {
        self.processes.iter().map(|(pid, _)| cpu_seconds(*pid)).collect()
    }
}

/// User and system time.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat")?.parse()?) };
    // Linux counts in hundredths here, whatever the kernel's own clock is.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_command_line() {
        for (line, whose) in [
            ("/usr/bin/redis-server 127.0.0.1:6379\0", Some("Redis")),
            (
                "/lib/ld-linux-x86-64.so.2\0--library-path\0/a/lib\0/a/sbin/mysqld\0--port=3306\0",
                Some("MySQL"),
            ),
            ("java\0-Xmx1g\0kafka.Kafka\0server.properties\0", Some("Kafka")),
            ("/usr/bin/redis-benchmark\0-q\0", None),
            ("", None),
        ] {
            assert_eq!(server(line), whose, "{line}");
        }
    }
}
