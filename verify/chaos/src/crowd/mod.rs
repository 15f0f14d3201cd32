//! Buyers, who behave as people and clients do: all retry with the same key until they know the outcome. Some ask for
//! their request instead, some repeat a purchase that they have won, some cancel.
//!
//! - [`storms`]: clients that send more than people do
//! - [`connections`]: clients whose connections behave badly
mod connections;
mod storms;

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
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use tokio::time::sleep;

use crate::flash_sales::NAMESPACE;
use crate::history::{Buyer, BuyerAnswer, Event, History, RequestKind};
use crate::members::{MEMBERS, Members};

/// The sale that sells through all faults: it shows for how long selling stopped.
pub const MAIN_SALE: &str = "main";

pub struct Crowd {
    pub history: History,
    api: [SocketAddr; 2],
    client: Client<HttpConnector, Full<Bytes>>,
    pub members: Members,
    /// All buyers stop when this is true.
    pub stopped: watch::Sender<bool>,
    /// Each request of a buyer holds it for reading.
    requests: RwLock<()>,
}

/// What a buyer does besides buying.
#[derive(Debug, Clone, Copy)]
struct Habits {
    /// How long the buyer waits for an answer.
    timeout: Duration,
    asks: bool,
    /// Repeats the purchase this long after the answer.
    repeats: Option<Duration>,
    cancels: bool,
    /// Leaves when a connection breaks, without knowing the outcome.
    gives_up: bool,
}

impl Habits {
    const PATIENT: Habits = Habits {
        timeout: Duration::from_secs(12),
        asks: false,
        repeats: None,
        cancels: false,
        gives_up: false,
    };

    fn random(rng: &mut StdRng) -> Self {
        Habits {
            timeout: Duration::from_secs([2, 5, 12][rng.random_range(0..3)]),
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
    pub fn new(history: History, api: [SocketAddr; 2], members: Members) -> Arc<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        Arc::new(Crowd {
            history,
            api,
            client: Client::builder(TokioExecutor::new()).build(connector),
            members,
            stopped: watch::Sender::new(false),
            requests: RwLock::default(),
        })
    }

    /// Starts buyers, spread evenly over a time. They go on in tasks of their own.
    pub async fn start_buyers(self: Arc<Self>, sale: String, buyers: usize, within: Duration, seed: u64) {
        self.start(sale, None, buyers, within, seed).await;
    }

    /// The same in a sale for members, of whom there are fewer.
    pub async fn start_members(self: Arc<Self>, sale: String, buyers: usize, within: Duration, seed: u64) {
        self.start(sale, Some(MEMBERS), buyers, within, seed).await;
    }

    async fn start(self: Arc<Self>, sale: String, members: Option<usize>, buyers: usize, within: Duration, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..buyers {
            if *self.stopped.borrow() {
                return;
            }
            let quantity = [1, 1, 1, 1, 1, 1, 1, 2, 2, 3][rng.random_range(0..10)];
            let member = members.map(|members| rng.random_range(0..members));
            tokio::spawn(self.clone().run_buyer(sale.clone(), member, quantity, rng.random()));
            sleep(within / buyers as u32).await;
        }
    }

    async fn run_buyer(self: Arc<Self>, sale: String, member: Option<usize>, quantity: u32, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let habits = Habits::random(&mut rng);
        let task = self.new_buyer(&sale, member, quantity, habits);
        self.unless_stopped(task.run(&mut rng)).await;
    }

    fn new_buyer(&self, sale: &str, member: Option<usize>, quantity: u32, habits: Habits) -> BuyerTask<'_> {
        let key = uuid::Uuid::new_v4().to_string();
        let buyer = self.history.add_buyer(Buyer {
            sale: sale.to_owned(),
            key: key.clone(),
            member,
            quantity,
            done: false,
        });
        BuyerTask {
            crowd: self,
            buyer,
            key,
            member,
            quantity,
            sale: sale.to_owned(),
            habits,
        }
    }

