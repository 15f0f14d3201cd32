//! The subcommand `check`: what Redis, Kafka and MySQL lack for this release, for the person who installs it. It connects as
//! the operator does, with its accounts, and reads the settings that the preflight of a sale reads. It changes nothing.
//! `/readyz` of seckill-api and order-worker says what their accounts lack.
use std::fmt;
use std::time::Duration;

use seckill_planner::preflight::{Preflight, check_servers};
use seckill_service::connect::{Connecting, NotConnected};
use seckill_service::shutdown::Shutdown;

use crate::args::CheckArgs;
use crate::context::Connections;
use crate::release::servers;

/// What there is to say of the servers.
#[derive(Debug)]
pub struct Report {
    /// Why each server that can't be used can't be used, and what puts sales at risk.
    pub problems: Vec<String>,
    /// What is worth knowing.
    pub advice: Vec<String>,
}

pub async fn check(args: &CheckArgs) -> Report {
    let shutdown = Shutdown::new();
    let connections = Connections::start(&args.servers, args.format.spoken_format, None, &shutdown);
    let limit = Duration::from_secs(args.timeout_seconds);
    let _ = tokio::time::timeout(limit, connections.connected()).await;
    let settings = servers::read_once(&connections, &args.class, &args.topic).await;
    let lag = settings.ledger_lag.iter().flatten();
    let lag: Vec<String> = lag.map(|(partition, lag)| lag.problem(*partition)).collect();
    report(not_connected(&connections), check_servers(&settings), lag)
}

fn not_connected(connections: &Connections) -> Vec<String> {
    fn why<T: Send + Sync + 'static>(connecting: &Connecting<T>) -> Option<NotConnected> {
        connecting.get().err()
    }
    let Connections { ledger, log, stock } = connections;
    let reasons = [why(stock), why(log), why(ledger)];
    reasons.into_iter().flatten().map(|why| why.0).collect()
}

fn report(mut problems: Vec<String>, preflight: Preflight, lag: Vec<String>) -> Report {
    // What is unknown of a server without a connection is said by the connection.
    if problems.is_empty() {
        problems.extend(preflight.unknown);
    }
    problems.extend(preflight.problems);
    problems.extend(lag);
    let advice = preflight.warnings.into_iter().chain(preflight.advice).collect();
    Report { problems, advice }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problems
            .iter()
            .try_for_each(|text| writeln!(f, "problem: {text}"))?;
        self.advice.iter().try_for_each(|text| writeln!(f, "advice:  {text}"))?;
        match self.problems.is_empty() {
            true => writeln!(f, "Redis, Kafka and MySQL are ready for sales"),
            false => Ok(()),
        }
    }
}
