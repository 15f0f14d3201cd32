//! Buyers, who behave as people and clients do: they ask again with the same key until they know, some ask what became of
//! it, some send a purchase again that they have won, some cancel.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::history::{Answer, Buyer, Event, History, Kind};

/// The sale that goes on through all faults: it shows how long selling stopped.
pub const LASTING: &str = "main";

pub struct Crowd {
    pub history: History,
    namespace: String,
    api: [SocketAddr; 2],
    client: Client<HttpConnector, Full<Bytes>>,
    /// Nobody asks any more.
    pub over: watch::Sender<bool>,
}

/// What a buyer does beside buying.
#[derive(Debug, Clone, Copy)]
struct Habits {
    patience: Duration,
    asks: bool,
    /// Sends the purchase again after it was answered.
    repeats: Option<Duration>,
    cancels: bool,
    /// Goes away when a connection breaks, and never learns what came of it.
    gives_up: bool,
}

impl Habits {
    fn of(rng: &mut StdRng) -> Self {
        Habits {
            patience: Duration::from_secs([2, 5, 12][rng.random_range(0..3)]),
            asks: rng.random_bool(0.3),
            repeats: rng
                .random_bool(0.3)
                .then(|| Duration::from_millis(rng.random_range(0..15_000))),
            cancels: rng.random_bool(0.05),
            gives_up: rng.random_bool(0.3),
        }
    }
}

impl Crowd {
    pub fn new(history: History, namespace: &str, api: [SocketAddr; 2]) -> Arc<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        Arc::new(Crowd {
            history,
            namespace: namespace.to_owned(),
            api,
            client: Client::builder(TokioExecutor::new()).build(connector),
            over: watch::Sender::new(false),
        })
    }

    /// So many buyers, spread evenly over a time. They go on by themselves.
    pub async fn comes(self: Arc<Self>, sale: String, buyers: usize, within: Duration, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..buyers {
            if *self.over.borrow() {
                return;
            }
            let quantity = [1, 1, 1, 1, 1, 1, 1, 2, 2, 3][rng.random_range(0..10)];
            tokio::spawn(self.clone().one(sale.clone(), quantity, rng.random()));
            sleep(within / buyers as u32).await;
        }
    }

    async fn one(self: Arc<Self>, sale: String, quantity: u32, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let habits = Habits::of(&mut rng);
        let key = uuid::Uuid::new_v4().to_string();
        let buyer = self.history.enter(Buyer {
            sale: sale.clone(),
            key: key.clone(),
            quantity,
            done: false,
        });
        let me = Me {
            crowd: &self,
            buyer,
            key,
            quantity,
            sale,
            habits,
        };
        let mut over = self.over.subscribe();
        tokio::select! {
            () = me.acts(&mut rng) => {}
            _ = over.wait_for(|over| *over) => {}
        }
    }
}

struct Me<'a> {
    crowd: &'a Crowd,
    buyer: usize,
    key: String,
    quantity: u32,
    sale: String,
    habits: Habits,
}