    /// Waits until no buyer waits for an answer. Until the guard is dropped, none sends a request.
    pub async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.requests.write().await
    }

    async fn unless_stopped(&self, work: impl Future<Output = ()>) {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            () = work => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    /// Asks one API for the purchases of buyers, as they would after a broken connection. Returns how many have won.
    pub async fn ask_again(&self, buyers: &[usize], api: usize) -> usize {
        let asked = self.history.buyers(buyers).into_iter().map(async |(buyer, known)| {
            let task = BuyerTask {
                crowd: self,
                buyer,
                key: known.key,
                member: known.member,
                quantity: known.quantity,
                sale: known.sale,
                habits: Habits::PATIENT,
            };
            let mut rng = StdRng::seed_from_u64(buyer as u64);
            task.send(RequestKind::Ask, api, None, false, &mut rng).await
        });
        let answers = futures::future::join_all(asked).await;
        let won = |answer: &&BuyerAnswer| matches!(answer, BuyerAnswer::Won { .. });
        answers.iter().filter(won).count()
    }
}

struct BuyerTask<'a> {
    crowd: &'a Crowd,
    buyer: usize,
    key: String,
    member: Option<usize>,
    quantity: u32,
    sale: String,
    habits: Habits,
}

impl BuyerTask<'_> {
    /// Buys, and cancels at once.
    async fn run_at_once(&self, rng: &mut StdRng) {
        if let BuyerAnswer::Won { number, .. } = self.buy(rng, false).await {
            self.cancel(&number, rng).await;
        }
        self.crowd.history.set_done(self.buyer);
    }

    async fn run(&self, rng: &mut StdRng) {
        let answer = self.buy(rng, false).await;
        if let (BuyerAnswer::Won { number, .. }, true) = (&answer, self.habits.cancels) {
            sleep(Duration::from_millis(rng.random_range(0..2000))).await;
            self.cancel(number, rng).await;
        }
        self.crowd.history.set_done(self.buyer);
        if let Some(after) = self.habits.repeats {
            sleep(after).await;
            self.buy(rng, true).await;
        }
    }

    /// Sends the purchase until its answer is final.
    async fn buy(&self, rng: &mut StdRng, again: bool) -> BuyerAnswer {
        let mut wait = 100;
        let mut api = rng.random_range(0..2);
        let mut last = None;
        loop {
            let open = matches!(
                last,
                Some(BuyerAnswer::Pending | BuyerAnswer::Unavailable(_) | BuyerAnswer::NoReply(_))
            );
            let kind = if open && self.habits.asks && rng.random_bool(0.5) {
                RequestKind::Ask
            } else {
                RequestKind::Buy
            };
            let answer = self.send(kind, api, None, !again, rng).await;
            if answer.is_final() || (self.habits.gives_up && matches!(answer, BuyerAnswer::NoReply(_))) {
                return answer;
            }
            wait = match answer {
                BuyerAnswer::NotStarted | BuyerAnswer::Kept { .. } => (wait * 2).min(1000),
                BuyerAnswer::Unknown => 10,
                _ => (wait * 2).min(1500),
            };
            if matches!(answer, BuyerAnswer::NoReply(_)) {
                api = 1 - api;
            }
            last = Some(answer);
            sleep(Duration::from_millis(rng.random_range(wait..=wait * 3 / 2))).await;
        }
    }

    async fn cancel(&self, number: &str, rng: &mut StdRng) {
        loop {
            let api = rng.random_range(0..2);
            match self.send(RequestKind::Cancel, api, Some(number), false, rng).await {
                BuyerAnswer::Cancelled | BuyerAnswer::Unexpected(_) => return,
                _ => sleep(Duration::from_millis(rng.random_range(300..1000))).await,
            }
        }
    }

    /// Sends one request and records it.
    async fn send(
        &self,
        kind: RequestKind,
        api: usize,
        number: Option<&str>,
        first: bool,
        rng: &mut StdRng,
    ) -> BuyerAnswer {
        let _request = self.crowd.requests.read().await;
        let history = &self.crowd.history;
        let from = history.now();
        let request = self.request(kind, api, number, rng);
        let answer = match tokio::time::timeout(self.habits.timeout, self.exchange(request)).await {
            Ok(Ok((status, body))) => interpret(kind, status, &body),
            Ok(Err(error)) => BuyerAnswer::NoReply(error),
            Err(_) => BuyerAnswer::NoReply("timeout".into()),
        };
        let event = Event {
            from,
            to: history.now(),
            buyer: self.buyer,
            kind,
            api,
            answer: answer.clone(),
        };
        let main_sale_win = first && self.sale == MAIN_SALE && matches!(answer, BuyerAnswer::Won { .. });
        history.add_event(event, main_sale_win);
        answer
    }

    fn request(
        &self,
        kind: RequestKind,
        api: usize,
        number: Option<&str>,
        rng: &mut StdRng,
    ) -> http::Result<Request<Full<Bytes>>> {
        let base = format!("http://{}/v1", self.crowd.api[api]);
        let sale = format!("{base}/sales/{NAMESPACE}/{}", self.sale);
        let (method, uri, body) = match kind {
            RequestKind::Buy => (
                Method::POST,
                format!("{sale}/orders"),
                format!("{{\"quantity\":{}}}", self.quantity),
            ),
            RequestKind::Ask => (Method::GET, format!("{sale}/request"), String::new()),
            RequestKind::Cancel => (
                Method::DELETE,
                format!("{base}/orders/{}", number.unwrap_or_default()),
                String::new(),
            ),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", "application/json")
            .header("idempotency-key", &self.key);
        if let Some(member) = self.member {
            let token = self.crowd.members.token(member, rng);
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(Full::from(body))
    }

    async fn exchange(&self, request: http::Result<Request<Full<Bytes>>>) -> Result<(u16, Value), String> {
        let request = request.map_err(|error| error.to_string())?;
        let response = self.crowd.client.request(request).await.map_err(|e| root_cause(&e))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| root_cause(&e))?;
        Ok((status, serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null)))
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn interpret(kind: RequestKind, status: u16, body: &Value) -> BuyerAnswer {
    let code = body["code"].as_str().unwrap_or_default();
    match (kind, status, code) {
        (RequestKind::Cancel, 200, _) => BuyerAnswer::Cancelled,
        (_, 200 | 201, _) => BuyerAnswer::Won {
            number: body["order_no"].as_str().unwrap_or_default().to_owned(),
            quantity: body["quantity"].as_u64().unwrap_or_default() as u32,
            cancelled: body["status"] == "cancelled",
        },
        (_, 202, _) => BuyerAnswer::Pending,
        (_, 409, "sold_out") if body["reserved_until"].is_string() => BuyerAnswer::Kept {
            left: body["remaining"].as_u64().unwrap_or(u64::MAX),
        },
        (_, 409, "limit_reached") => BuyerAnswer::LimitReached,
        (_, 409, "sold_out") => BuyerAnswer::SoldOut {
            left: body["remaining"].as_u64().unwrap_or(u64::MAX),
        },
        (_, 409, "not_started") => BuyerAnswer::NotStarted,
        (_, 410, "ended") => BuyerAnswer::Ended,
        (RequestKind::Ask, 404, "request_unknown") => BuyerAnswer::Unknown,
        (_, 503, "suspended") => BuyerAnswer::Suspended,
        (_, 429 | 500 | 502 | 503 | 504 | 408, _) => BuyerAnswer::Unavailable(format!("{status} {code}")),
        _ => BuyerAnswer::Unexpected(format!("{status} {body}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_for_no_buyer_is_unexpected() {
        let unknown = json!({"code": "sale_unknown"});
        assert!(matches!(
            interpret(RequestKind::Buy, 404, &unknown),
            BuyerAnswer::Unexpected(_)
        ));
        // A question may be answered with "nothing was bought", a purchase may not.
        let nothing = json!({"code": "request_unknown"});
        assert_eq!(interpret(RequestKind::Ask, 404, &nothing), BuyerAnswer::Unknown);
        assert!(matches!(
            interpret(RequestKind::Buy, 404, &nothing),
            BuyerAnswer::Unexpected(_)
        ));
    }

    #[test]
    fn a_server_error_is_never_final() {
        for status in [500, 503] {
            assert!(!interpret(RequestKind::Buy, status, &json!({"code": "outcome_unknown"})).is_final());
        }
        assert!(interpret(RequestKind::Buy, 410, &json!({"code": "ended"})).is_final());
    }
}
