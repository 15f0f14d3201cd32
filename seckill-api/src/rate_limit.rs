//! How many requests an address or a buyer may make. Each process counts for itself.
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};
use seckill_protocol::Buyer;

use crate::client_address;
use crate::limits::MAX_RATE_LIMIT_BUCKETS;
use crate::recent::RecentMap;

/// The header fields of the IETF draft draft-ietf-httpapi-ratelimit-headers.
pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A client that was quiet may make the requests of so many seconds at once, since a page loads and a crowd arrives in bursts.
pub const BURST_SECONDS: u32 = 10;

/// Requests per second; 0: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimitConfig {
    pub per_address: u32,
    pub per_buyer: u32,
    /// Proxies in front that append to X-Forwarded-For. 0: the address of the peer counts.
    pub trusted_proxies: usize,
}

pub struct RateLimits<C: Clock = MonotonicClock> {
    addresses: Option<Limit<C>>,
    buyers: Option<Limit<C>>,
    /// Hashes buyers, whose names are long. Nobody can choose two that collide.
    hasher: RandomState,
    trusted_proxies: usize,
}

/// A client that makes too many requests, in the terms of the header fields RateLimit and RateLimit-Policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    pub policy: &'static str,
    pub quota: u32,
    pub window_seconds: u32,
    pub retry_after_seconds: u64,
}

type Limiter<C> = RateLimiter<u64, RecentBuckets, C, NoOpMiddleware<<C as Clock>::Instant>>;

struct Limit<C: Clock> {
    policy: &'static str,
    per_second: u32,
    limiter: Limiter<C>,
    clock: C,
}

impl Exceeded {
    pub fn header_fields(&self) -> [(HeaderName, HeaderValue); 2] {
        let Exceeded {
            policy,
            quota,
            window_seconds,
            retry_after_seconds,
        } = self;
        // Numbers and a fixed name are valid in a header.
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        [
            (RATE_LIMIT, value(format!("\"{policy}\";r=0;t={retry_after_seconds}"))),
            (
                RATE_LIMIT_POLICY,
                value(format!("\"{policy}\";q={quota};w={window_seconds}")),
            ),
        ]
    }
}

impl RateLimits {
    pub fn new(config: RateLimitConfig) -> Self {
        Self::with_clock(config, &MonotonicClock)
    }

    pub fn none() -> Self {
        Self::new(RateLimitConfig::default())
    }
}

impl<C: Clock + Clone> RateLimits<C> {
    pub fn with_clock(config: RateLimitConfig, clock: &C) -> Self {
        RateLimits {
            addresses: Limit::new("address", config.per_address, clock),
            buyers: Limit::new("buyer", config.per_buyer, clock),
            hasher: RandomState::new(),
            trusted_proxies: config.trusted_proxies,
        }
    }

    /// For each request, before anything is verified.
    pub fn charge_address(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Exceeded> {
        let Some(limit) = &self.addresses else {
            return Ok(());
        };
        let address = client_address::of_client(peer, headers, self.trusted_proxies);
        limit.charge(client_address::network(address))
    }

    /// For a request of a verified buyer, besides [`RateLimits::charge_address`].
    pub fn charge_buyer(&self, buyer: &Buyer) -> Result<(), Exceeded> {
        match &self.buyers {
            Some(limit) => limit.charge(self.hasher.hash_one(buyer)),
            None => Ok(()),
        }
    }
}

impl<C: Clock + Clone> Limit<C> {
    /// None: unlimited.
    fn new(policy: &'static str, per_second: u32, clock: &C) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?);
        let burst = NonZeroU32::new(per_second.saturating_mul(BURST_SECONDS))?;
        Some(Limit {
            policy,
            per_second,
            limiter: RateLimiter::new(quota.allow_burst(burst), RecentBuckets::default(), clock.clone()),
            clock: clock.clone(),
        })
    }

    fn charge(&self, key: u64) -> Result<(), Exceeded> {
        self.limiter.check_key(&key).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            Exceeded {
                policy: self.policy,
                quota: self.per_second.saturating_mul(BURST_SECONDS),
                window_seconds: BURST_SECONDS,
                retry_after_seconds: wait.as_secs() + 1,
            }
        })
    }
}

/// The state of each bucket. At the bound, the older half is forgotten: these clients start with a full bucket again. A
/// bucket that all others share would be no better bound, and would refuse buyers whenever somebody uses many addresses.
#[derive(Clone)]
struct RecentBuckets(Arc<Mutex<RecentMap<u64, Nanos>>>);

impl Default for RecentBuckets {
    fn default() -> Self {
        RecentBuckets(Arc::new(Mutex::new(RecentMap::bounded(MAX_RATE_LIMIT_BUCKETS))))
    }
}

impl StateStore for RecentBuckets {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut buckets = self.lock();
        let state = buckets.get(key).copied();
        match (measure(state), state) {
            (Ok((outcome, state)), _) => {
                buckets.insert(*key, state);
                Ok(outcome)
            }
            (Err(outcome), state) => {
                // A client that goes on is not forgotten.
                if let Some(state) = state {
                    buckets.insert(*key, state);
                }
                Err(outcome)
            }
        }
    }
}

