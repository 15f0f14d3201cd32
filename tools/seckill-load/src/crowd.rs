//! A crowd whose members have tokens of an issuer. They are signed before the run, so signing is no part of the load.
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;
use seckill_test_issuer::Key;
use serde_json::json;
use uuid::Uuid;

/// How long a token is valid, besides the time in which the buyers arrive: for retries and look-ups.
const VALIDITY: Duration = Duration::from_secs(3600);
/// Multiples of it, modulo 1, are spread evenly however many there are: the golden ratio.
const SPREAD: f64 = 0.618_033_988_749_895;

#[derive(Debug, Clone)]
pub struct CrowdPlan {
    /// The claim `iss`.
    pub issuer: String,
    /// The claim `aud`.
    pub audience: String,
    /// The number of people. Each has one token.
    pub people: u32,
    pub tiers: Vec<Tier>,
    /// The claim that has the name of the tier.
    pub tier_claim: String,
    /// How long buyers arrive.
    pub lasting: Duration,
}

/// A tier of some people of the crowd.
#[derive(Debug, Clone, PartialEq)]
pub struct Tier {
    pub name: String,
    /// The share of the people, up to 1.
    pub share: f64,
    /// How long before its start the sale opens for this tier.
    pub opens_before: Duration,
    /// The limit per buyer of this tier, if it has its own.
    pub limit: Option<u32>,
}

/// People with a token each. Their subjects are new in each run, so nobody has orders of an earlier one.
#[derive(Debug, Clone)]
pub struct Crowd {
    tokens: Arc<[HeaderValue]>,
    tiers: Vec<Tier>,
}

impl Crowd {
    pub fn sign(key: &Key, plan: CrowdPlan) -> Self {
        let (run, now) = (Uuid::new_v4(), Timestamp::now().as_second());
        let expires = now + (plan.lasting + VALIDITY).as_secs() as i64;
        let mut crowd = Crowd {
            tokens: Arc::default(),
            tiers: plan.tiers,
        };
        let tokens = (0..plan.people as usize).map(|person| {
            let mut claims = json!({
                "iss": plan.issuer, "aud": plan.audience, "sub": format!("load-{run}-{person}"), "iat": now, "exp": expires,
            });
            if let Some(tier) = crowd.tier(person) {
                claims[&plan.tier_claim] = json!(tier.name);
            }
            bearer(&key.token(&claims))
        });
        crowd.tokens = tokens.collect();
        crowd
    }

    /// Values of `Authorization`, one for each person.
    pub fn tokens(&self) -> Arc<[HeaderValue]> {
        self.tokens.clone()
    }

    /// Who this buyer is.
    pub(crate) fn person(&self, buyer: usize) -> usize {
        buyer % self.tokens.len().max(1)
    }

    /// People of all tiers are mixed.
    pub(crate) fn tier(&self, person: usize) -> Option<&Tier> {
        let at = (person as f64 * SPREAD).fract();
        let mut end = 0.0;
        self.tiers.iter().find(|tier| {
            end += tier.share;
            at < end
        })
    }

    pub(crate) fn has_limits(&self) -> bool {
        self.tiers.iter().any(|tier| tier.limit.is_some())
    }
}

fn bearer(token: &str) -> HeaderValue {
    // A token has only letters, digits, and the characters - _ and .
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).unwrap_or(HeaderValue::from_static(""));
    header.set_sensitive(true);
    header
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tier(name: &str, share: f64) -> Tier {
        Tier {
            name: name.into(),
            share,
            opens_before: Duration::ZERO,
            limit: None,
        }
    }

    fn crowd(people: u32) -> Crowd {
        let plan = CrowdPlan {
            issuer: "https://login.example".into(),
            audience: "shop".into(),
            people,
            tiers: vec![tier("gold", 0.1), tier("silver", 0.2)],
            tier_claim: "level".into(),
            lasting: Duration::ZERO,
        };
        Crowd::sign(&Key::ec("a"), plan)
    }

    #[test]
    fn each_tier_has_its_share_of_the_people_and_of_those_who_come_first() {
        let crowd = crowd(1000);
        for (people, tolerance) in [(1000, 2), (100, 2)] {
            let of = |name| {
                (0..people)
                    .filter(|n| crowd.tier(*n).is_some_and(|tier| tier.name == name))
                    .count()
            };
            for (name, tenths) in [("gold", 1), ("silver", 2)] {
                let expected = people * tenths / 10;
                assert!(
                    of(name).abs_diff(expected) <= tolerance,
                    "{name}: {} of {people}",
                    of(name)
                );
            }
        }
    }

    #[test]
    fn people_have_different_tokens_and_buyers_share_them_in_turn() {
        let crowd = crowd(10);
        let distinct: HashSet<_> = crowd.tokens().iter().cloned().collect();
        assert_eq!(distinct.len(), 10);
        assert_eq!((crowd.person(3), crowd.person(13)), (3, 3));
        // Another run has other people.
        assert!(
            super::tests::crowd(10)
                .tokens()
                .iter()
                .all(|token| !distinct.contains(token))
        );
    }
}
