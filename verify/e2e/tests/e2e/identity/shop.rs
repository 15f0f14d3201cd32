//! A release that knows an issuer, and sales whose buyers need its tokens.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{ApiClient, ApiResponse, PurchaseResult, Release, Sale, new_key, wait_until};
use serde_json::{Value, json};

use super::issuer::Issuer;

pub type Scenario = fn(&Shop) -> Result<()>;

/// Generous, for a busy machine. Nothing waits longer than necessary.
pub const WAIT_LIMIT: Duration = Duration::from_secs(120);
/// The name of the issuer in the values of the release.
const NAME: &str = "main";
pub const AUDIENCE: &str = "seckill";
/// Of the API, at any time: a pod that starts while the issuer is away has no keys.
const PODS: usize = 2;

pub struct Shop {
    pub release: &'static Release,
    pub issuer: Box<dyn Issuer>,
    /// How long the issuer is away at least.
    pub outage: Duration,
    namespace: String,
}

/// The fetches of keys by one pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetches {
    pub succeeded: u64,
    pub failed: u64,
}

impl Fetches {
    pub fn all(self) -> u64 {
        self.succeeded + self.failed
    }
}

impl Shop {
    pub fn open(release: &'static Release, issuer: impl Issuer + 'static, outage: Duration) -> Result<Self> {
        let issuers = json!([{"name": NAME, "url": issuer.url(), "audiences": [AUDIENCE], "tierClaim": "/tier"}]);
        let pods = format!("api.minReplicas={PODS},api.maxReplicas={PODS}");
        release.upgrade(&["--set-json", &format!("issuers={issuers}"), "--set", &pods])?;
        release.wait_until_reachable()?;
        Ok(Shop {
            release,
            issuer: Box::new(issuer),
            outage,
            namespace: release.sales_namespace()?,
        })
    }

    /// Opens a sale for buyers with a token, when each pod has keys.
    pub fn sale(&self, name: &str, stock: u64, limit: Option<u64>) -> Result<Sale<'static>> {
        let limit = limit.map_or(json!({}), |limit| json!({"limitPerBuyer": limit}));
        self.sale_with(name, stock, -1, &limit)
    }

    /// The same with more fields in its spec. A tier may buy before it starts.
    pub fn sale_with(&self, name: &str, stock: u64, starts_in: i64, fields: &Value) -> Result<Sale<'static>> {
        let mut manifest = Sale::manifest(
            &self.release.class,
            &self.namespace,
            name,
            stock,
            starts_in,
            starts_in.max(0) + 600,
        );
        manifest["spec"]["access"] = json!({"issuer": NAME});
        for (field, value) in fields.as_object().into_iter().flatten() {
            manifest["spec"][field] = value.clone();
        }
        let sale = Sale::apply(&self.release.cluster, &manifest)?;
        sale.wait_for_phase("Open", WAIT_LIMIT)?;
        wait_until("each pod to have keys", WAIT_LIMIT, || {
            let fetches = self.fetches()?;
            let ready = fetches.len() == PODS && fetches.iter().all(|pod| pod.succeeded > 0);
            Ok(ready.then_some(()))
        })?;
        Ok(sale)
    }

    pub fn path(&self, sale: &Sale) -> String {
        format!("{}/{}", sale.namespace, sale.name)
    }

    /// A buyer with a new token.
    pub fn buyer(&self, number: usize) -> Result<ApiClient> {
        Ok(self.release.api.with_token(&self.issuer.token(number)?))
    }

    /// From the metrics of each pod.
    pub fn fetches(&self) -> Result<Vec<Fetches>> {
        let pods = self.release.pods("api")?;
        pods.iter().map(|pod| self.fetches_of(pod)).collect()
    }

    fn fetches_of(&self, pod: &str) -> Result<Fetches> {
        let pod = pod.strip_prefix("pod/").unwrap_or(pod);
        let namespace = &self.release.namespace;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:9090/proxy/metrics");
        let text = self.release.cluster.kubectl(&["get", "--raw", &path])?;
        let count = |result: &str| {
            let metric = format!("seckill_api_issuer_key_fetches_total{{issuer=\"{NAME}\",result=\"{result}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&metric));
            value.map_or(Ok(0), |value| value.trim().parse().with_context(|| value.to_owned()))
        };
        Ok(Fetches {
            succeeded: count("succeeded")?,
            failed: count("failed")?,
        })
    }

    /// Buys one unit with a valid token. An answer that has to do with the token is an error at once, also one after
    /// which a buyer would retry. A machine that is too busy may cause others.
    pub fn buy(&self, buyer: &ApiClient, path: &str) -> Result<ApiResponse> {
        let key = new_key();
        wait_until("a final answer", WAIT_LIMIT, || {
            let answer = buyer.buy(path, &key)?;
            let refused = answer.status == 401 || answer.code() == "issuer_unavailable";
            Ok(match answer.result() {
                PurchaseResult::Open if !refused => None,
                _ => Some(answer),
            })
        })
    }

    pub fn check_bought(answer: &ApiResponse) -> Result<()> {
        ensure!(answer.result() == PurchaseResult::Won, "not bought: {answer:?}");
        Ok(())
    }
}
