//! The API over HTTP, on a real Redis, Kafka and MySQL.
mod access;
mod bad_input;
mod browser;
mod buying;
mod client;
mod connections;
mod contract;
mod cross_origin;
mod format;
mod harness;
mod health;
#[path = "../identity/issuer.rs"]
#[expect(dead_code, reason = "the tests of the verification need more of it")]
mod issuer;
#[path = "../identity/keys.rs"]
#[expect(dead_code, reason = "the tests of the verification need more of it")]
mod keys;
mod legacy;
mod orders;
mod other_programs;
mod program;
mod proxy;
mod rate_limit;
mod recovery;
mod sales;
mod schemathesis;
mod switchover;
mod tiers;
mod typescript;