impl Me<'_> {
    async fn acts(&self, rng: &mut StdRng) {
        let mut heard = self.insists(rng, false).await;
        if let (Answer::Won { number, .. }, true) = (&heard, self.habits.cancels) {
            sleep(Duration::from_millis(rng.random_range(0..2000))).await;
            self.cancels(number, rng).await;
        }
        self.crowd.history.done(self.buyer);
        if let Some(after) = self.habits.repeats {
            sleep(after).await;
            heard = self.insists(rng, true).await;
        }
        drop(heard);
    }

    /// Sends the purchase until it is answered for good.
    async fn insists(&self, rng: &mut StdRng, again: bool) -> Answer {
        let mut wait = 100;
        let mut api = rng.random_range(0..2);
        let mut told = None;
        loop {
            let doubtful = matches!(told, Some(Answer::Pending | Answer::NotNow(_) | Answer::Nothing(_)));
            let kind = if doubtful && self.habits.asks && rng.random_bool(0.5) {
                Kind::Ask
            } else {
                Kind::Buy
            };
            let answer = self.sends(kind, api, None, !again).await;
            if answer.is_final() || (self.habits.gives_up && matches!(answer, Answer::Nothing(_))) {
                return answer;
            }
            wait = match answer {
                Answer::NotStarted => 250,
                Answer::Unknown => 10,
                _ => (wait * 2).min(1500),
            };
            if matches!(answer, Answer::Nothing(_)) {
                api = 1 - api;
            }
            told = Some(answer);
            sleep(Duration::from_millis(rng.random_range(wait..=wait * 3 / 2))).await;
        }
    }

    async fn cancels(&self, number: &str, rng: &mut StdRng) {
        loop {
            let api = rng.random_range(0..2);
            match self.sends(Kind::Cancel, api, Some(number), false).await {
                Answer::Cancelled | Answer::Odd(_) => return,
                _ => sleep(Duration::from_millis(rng.random_range(300..1000))).await,
            }
        }
    }

    async fn sends(&self, kind: Kind, api: usize, number: Option<&str>, first: bool) -> Answer {
        let base = format!("http://{}/v1", self.crowd.api[api]);
        let sale = format!("{base}/sales/{}/{}", self.crowd.namespace, self.sale);
        let (method, uri, body) = match kind {
            Kind::Buy => (
                Method::POST,
                format!("{sale}/orders"),
                format!("{{\"quantity\":{}}}", self.quantity),
            ),
            Kind::Ask => (Method::GET, format!("{sale}/request"), String::new()),
            Kind::Cancel => (
                Method::DELETE,
                format!("{base}/orders/{}", number.unwrap_or_default()),
                String::new(),
            ),
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/json")
            .header("idempotency-key", &self.key)
            .body(Full::from(body));
        let history = &self.crowd.history;
        let from = history.now();
        let exchange = async {
            let request = request.map_err(|error| error.to_string())?;
            let response = self.crowd.client.request(request).await.map_err(|e| cause(&e))?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|e| cause(&e))?.to_bytes();
            Ok::<_, String>((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        let answer = match tokio::time::timeout(self.habits.patience, exchange).await {
            Ok(Ok((status, body))) => understood(kind, status, &body),
            Ok(Err(why)) => Answer::Nothing(why),
            Err(_) => Answer::Nothing("no answer in time".into()),
        };
        let event = Event {
            from,
            to: history.now(),
            buyer: self.buyer,
            kind,
            api,
            answer: answer.clone(),
        };
        let lasting_win = first && self.sale == LASTING && matches!(answer, Answer::Won { .. });
        history.add(event, lasting_win);
        answer
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What an answer of the API means to a buyer.
fn understood(kind: Kind, status: u16, body: &Value) -> Answer {
    let code = body["code"].as_str().unwrap_or_default();
    match (kind, status, code) {
        (Kind::Cancel, 200, _) => Answer::Cancelled,
        (_, 200 | 201, _) => Answer::Won {
            number: body["order_no"].as_str().unwrap_or_default().to_owned(),
            quantity: body["quantity"].as_u64().unwrap_or_default() as u32,
            cancelled: body["status"] == "cancelled",
        },
        (_, 202, _) => Answer::Pending,
        (_, 409, "sold_out") => Answer::SoldOut {
            left: body["remaining"].as_u64().unwrap_or(u64::MAX),
        },
        (_, 409, "not_started") => Answer::NotStarted,
        (_, 410, "ended") => Answer::Ended,
        (Kind::Ask, 404, "request_unknown") => Answer::Unknown,
        (_, 503, "suspended") => Answer::Suspended,
        (_, 500 | 502 | 503 | 504 | 408, _) => Answer::NotNow(format!("{status} {code}")),
        _ => Answer::Odd(format!("{status} {body}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_that_nobody_should_get_is_odd() {
        let unknown = json!({"code": "sale_unknown"});
        assert!(matches!(understood(Kind::Buy, 404, &unknown), Answer::Odd(_)));
        // Who only asks may hear that nothing was bought; who buys may not.
        let nothing = json!({"code": "request_unknown"});
        assert_eq!(understood(Kind::Ask, 404, &nothing), Answer::Unknown);
        assert!(matches!(understood(Kind::Buy, 404, &nothing), Answer::Odd(_)));
    }

    #[test]
    fn a_fault_is_never_final() {
        for status in [500, 503] {
            assert!(!understood(Kind::Buy, status, &json!({"code": "outcome_unknown"})).is_final());
        }
        assert!(understood(Kind::Buy, 410, &json!({"code": "ended"})).is_final());
    }
}
