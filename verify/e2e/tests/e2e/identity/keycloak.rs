//! Keycloak, with the realm of examples/keycloak under another name.
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{repository, text_field};
use serde_json::{Value, json};

use super::issuer::{BUYERS, Issuer};

const REALM: &str = "e2e";
const PASSWORD: &str = "of-a-test";

/// The server that `cargo xtask test extended` has started.
pub struct Server {
    pub url: String,
    pub password: String,
    /// The folder of kcadm.sh.
    pub programs: String,
    start: Value,
    stop: Value,
}

pub struct Keycloak {
    server: Server,
    url: String,
    agent: ureq::Agent,
}

impl Server {
    pub fn from_environment() -> Result<Self> {
        let text = std::env::var("SECKILL_KEYCLOAK").context("SECKILL_KEYCLOAK is not set")?;
        let server: Value = serde_json::from_str(&text).context("SECKILL_KEYCLOAK")?;
        let field = |name: &str| text_field(&server, name).map(str::to_owned);
        Ok(Server {
            url: field("url")?,
            password: field("password")?,
            programs: field("programs")?,
            start: server["start"].clone(),
            stop: server["stop"].clone(),
        })
    }
}

impl Keycloak {
    /// Creates the realm anew.
    pub fn from_environment() -> Result<Self> {
        let server = Server::from_environment()?;
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let keycloak = Keycloak {
            url: format!("{}/realms/{REALM}", server.url),
            server,
            agent: config.build().into(),
        };
        let mut delete = keycloak.agent.delete(keycloak.admin_url(&format!("/{REALM}")));
        delete = delete.header("authorization", keycloak.admin()?);
        let status = delete.call()?.status();
        ensure!(matches!(status.as_u16(), 204 | 404), "deleting the realm: {status}");
        keycloak.create("", &realm()?)?;
        Ok(keycloak)
    }

    fn admin_url(&self, path: &str) -> String {
        format!("{}/admin/realms{path}", self.server.url)
    }

    /// The header Authorization of the administrator, for a minute.
    fn admin(&self) -> Result<String> {
        let token = self.log_in("master", "admin-cli", "admin", &self.server.password)?;
        Ok(format!("Bearer {token}"))
    }

    fn create(&self, path: &str, object: &Value) -> Result<()> {
        let request = self.agent.post(self.admin_url(path));
        let mut response = request.header("authorization", self.admin()?).send_json(object)?;
        let status = response.status();
        ensure!(
            status.as_u16() == 201,
            "{path}: {status} {}",
            response.body_mut().read_to_string()?
        );
        Ok(())
    }

    /// The access token.
    fn log_in(&self, realm: &str, client: &str, user: &str, password: &str) -> Result<String> {
        let url = format!("{}/realms/{realm}/protocol/openid-connect/token", self.server.url);
        let form = [
            ("grant_type", "password"),
            ("client_id", client),
            ("username", user),
            ("password", password),
        ];
        let answer: Value = self.agent.post(url).send_form(form)?.body_mut().read_json()?;
        text_field(&answer, "access_token").map(str::to_owned)
    }

    fn log_in_buyer(&self, client: &str, buyer: usize) -> Result<String> {
        self.log_in(REALM, client, &format!("buyer-{buyer}"), PASSWORD)
    }
}

/// The realm of the example, with other users.
fn realm() -> Result<Value> {
    let file = repository().join("examples/keycloak/shop-realm.json");
    let mut realm: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let user = |buyer: usize| {
        json!({
            "username": format!("buyer-{buyer}"), "enabled": true, "emailVerified": true,
            "email": format!("buyer-{buyer}@shop.example.com"), "firstName": "Buyer", "lastName": "Buyer",
            "realmRoles": [format!("default-roles-{REALM}")],
            "groups": if buyer == 0 { vec!["gold"] } else { Vec::new() },
            "credentials": [{"type": "password", "value": PASSWORD}],
        })
    };
    realm["realm"] = json!(REALM);
    realm["users"] = (0..BUYERS).map(user).collect();
    Ok(realm)
}

impl Issuer for Keycloak {
    fn url(&self) -> &str {
        &self.url
    }

    fn token(&self, buyer: usize) -> Result<String> {
        self.log_in_buyer("shop-tests", buyer)
    }

    /// `account`, as Keycloak writes it for every client.
    fn token_of_other_audience(&self, buyer: usize) -> Result<String> {
        self.log_in_buyer("newsletter", buyer)
    }

    fn rotate_keys(&self) -> Result<()> {
        let key = json!({
            "name": "rotated", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
            "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"], "algorithm": ["RS256"]},
        });
        self.create(&format!("/{REALM}/components"), &key)
    }

    fn stop(&self) -> Result<()> {
        run(&self.server.stop)
    }

    /// Returns when it answers.
    fn start(&self) -> Result<()> {
        run(&self.server.start)
    }
}

fn run(command: &Value) -> Result<()> {
    let words: Vec<_> = command
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (program, args) = words.split_first().context("no command")?;
    let output = Command::new(program).args(args).output()?;
    ensure!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
