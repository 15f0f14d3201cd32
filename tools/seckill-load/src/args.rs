//! The command line.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use http::HeaderValue;
use seckill_load::{Arrival, Crowd, CrowdPlan, InvalidPlan, Plan, Route, Target, Tier};
use seckill_test_issuer::Key;

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
    /// Signs a token for each buyer before the run, with the private key of the issuer: a PEM file, for ES256. See `cargo xtask
    /// issuer`
    #[arg(long, value_name = "FILE.pem", requires_all = ["issuer", "audience"], conflicts_with_all = ["tokens", "item"])]
    token_key: Option<PathBuf>,
    /// Issuer of the signed tokens: their claim `iss`
    #[arg(long, value_name = "URL", requires = "token_key")]
    issuer: Option<String>,
    /// Audience of the signed tokens: their claim `aud`
    #[arg(long, value_name = "NAME", requires = "token_key")]
    audience: Option<String>,
    /// Number of different people among the buyers, each with one token. With fewer people than buyers, one person buys several
    /// times [default: as many as buyers]
    #[arg(long, value_name = "N", requires = "token_key")]
    people: Option<u32>,
    /// Tier of a share of the people, for example gold,share=0.1,opens-before=10m,limit=2; can be repeated. The tier is a claim
    /// of their tokens. It opens so long before the start of the sale, and has its own limit per buyer
    #[arg(long = "tier", value_name = "NAME,share=0.1", value_parser = tier, requires = "token_key")]
    tiers: Vec<Tier>,
    /// Claim that has the name of the tier
    #[arg(long, value_name = "NAME", default_value = "tier")]
    tier_claim: String,
    /// Limit per buyer of the sale: checks that nobody got more units. Another run has other people
    #[arg(long, value_name = "N", requires = "token_key")]
    pub limit_per_buyer: Option<u32>,
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

    /// The crowd whose tokens this program signs; none without --token-key.
    pub fn crowd(&self) -> Result<Option<Crowd>> {
        let (Some(path), Some(issuer), Some(audience)) = (&self.token_key, &self.issuer, &self.audience) else {
            return Ok(None);
        };
        let file = || format!("--token-key {}", path.display());
        let key = Key::ec_from_pem(&std::fs::read_to_string(path).with_context(file)?).with_context(file)?;
        let people = self.people.unwrap_or(self.buyers);
        ensure!(
            (1..=self.buyers).contains(&people),
            "--people {people}; expected 1 to {}, the number of buyers",
            self.buyers
        );
        let shares: f64 = self.tiers.iter().map(|tier| tier.share).sum();
        ensure!(
            shares <= 1.0,
            "the shares of the tiers add up to {shares}; expected at most 1"
        );
        let plan = CrowdPlan {
            issuer: issuer.clone(),
            audience: audience.clone(),
            people,
            tiers: self.tiers.clone(),
            tier_claim: self.tier_claim.clone(),
            lasting: self.over,
        };
        Ok(Some(Crowd::sign(&key, plan)))
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

fn tier(text: &str) -> Result<Tier, String> {
    let expected = || "expected a tier such as gold,share=0.1,opens-before=10m,limit=2".to_string();
    let (name, fields) = text.split_once(',').ok_or_else(expected)?;
    let mut tier = Tier {
        name: name.to_owned(),
        share: 0.0,
        opens_before: Duration::ZERO,
        limit: None,
    };
    for field in fields.split(',') {
        match field.split_once('=').ok_or_else(expected)? {
            ("share", value) => tier.share = value.parse().map_err(|_| expected())?,
            ("opens-before", value) => tier.opens_before = duration(value)?,
            ("limit", value) => tier.limit = Some(value.parse().map_err(|_| expected())?),
            _ => return Err(expected()),
        }
    }
    match tier.share > 0.0 && tier.share <= 1.0 && !name.is_empty() {
        true => Ok(tier),
        false => Err(expected()),
    }
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
    fn a_tier_has_a_name_and_a_share() {
        let gold = tier("gold,share=0.1,opens-before=10m,limit=2").expect("a tier");
        assert_eq!((gold.name.as_str(), gold.share, gold.limit), ("gold", 0.1, Some(2)));
        assert_eq!(gold.opens_before, Duration::from_secs(600));
        assert_eq!(tier("silver,share=1").expect("a tier").limit, None);
        for bad in [
            "gold",
            "gold,",
            "gold,0.1",
            ",share=0.1",
            "gold,share=0",
            "gold,share=2",
            "gold,share=nan",
            "gold,price=1",
        ] {
            assert!(tier(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err());
        assert!(duration("-1s").is_err());
    }
}
