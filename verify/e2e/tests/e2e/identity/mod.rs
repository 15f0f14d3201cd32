//! Sales whose buyers log in at an issuer of tokens: the same scenarios with an issuer of the tests, and with Keycloak.
mod issuer;
mod keycloak;
mod scenarios;
mod shop;
mod signed_crowd;
mod test_issuer;

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Error, Result};
use libtest_mimic::Trial;
use seckill_e2e::Release;

use keycloak::Keycloak;
pub use keycloak::Server as KeycloakServer;
use scenarios::SCENARIOS;
use shop::{Scenario, Shop};
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
    [SCENARIOS, signed_crowd::SCENARIOS]
        .into_iter()
        .flat_map(|scenarios| trials("identity", &TEST_ISSUER, shop, scenarios))
        .collect()
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
    trials("identity with Keycloak", &KEYCLOAK, shop, SCENARIOS)
}

/// The first of them opens the shop.
fn trials(
    kind: &str,
    shop: &'static OnceLock<Result<Shop, String>>,
    open: impl Fn() -> Result<Shop> + Copy + Send + 'static,
    scenarios: &'static [(&str, Scenario)],
) -> Vec<Trial> {
    let trial = |&(name, scenario): &'static (&str, Scenario)| {
        Trial::test(name, move || {
            let shop = shop.get_or_init(|| open().map_err(|error| format!("failed to open the shop: {error:#}")));
            scenario(shop.as_ref()?).map_err(|error| format!("{error:#}").into())
        })
        .with_kind(kind)
    };
    scenarios.iter().map(trial).collect()
}
