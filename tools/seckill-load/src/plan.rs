//! The plan of a run, validated before it starts.
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rand::Rng;

use crate::target::Target;

/// A run of one sale.
#[derive(Debug, Clone)]
pub struct Plan {
    pub target: Target,
    pub route: Route,
    /// The number of buyers. Each wants one order.
    pub buyers: u32,
    pub arrival: Arrival,
    /// The maximum number of requests in flight, and so of connections.
    pub in_flight: usize,
    /// The maximum number of requests of one buyer, including the first one.
    pub attempts: u32,
    /// Time limit for one answer.
    pub timeout: Duration,
    /// Values of `Authorization`, given to the buyers in turn. If empty, no buyer sends this header.
    pub tokens: Arc<[HeaderValue]>,
}

/// The interface by which the buyers buy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /v1/sales/{namespace}/{name}/orders`, with a UUID as idempotency key: a retry can't buy twice.
    V1 {
        namespace: String,
        name: String,
        quantity: u32,
    },
    /// `POST /seckill/buy`. It has no key, so a request that may have arrived is not retried.
    Legacy { item_id: i64 },
}

/// When the buyers arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    AtOnce,
    /// Each at a random moment of this time, independently.
    Uniform(Duration),
    /// Independently, this many per second on average.
    Poisson(f64),
    /// At a rate that rises from 0 during this time. The final rate is twice the average.
    Ramp(Duration),
}

/// A plan that can't be run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    #[error("{field}: {found}; expected {expected}")]
    Range {
        field: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error(
        "sale {0:?} is invalid; expected namespace/name as in Kubernetes, for example shop/phones or shop/phones.v2: \
         lower-case letters, digits, hyphens, and dots in the name"
    )]
    Sale(String),
}

impl Route {
    /// The v1 route of `namespace/name`.
    pub fn v1(sale: &str, quantity: u32) -> Result<Self, InvalidPlan> {
        match sale.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_subdomain(name) => Ok(Route::V1 {
                namespace: namespace.into(),
                name: name.into(),
                quantity,
            }),
            _ => Err(InvalidPlan::Sale(sale.into())),
        }
    }

    /// Units that one won order holds.
    pub fn quantity(&self) -> u32 {
        match self {
            Route::V1 { quantity, .. } => *quantity,
            Route::Legacy { .. } => 1,
        }
    }
}

/// A DNS label, as the name of a namespace is.
fn is_label(text: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=63).contains(&text.len())
        && text.as_bytes().iter().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS subdomain, as the name of a FlashSale is.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

impl Plan {
    /// What a buyer sends as `Authorization`.
    pub(crate) fn token(&self, buyer: usize) -> Option<&HeaderValue> {
        self.tokens.get(buyer % self.tokens.len().max(1))
    }

    pub fn validate(&self) -> Result<(), InvalidPlan> {
        let range = |field, found: String, expected| InvalidPlan::Range { field, found, expected };
        if !(1..=10_000_000).contains(&self.buyers) {
            return Err(range("buyers", self.buyers.to_string(), "1 to 10000000"));
        }
        if !(1..=20_000).contains(&self.in_flight) {
            return Err(range("in-flight", self.in_flight.to_string(), "1 to 20000"));
        }
        if !(1..=100).contains(&self.attempts) {
            return Err(range("attempts", self.attempts.to_string(), "1 to 100"));
        }
        if self.timeout.is_zero() {
            return Err(range("timeout", "0".into(), "more than 0"));
        }
        if self.route.quantity() == 0 {
            return Err(range("quantity", "0".into(), "1 or more"));
        }
        match self.arrival {
            Arrival::Poisson(rate) if !(rate.is_finite() && (0.001..=1e6).contains(&rate)) => Err(range(
                "arrival",
                format!("{rate} buyers per second"),
                "0.001 to 1000000 buyers per second",
            )),
            _ => Ok(()),
        }
    }
}