impl RecentBuckets {
    /// The guarded data changes in single steps, so a panic elsewhere leaves it consistent.
    fn lock(&self) -> MutexGuard<'_, RecentMap<u64, Nanos>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use http::HeaderValue;

    use super::*;

    fn limits(config: RateLimitConfig) -> (RateLimits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RateLimits::with_clock(config, &clock), clock)
    }

    fn per_address(per_address: u32) -> RateLimitConfig {
        RateLimitConfig {
            per_address,
            ..RateLimitConfig::default()
        }
    }

    /// How many of so many requests were accepted.
    fn accepted<C: Clock + Clone>(limits: &RateLimits<C>, requests: usize, address: impl Fn(usize) -> String) -> usize {
        let headers = HeaderMap::new();
        let charge = |n: usize| limits.charge_address(address(n).parse().unwrap(), &headers);
        (0..requests).filter(|n| charge(*n).is_ok()).count()
    }

    #[test]
    fn an_address_may_make_a_burst_and_then_its_rate() {
        let (limits, clock) = limits(per_address(2));
        let same = |_| "203.0.113.9".to_owned();
        assert_eq!(accepted(&limits, 100, same), 20);
        let refused = limits.charge_address("203.0.113.9".parse().unwrap(), &HeaderMap::new());
        let expected = Exceeded {
            policy: "address",
            quota: 20,
            window_seconds: 10,
            retry_after_seconds: 1,
        };
        assert_eq!(refused, Err(expected));
        // Others are not affected.
        assert_eq!(accepted(&limits, 1, |_| "203.0.113.10".to_owned()), 1);
        clock.advance(Duration::from_secs(3));
        assert_eq!(accepted(&limits, 100, same), 6);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(accepted(&limits, 100, same), 20);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let (limits, _) = limits(per_address(1));
        assert_eq!(accepted(&limits, 100, |n| format!("2001:db8:0:1::{n:x}")), 10);
        assert_eq!(accepted(&limits, 100, |n| format!("2001:db8:0:2:{n:x}::1")), 10);
        assert_eq!(accepted(&limits, 100, |n| format!("2001:db8:{n:x}::1")), 100);
        assert_eq!(accepted(&limits, 50, |_| "::ffff:203.0.113.9".to_owned()), 10);
        assert_eq!(accepted(&limits, 50, |_| "203.0.113.9".to_owned()), 0);
    }

    #[test]
    fn a_client_can_not_choose_its_address() {
        let (limits, _) = limits(RateLimitConfig {
            trusted_proxies: 1,
            ..per_address(1)
        });
        let charge = |n: u32| {
            let forwarded = format!("198.51.100.{n}, 203.0.113.9");
            let headers = HeaderMap::from_iter([(
                "x-forwarded-for".parse().unwrap(),
                HeaderValue::from_str(&forwarded).unwrap(),
            )]);
            limits.charge_address("192.0.2.1".parse().unwrap(), &headers)
        };
        assert_eq!((0..100).filter(|n| charge(*n).is_ok()).count(), 10);
    }

    #[test]
    fn buyers_have_buckets_of_their_own() {
        let (limits, _) = limits(RateLimitConfig {
            per_buyer: 1,
            ..per_address(1)
        });
        let charge = |name: &str| limits.charge_buyer(&Buyer::anonymous(name));
        assert_eq!((0..100).filter(|_| charge("a").is_ok()).count(), 10);
        assert!(charge("b").is_ok());
        assert_eq!(charge("a").map_err(|exceeded| exceeded.policy), Err("buyer"));
        assert_eq!(accepted(&limits, 100, |_| "203.0.113.9".to_owned()), 10);
    }

    #[test]
    fn a_limit_of_0_is_no_limit() {
        let limits = RateLimits::none();
        assert_eq!(accepted(&limits, 1000, |_| "203.0.113.9".to_owned()), 1000);
        assert!((0..1000).all(|_| limits.charge_buyer(&Buyer::anonymous("a")).is_ok()));
    }

    #[test]
    fn a_million_addresses_stay_within_the_bound() {
        let buckets = RecentBuckets::default();
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(10).unwrap());
        let limiter = Limiter::new(quota, buckets.clone(), FakeRelativeClock::default());
        let busy = u64::MAX;
        let (mut busy_accepted, mut max_bytes) = (0, 0);
        for address in 0..1_000_000 {
            assert!(limiter.check_key(&address).is_ok());
            if address % 1000 == 0 {
                busy_accepted += usize::from(limiter.check_key(&busy).is_ok());
                max_bytes = max_bytes.max(buckets.bytes());
            }
        }
        println!("a million addresses: at most {max_bytes} bytes");
        assert!(max_bytes < 6 * 1024 * 1024, "{max_bytes}");
        // A client that goes on stays limited meanwhile.
        assert_eq!(busy_accepted, 10);
    }

    impl RecentBuckets {
        /// Of both tables: they have a power of two of places, of which 7/8 can be used, and one byte more for each.
        fn bytes(&self) -> usize {
            let buckets = self.lock();
            assert!(buckets.len() <= MAX_RATE_LIMIT_BUCKETS);
            let places = buckets
                .capacities()
                .map(|capacity| (capacity * 8 / 7).next_power_of_two());
            places.iter().sum::<usize>() * (size_of::<(u64, Nanos)>() + 1)
        }
    }
}
