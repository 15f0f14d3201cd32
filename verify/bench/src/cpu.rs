//! Processor time and memory of processes. On a machine that buyers, programs and servers share, processor time is what
//! limits a scenario.
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::harness::Program;

/// The name of each server, by a word of the command line of its process.
const SERVERS: [(&str, &str); 5] = [
    ("redis-server", "Redis"),
    ("valkey-server", "Redis"),
    ("mysqld", "MySQL"),
    ("mariadbd", "MySQL"),
    ("kafka.Kafka", "Kafka"),
];

/// The server to which a process belongs.
fn server_of(command_line: &str) -> Option<&'static str> {
    let mut words = command_line
        .split(['\0', ' '])
        .map(|word| word.rsplit('/').next().unwrap_or(word));
    let name = words.find_map(|word| SERVERS.iter().find(|(program, _)| *program == word))?;
    Some(name.1)
}

/// Measures the processor time of the buyers, the programs and the servers.
pub struct CpuMeter {
    /// Process ids, and the program or server of each.
    processes: Vec<(u32, String)>,
    /// CPU seconds of each process at the last reading.
    last: Vec<f64>,
}

impl CpuMeter {
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
            // A process that has ended meanwhile has no command line.
            let command_line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if let Some(server) = server_of(&command_line) {
                processes.push((pid, server.to_owned()));
            }
        }
        let mut meter = CpuMeter {
            processes,
            last: Vec::new(),
        };
        meter.last = meter.read()?;
        Ok(meter)
    }

    /// Microseconds of a core for each answer, since the start or the last call.
    pub fn spent(&mut self, answers: u64) -> Result<BTreeMap<String, f64>> {
        let now = self.read()?;
        let mut spent = BTreeMap::new();
        for ((_, name), (before, after)) in self.processes.iter().zip(self.last.iter().zip(&now)) {
            *spent.entry(name.clone()).or_default() += (after - before) * 1e6 / answers as f64;
        }
        self.last = now;
        Ok(spent)
    }

    fn read(&self) -> Result<Vec<f64>> {
        self.processes.iter().map(|(pid, _)| cpu_seconds(*pid)).collect()
    }
}

/// User and system time of a process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat")?.parse()?) };
    // The file counts in hundredths of a second, whatever the timer frequency of the kernel is.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Resident memory of a process.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_recognized_by_its_command_line() {
        for (line, name) in [
            ("/usr/bin/redis-server 127.0.0.1:6379\0", Some("Redis")),
            (
                "/lib/ld-linux-x86-64.so.2\0--library-path\0/a/lib\0/a/sbin/mysqld\0--port=3306\0",
                Some("MySQL"),
            ),
            ("java\0-Xmx1g\0kafka.Kafka\0server.properties\0", Some("Kafka")),
            ("/usr/bin/redis-benchmark\0-q\0", None),
            ("", None),
        ] {
            assert_eq!(server_of(line), name, "{line}");
        }
    }
}