impl Arrival {
    /// The arrival times from the start of the run, in order.
    pub(crate) fn schedule(self, buyers: u32, rng: &mut impl Rng) -> Vec<Duration> {
        match self {
            Arrival::AtOnce => vec![Duration::ZERO; buyers as usize],
            Arrival::Uniform(over) => {
                let mut times: Vec<_> = (0..buyers).map(|_| over.mul_f64(rng.random::<f64>())).collect();
                times.sort_unstable();
                times
            }
            Arrival::Ramp(over) => {
                let all = f64::from(buyers);
                // The share of the buyers who have arrived at time t is (t / over) squared.
                let at = |n| (f64::from(n) + rng.random::<f64>()) / all;
                (0..buyers).map(at).map(|share| over.mul_f64(share.sqrt())).collect()
            }
            Arrival::Poisson(rate) => {
                let mut at = 0.0;
                (0..buyers)
                    .map(|_| {
                        // 1 - random is in (0, 1]: its logarithm is finite.
                        at -= (1.0 - rng.random::<f64>()).ln() / rate;
                        Duration::from_secs_f64(at)
                    })
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn schedule(arrival: Arrival, buyers: u32) -> Vec<Duration> {
        arrival.schedule(buyers, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn each_arrival_schedules_every_buyer_in_order() {
        let second = Duration::from_secs(1);
        for arrival in [
            Arrival::AtOnce,
            Arrival::Uniform(second),
            Arrival::Poisson(500.0),
            Arrival::Ramp(second),
        ] {
            let times = schedule(arrival, 1_000);
            assert_eq!(times.len(), 1_000, "{arrival:?}");
            assert!(times.is_sorted(), "{arrival:?}");
        }
    }

    #[test]
    fn uniform_arrivals_fill_exactly_their_time() {
        let times = schedule(Arrival::Uniform(Duration::from_secs(1)), 10_000);
        assert!(times[9_999] < Duration::from_secs(1));
        let first_half = times.iter().filter(|t| **t < Duration::from_millis(500)).count();
        assert!((4_700..5_300).contains(&first_half), "{first_half}");
    }

    #[test]
    fn a_quarter_of_a_ramp_arrives_in_its_first_half() {
        let times = schedule(Arrival::Ramp(Duration::from_secs(1)), 10_000);
        assert!(times[9_999] <= Duration::from_secs(1));
        let first_half = times.iter().filter(|t| **t < Duration::from_millis(500)).count();
        assert!((2_490..2_510).contains(&first_half), "{first_half}");
    }

    #[test]
    fn poisson_arrivals_have_the_requested_rate() {
        let times = schedule(Arrival::Poisson(1_000.0), 10_000);
        let seconds = times[9_999].as_secs_f64();
        assert!((9.0..11.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_sale_is_a_namespace_and_a_name() {
        for good in ["shop/phones", "shop/phones.v2", "shop/2026.11-black"] {
            assert!(Route::v1(good, 1).is_ok(), "{good}");
        }
        for bad in [
            "",
            "phones",
            "/",
            "shop/",
            "shop/a/b",
            "shop/a?b",
            "shop/A",
            "../x",
            "a.b/x",
            "shop/.",
            "shop/..",
            "shop/a..b",
            "shop/a.",
            "shop/-a",
            "shop/a.-b",
        ] {
            assert_eq!(Route::v1(bad, 1), Err(InvalidPlan::Sale(bad.into())));
        }
    }

    #[tokio::test]
    async fn an_invalid_plan_names_the_field() {
        let target = Target::resolve("http://127.0.0.1:1", &[]).await.expect("valid");
        let plan = Plan {
            target,
            route: Route::Legacy { item_id: 1 },
            buyers: 1,
            arrival: Arrival::AtOnce,
            in_flight: 1,
            attempts: 1,
            timeout: Duration::from_secs(1),
            tokens: Arc::default(),
        };
        assert_eq!(plan.validate(), Ok(()));
        let wrong = [
            (
                Plan {
                    buyers: 0,
                    ..plan.clone()
                },
                "buyers",
            ),
            (
                Plan {
                    in_flight: 0,
                    ..plan.clone()
                },
                "in-flight",
            ),
            (
                Plan {
                    attempts: 0,
                    ..plan.clone()
                },
                "attempts",
            ),
            (
                Plan {
                    timeout: Duration::ZERO,
                    ..plan.clone()
                },
                "timeout",
            ),
            (
                Plan {
                    route: Route::V1 {
                        namespace: "a".into(),
                        name: "b".into(),
                        quantity: 0,
                    },
                    ..plan.clone()
                },
                "quantity",
            ),
            (
                Plan {
                    arrival: Arrival::Poisson(f64::NAN),
                    ..plan.clone()
                },
                "arrival",
            ),
            (
                Plan {
                    arrival: Arrival::Poisson(0.0),
                    ..plan
                },
                "arrival",
            ),
        ];
        for (plan, field) in wrong {
            let error = plan.validate().expect_err(field).to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
