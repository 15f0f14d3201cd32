//! The command line.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use http::HeaderValue;
use seckill_load::{Arrival, InvalidPlan, Plan, Route, Target};

/// Sends a crowd of buyers to a flash sale, and reports their answers and the latency.
///
/// Run it against your own installation before your sale. Buyers arrive at their scheduled times, even if answers are slow.
/// Each buyer has its own idempotency key, and retries with it when the answer is 503, 429 or 202, or missing.
///
/// It buys for real: use a sale that you created for it.
///
/// Exit code: 0 if every buyer got an answer and every check passed, 1 if not, 2 if the run could not start.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Args {
    /// URL of the installation, for example http://127.0.0.1:8080 or https://shop.example
    pub target: String,
    /// Sale as namespace/name: buys by POST /v1/sales/{namespace}/{name}/orders
    #[arg(long, value_name = "NAMESPACE/NAME", required_unless_present = "item")]
    sale: Option<String>,
    /// Number of the item: buys by the old demo's POST /seckill/buy instead
    #[arg(long, value_name = "ID", conflicts_with_all = ["sale", "quantity"])]
    item: Option<i64>,
    /// Number of buyers; each wants one order
    #[arg(long, default_value_t = 1000)]
    buyers: u32,
    /// How the buyers arrive
    #[arg(long, value_enum, default_value_t = ArrivalKind::Uniform)]
    arrival: ArrivalKind,
    /// Time during which the buyers arrive, for example 500ms, 1s or 2m
    #[arg(long, default_value = "1s", value_parser = duration)]
    over: Duration,
    /// Maximum number of requests in flight, and so of connections
    #[arg(long, default_value_t = 1000, value_name = "N")]
    in_flight: usize,
    /// Units in each order
    #[arg(long, default_value_t = 1)]
    quantity: u32,
    /// Maximum number of requests of one buyer
    #[arg(long, default_value_t = 8, value_name = "N")]
    attempts: u32,
    /// Time limit for one answer
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Header of every request, for example "Host: shop.example"; can be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// PEM file with the CA that signed the certificate of an https target; without it, the system's CAs are trusted
    #[arg(long, value_name = "FILE.pem")]
    pub ca_file: Option<PathBuf>,
    /// Stock of the sale: checks that no more units were sold
    #[arg(long)]
    pub units: Option<u64>,
    /// Number of orders to look up after the run; 0 means none
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub check_orders: usize,
    /// File with one token per line, sent as "Authorization: Bearer TOKEN". The buyers use the tokens in turn, and start
    /// again after the last one
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Draws the answers over time and the latencies, as an SVG picture
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Writes the order numbers to this file, one per line
    #[arg(long, value_name = "FILE")]
    pub orders_file: Option<PathBuf>,
    /// text for people; json for programs: one object per line, {"progress":..} while it runs, then {"report":..}
    #[arg(long, value_enum, default_value_t = OutputKind::Text)]
    pub output: OutputKind,
    /// Confirms that a target on another machine is yours and that its operators know of the load
    #[arg(long)]
    pub i_own_this_target: bool,
}

const EXAMPLES: &str = "Examples:
  seckill-load http://127.0.0.1:8080 --sale shop/phones --buyers 20000 --in-flight 3000 --units 10000
  seckill-load http://127.0.0.1:8080 --sale shop/phones --buyers 60000 --arrival poisson --over 1m
  seckill-load http://127.0.0.1:8080 --sale shop/phones --buyers 60000 --arrival ramp --over 30s --plot ramp.svg";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ArrivalKind {
    /// All at the start
    AtOnce,
    /// Each at a random moment
    Uniform,
    /// Independently at a constant average rate; the last buyer may arrive before or after the end of the time
    Poisson,
    /// At a rising rate, to find the rate from which an installation falls behind
    Ramp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputKind {
    Text,
    Json,
}

impl Args {
    pub fn plan(&self, target: Target, tokens: Arc<[HeaderValue]>) -> Result<Plan, InvalidPlan> {
        let route = match (&self.sale, self.item) {
            (_, Some(item_id)) => Route::Legacy { item_id },
            (sale, None) => Route::v1(sale.as_deref().unwrap_or_default(), self.quantity)?,
        };
        let arrival = match self.arrival {
            ArrivalKind::AtOnce => Arrival::AtOnce,
            ArrivalKind::Uniform => Arrival::Uniform(self.over),
            ArrivalKind::Ramp => Arrival::Ramp(self.over),
            ArrivalKind::Poisson => Arrival::Poisson(f64::from(self.buyers) / self.over.as_secs_f64()),
        };
        let plan = Plan {
            target,
            route,
            buyers: self.buyers,
            arrival,
            in_flight: self.in_flight,
            attempts: self.attempts,
            timeout: self.timeout,
            tokens,
        };
        plan.validate().map(|()| plan)
    }

    /// The tokens of the buyers; none without --tokens.
    pub fn tokens(&self) -> Result<Arc<[HeaderValue]>> {
        let Some(path) = &self.tokens else {
            return Ok(Arc::default());
        };
        let file = || format!("--tokens {}", path.display());
        let text = std::fs::read_to_string(path).with_context(file)?;
        let tokens = authorizations(&text).with_context(file)?;
        ensure!(
            !tokens.is_empty(),
            "{}: the file is empty; expected one token per line",
            file()
        );
        Ok(tokens)
    }
}

/// One header for each line that is not blank.
fn authorizations(text: &str) -> Result<Arc<[HeaderValue]>> {
    let lines = text.lines().map(str::trim).enumerate();
    let tokens = lines.filter(|(_, token)| !token.is_empty()).map(|(n, token)| {
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .with_context(|| format!("line {}: invalid token; expected visible ASCII", n + 1))?;
        header.set_sensitive(true);
        Ok(header)
    });
    tokens.collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<jiff::SignedDuration, _> = text.parse();
    parsed
        .ok()
        .and_then(|d| Duration::try_from(d).ok())
        .ok_or_else(|| "expected a duration such as 500ms, 1s or 2m".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_valid() {
        Args::command().debug_assert();
    }

    #[test]
    fn each_line_of_the_file_is_a_token() {
        let tokens = authorizations("a.b.c\n\n d \r\n").expect("two tokens");
        assert_eq!(*tokens, ["Bearer a.b.c", "Bearer d"]);
        let error = format!("{:#}", authorizations("a\nb\u{7f}").expect_err("no token"));
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err());
        assert!(duration("-1s").is_err());
    }
}
