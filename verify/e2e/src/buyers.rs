//! Buyers, who reach the API through the ingress.
use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::typestate::WithoutBody;
use ureq::{Body, RequestBuilder};
use uuid::Uuid;

use crate::concurrent::at_the_same_time;

/// A client of the HTTP API of a release.
#[derive(Clone)]
pub struct ApiClient {
    url: String,
    /// The ingress finds the release by its host name.
    host: String,
    /// Of the buyer; None is anonymous.
    token: Option<String>,
    agent: ureq::Agent,
}

/// A response with any status.
#[derive(Debug, Clone)]
pub struct ApiResponse {
    pub status: u16,
    /// The header WWW-Authenticate.
    pub challenge: Option<String>,
    pub body: Value,
}

/// What a response means to a buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PurchaseResult {
    Won,
    SoldOut,
    NotStarted,
    Ended,
    /// No final answer: retry.
    Open,
    Other,
}

impl ApiResponse {
    fn of(mut response: Response<Body>) -> Self {
        let challenge = response.headers().get("www-authenticate");
        ApiResponse {
            status: response.status().as_u16(),
            challenge: challenge.and_then(|text| Some(text.to_str().ok()?.to_owned())),
            body: response.body_mut().read_json().unwrap_or_default(),
        }
    }

    /// The code of the problem; empty without one.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn result(&self) -> PurchaseResult {
        match (self.status, self.body["code"].as_str()) {
            (202 | 408 | 429 | 500 | 502 | 503 | 504, _) | (409, Some("in_progress")) => PurchaseResult::Open,
            (200 | 201, _) if self.body["order_no"].is_string() => PurchaseResult::Won,
            (409, Some("sold_out")) => PurchaseResult::SoldOut,
            (409, Some("not_started")) => PurchaseResult::NotStarted,
            (410, Some("ended")) => PurchaseResult::Ended,
            _ => PurchaseResult::Other,
        }
    }
}

impl ApiClient {
    pub fn at(url: &str, host: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(15)))
            .max_idle_connections_per_host(64)
            .build();
        ApiClient {
            url: url.into(),
            host: host.into(),
            token: None,
            agent: config.into(),
        }
    }

    /// The same client, for a buyer who has logged in.
    pub fn with_token(&self, token: &str) -> Self {
        ApiClient {
            token: Some(token.into()),
            ..self.clone()
        }
    }

    /// Of the ingress.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Of the release, for the ingress.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn get(&self, path: &str) -> Result<ApiResponse> {
        self.send(self.agent.get(format!("{}{path}", self.url)))
    }

    pub fn delete(&self, path: &str) -> Result<ApiResponse> {
        self.send(self.agent.delete(format!("{}{path}", self.url)))
    }

    /// The result of the purchase with this key.
    pub fn result_of(&self, sale: &str, key: &str) -> Result<ApiResponse> {
        let request = self.agent.get(format!("{}/v1/sales/{sale}/request", self.url));
        self.send(request.header("idempotency-key", key))
    }

    fn send(&self, request: RequestBuilder<WithoutBody>) -> Result<ApiResponse> {
        Ok(ApiResponse::of(self.of_buyer(request).call()?))
    }

    fn of_buyer<Any>(&self, request: RequestBuilder<Any>) -> RequestBuilder<Any> {
        let request = request.header("host", &self.host);
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends one purchase of one unit.
    pub fn buy(&self, sale: &str, key: &str) -> Result<ApiResponse> {
        let request = self
            .agent
            .post(format!("{}/v1/sales/{sale}/orders", self.url))
            .header("idempotency-key", key);
        let response = self.of_buyer(request).send_json(json!({"quantity": 1}))?;
        Ok(ApiResponse::of(response))
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<ApiResponse> {
        let request = self.of_buyer(self.agent.post(format!("{}{path}", self.url)));
        Ok(ApiResponse::of(request.send_json(body)?))
    }

    /// A GET request with a body, which some clients send.
    pub fn get_with_body(&self, path: &str, body: &Value) -> Result<ApiResponse> {
        let request = self.of_buyer(self.agent.get(format!("{}{path}", self.url)));
        Ok(ApiResponse::of(request.force_send_body().send_json(body)?))
    }

    /// Sends one purchase with the same key until the answer is final.
    pub fn buy_until_final(&self, sale: &str) -> Result<ApiResponse> {
        const TIME_LIMIT: Duration = Duration::from_secs(60);
        let key = new_key();
        let started = Instant::now();
        loop {
            let response = self.buy(sale, &key);
            match response {
                Ok(response) if response.result() != PurchaseResult::Open => return Ok(response),
                response if started.elapsed() > TIME_LIMIT => {
                    bail!("{sale}: no final answer in {TIME_LIMIT:?}: {response:?}")
                }
                _ => thread::sleep(Duration::from_millis(300)),
            }
        }
    }
}

/// An idempotency key.
pub fn new_key() -> String {
    Uuid::new_v4().to_string()
}

/// The responses to a crowd of buyers.
#[derive(Debug, Default)]
pub struct Crowd {
    pub responses: Vec<ApiResponse>,
    pub failures: Vec<String>,
}

impl Crowd {
    /// Lets buyers buy one unit each until their answers are final.
    pub fn buy(api: &ApiClient, sale: &str, buyers: usize) -> Crowd {
        let crowd = Mutex::new(Crowd::default());
        let all = at_the_same_time(buyers, |_| {
            let response = api.buy_until_final(sale);
            let mut crowd = crowd.lock().expect("no buyer panics");
            match response {
                Ok(response) => crowd.responses.push(response),
                Err(error) => crowd.failures.push(format!("{error:#}")),
            }
            Ok(())
        });
        all.expect("no buyer fails");
        crowd.into_inner().expect("no buyer panics")
    }

    pub fn count(&self, result: PurchaseResult) -> usize {
        self.responses.iter().filter(|r| r.result() == result).count()
    }

    /// The distinct order numbers that were given out.
    pub fn order_numbers(&self) -> HashSet<String> {
        let numbers = self.responses.iter().filter_map(|r| r.body["order_no"].as_str());
        numbers.map(str::to_string).collect()
    }

    /// Checks that this many buyers won, each with a number of its own, and that the sale was sold out for all others.
    pub fn check_winners(&self, winners: usize, buyers: usize) -> Result<()> {
        ensure!(self.failures.is_empty(), "unanswered: {:?}", self.failures);
        let counts = (self.count(PurchaseResult::Won), self.count(PurchaseResult::SoldOut));
        let others: Vec<_> = self
            .responses
            .iter()
            .filter(|r| !matches!(r.result(), PurchaseResult::Won | PurchaseResult::SoldOut))
            .collect();
        ensure!(
            counts == (winners, buyers - winners),
            "{counts:?} won and sold out; others: {others:?}"
        );
        let numbers = self.order_numbers().len();
        ensure!(numbers == winners, "{numbers} distinct numbers for {winners} winners");
        Ok(())
    }
}
