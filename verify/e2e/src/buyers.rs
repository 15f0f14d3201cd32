//! Buyers at the ingress.
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use ureq::RequestBuilder;
use ureq::typestate::WithoutBody;
use uuid::Uuid;

/// The HTTP interface of the release.
#[derive(Clone)]
pub struct Api {
    url: String,
    /// The ingress tells the releases of a cluster apart by it.
    host: String,
    agent: ureq::Agent,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// What a buyer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Won,
    SoldOut,
    NotStarted,
    Ended,
    /// No final answer: to be asked again.
    Again,
    Other,
}

impl Answer {
    pub fn kind(&self) -> Kind {
        match (self.status, self.body["code"].as_str()) {
            (202 | 408 | 429 | 500 | 502 | 503 | 504, _) | (409, Some("in_progress")) => Kind::Again,
            (200 | 201, _) if self.body["order_no"].is_string() => Kind::Won,
            (409, Some("sold_out")) => Kind::SoldOut,
            (409, Some("not_started")) => Kind::NotStarted,
            (410, Some("ended")) => Kind::Ended,
            _ => Kind::Other,
        }
    }
}

impl Api {
    pub fn at(url: &str, host: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(15)))
            .max_idle_connections_per_host(64)
            .build();
        Api {
            url: url.into(),
            host: host.into(),
            agent: config.into(),
        }
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask(self.agent.get(format!("{}{path}", self.url)))
    }

    pub fn delete(&self, path: &str) -> Result<Answer> {
        self.ask(self.agent.delete(format!("{}{path}", self.url)))
    }

    fn ask(&self, request: RequestBuilder<WithoutBody>) -> Result<Answer> {
        let mut response = request.header("host", &self.host).call()?;
        Ok(Answer {
            status: response.status().as_u16(),
            body: response.body_mut().read_json().unwrap_or_default(),
        })
    }

    /// One purchase of one unit, asked once.
    pub fn buy(&self, sale: &str, key: &str) -> Result<Answer> {
        let request = self
            .agent
            .post(format!("{}/v1/sales/{sale}/orders", self.url))
            .header("host", &self.host)
            .header("idempotency-key", key);
        let mut response = request.send_json(serde_json::json!({"quantity": 1}))?;
        Ok(Answer {
            status: response.status().as_u16(),
            body: response.body_mut().read_json().unwrap_or_default(),
        })
    }

    /// One purchase, asked with the same key until the answer is final.
    pub fn buy_surely(&self, sale: &str) -> Result<Answer> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let key = new_key();
        let begun = Instant::now();
        loop {
            let answer = self.buy(sale, &key);
            match answer {
                Ok(answer) if answer.kind() != Kind::Again => return Ok(answer),
                answer if begun.elapsed() > PATIENCE => bail!("{sale}: no final answer in {PATIENCE:?}: {answer:?}"),
                _ => thread::sleep(Duration::from_millis(300)),
            }
        }
    }
}

/// An idempotency key.
pub fn new_key() -> String {
    Uuid::new_v4().to_string()
}

/// What a crowd was told.
#[derive(Debug, Default)]
pub struct Crowd {
    pub answers: Vec<Answer>,
    pub failures: Vec<String>,
}

impl Crowd {
    /// So many buyers, at most 32 at once, each asking until it knows.
    pub fn buys(api: &Api, sale: &str, buyers: usize) -> Crowd {
        let crowd = Mutex::new(Crowd::default());
        let come = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..buyers.min(32) {
                scope.spawn(|| {
                    while come.fetch_add(1, Ordering::SeqCst) < buyers {
                        let answer = api.buy_surely(sale);
                        let mut crowd = crowd.lock().expect("no buyer panics");
                        match answer {
                            Ok(answer) => crowd.answers.push(answer),
                            Err(error) => crowd.failures.push(format!("{error:#}")),
                        }
                    }
                });
            }
        });
        crowd.into_inner().expect("no buyer panics")
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.answers.iter().filter(|a| a.kind() == kind).count()
    }

    /// The different order numbers that were told.
    pub fn order_numbers(&self) -> HashSet<String> {
        let numbers = self.answers.iter().filter_map(|a| a.body["order_no"].as_str());
        numbers.map(str::to_string).collect()
    }
}
