//! Sales whose buyers log in at an issuer of tokens: the same scenarios with an issuer of the tests, and with Keycloak.
mod issuer;
mod keycloak;
mod scenarios;
mod shop;
mod test_issuer;

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Error, Result};
use libtest_mimic::Trial;
use seckill_e2e::Release;

use keycloak::Keycloak;
pub use keycloak::Server as KeycloakServer;
use scenarios::SCENARIOS;
use shop::Shop;
use test_issuer::OwnIssuer;

static TEST_ISSUER: OnceLock<Result<Shop, String>> = OnceLock::new();
static KEYCLOAK: OnceLock<Result<Shop, String>> = OnceLock::new();

/// Installs the release when the first scenario needs it.
type Install = fn() -> Result<&'static Release, String>;

pub fn with_test_issuer(release: Install) -> Vec<Trial> {
    let shop = move || {
        Shop::open(
            release().map_err(Error::msg)?,
            OwnIssuer::start()?,
            Duration::from_secs(1),
        )
    };
    trials("identity", &TEST_ISSUER, shop)
}

/// `cargo xtask test extended` runs them.
pub fn with_keycloak(release: Install) -> Vec<Trial> {
    let shop = move || {
        Shop::open(
            release().map_err(Error::msg)?,
            Keycloak::from_environment()?,
            Duration::from_secs(60),
        )
    };
    trials("identity with Keycloak", &KEYCLOAK, shop)
}

/// The first of them opens the shop.
fn trials(
    kind: &str,
    shop: &'static OnceLock<Result<Shop, String>>,
    open: impl Fn() -> Result<Shop> + Copy + Send + 'static,
) -> Vec<Trial> {
    let trial = |&(name, scenario): &'static (&str, shop::Scenario)| {
        Trial::test(name, move || {
            let shop = shop.get_or_init(|| open().map_err(|error| format!("failed to open the shop: {error:#}")));
            scenario(shop.as_ref()?).map_err(|error| format!("{error:#}").into())
        })
        .with_kind(kind)
    };
    SCENARIOS.iter().map(trial).collect()
}
