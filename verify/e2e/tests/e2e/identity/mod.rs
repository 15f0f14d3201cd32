//! Sales whose buyers log in at an issuer of tokens: the same scenarios with an issuer of the tests, and with Keycloak.
mod keycloak;
mod scenarios;
mod shop;
mod test_issuer;

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Error, Result};
use libtest_mimic::Trial;

use crate::release;
use keycloak::Keycloak;
pub use keycloak::Server as KeycloakServer;
use scenarios::SCENARIOS;
use shop::Shop;
use test_issuer::OwnIssuer;

/// An issuer of tokens, and its buyers, who are numbered.
pub trait Issuer: Send + Sync {
    /// The claim `iss`.
    fn url(&self) -> &str;

    /// A new token for the shop.
    fn token(&self, buyer: usize) -> Result<String>;

    /// A new token for another application of the same issuer.
    fn token_of_other_audience(&self, buyer: usize) -> Result<String>;

    /// Later tokens have another key. Tokens of the keys before stay valid.
    fn rotate_keys(&self) -> Result<()>;

    /// It answers nothing until it is started again.
    fn stop(&self) -> Result<()>;

    fn start(&self) -> Result<()>;
}

/// Buyers are numbered from 0 to less than this.
pub const BUYERS: usize = 24;

static TEST_ISSUER: OnceLock<Result<Shop, String>> = OnceLock::new();
static KEYCLOAK: OnceLock<Result<Shop, String>> = OnceLock::new();

pub fn with_test_issuer() -> Vec<Trial> {
    let shop = || {
        Shop::open(
            release().map_err(Error::msg)?,
            OwnIssuer::start()?,
            Duration::from_secs(1),
        )
    };
    trials("identity", &TEST_ISSUER, shop)
}

/// `cargo xtask test extended` runs them.
pub fn with_keycloak() -> Vec<Trial> {
    let shop = || {
        Shop::open(
            release().map_err(Error::msg)?,
            Keycloak::from_environment()?,
            Duration::from_secs(60),
        )
    };
    trials("identity with Keycloak", &KEYCLOAK, shop)
}

/// The first of them opens the shop.
fn trials(kind: &str, shop: &'static OnceLock<Result<Shop, String>>, open: fn() -> Result<Shop>) -> Vec<Trial> {
    let trial = |&(name, scenario): &'static (&str, shop::Scenario)| {
        Trial::test(name, move || {
            let shop = shop.get_or_init(|| open().map_err(|error| format!("failed to open the shop: {error:#}")));
            scenario(shop.as_ref()?).map_err(|error| format!("{error:#}").into())
        })
        .with_kind(kind)
    };
    SCENARIOS.iter().map(trial).collect()
}
