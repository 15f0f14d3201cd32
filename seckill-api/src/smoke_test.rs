//! The command `smoke-test`, which `helm test` runs: it asks a running API as a buyer does.
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// A little longer than the time in which the API answers every request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
const MAX_ANSWER_BYTES: usize = 16 << 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Ask a running seckill-api as a buyer does
#[derive(Debug, clap::Parser)]
#[command(name = "seckill-api smoke-test", version)]
pub struct SmokeTestArgs {
    /// Address of the API
    #[arg(long, value_name = "http://seckill-api.seckill:8080")]
    pub url: ApiUrl,

    /// NAMESPACE/NAME of an open sale without spec.access: also buy one unit, look the order up, and cancel it
    #[arg(long, value_name = "shop/smoke-test")]
    pub sale: Option<SaleName>,

    /// Time limit for each step, in seconds
    #[arg(long, value_name = "60", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
}

/// `http://host[:port]`.
#[derive(Debug, Clone)]
pub struct ApiUrl(String);

impl FromStr for ApiUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        authority
            .filter(|authority| !authority.contains('@') && authority.parse::<http::uri::Authority>().is_ok())
            .map(|authority| ApiUrl(format!("http://{authority}")))
            .ok_or("http://host[:port] without a path; the API itself speaks no TLS")
    }
}

#[derive(Debug, Clone)]
pub struct SaleName(String);

impl FromStr for SaleName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |part: &str| {
            let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            !part.is_empty() && part.chars().all(valid)
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(SaleName(text.to_owned())),
            _ => Err("NAMESPACE/NAME of a FlashSale"),
        }
    }
}

struct Answer {
    status: StatusCode,
    content_type: String,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("no code")
    }

    /// Whether the same request can have another answer soon. See docs/http-api.md.
    fn is_temporary(&self) -> bool {
        matches!(self.status.as_u16(), 202 | 408 | 429 | 500 | 502..=504)
    }
}

/// Status, code and detail.
impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        match (self.body["code"].as_str(), self.body["detail"].as_str()) {
            (Some(code), Some(detail)) => write!(f, " {code}: {detail}"),
            _ if self.body.is_null() => write!(f, " with a body that is not JSON"),
            _ => write!(f, " {}", self.body),
        }
    }
}

struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    limit: Duration,
}

/// Prints each step, and fails at the first one that goes wrong.
pub async fn run(args: SmokeTestArgs) -> anyhow::Result<()> {
    let api = Api {
        client: Client::builder(TokioExecutor::new()).build_http(),
        url: args.url.0,
        limit: Duration::from_secs(args.timeout_seconds),
    };
    api.lists_its_sales().await?;
    api.knows_no_unknown_sale().await?;
    match args.sale {
        Some(SaleName(sale)) => api.sells(&sale).await,
        None => {
            println!("no purchase was tried, because no sale was given");
            Ok(())
        }
    }
}

impl Api {
    async fn lists_its_sales(&self) -> anyhow::Result<()> {
        let path = "/v1/sales";
        let answer = self.final_answer(Method::GET, path, None).await?;
        let sales = answer.body["sales"].as_array();
        let Some(sales) = sales.filter(|_| answer.status == StatusCode::OK) else {
            bail!(
                "GET {path} answered {answer}; expected 200 with a list of sales. Does {} lead to seckill-api?",
                self.url
            );
        };
        println!("GET {path}: 200, {} sales", sales.len());
        Ok(())
    }

    async fn knows_no_unknown_sale(&self) -> anyhow::Result<()> {
        let path = format!("/v1/sales/smoke-test/{}", Uuid::new_v4());
        let answer = self.final_answer(Method::GET, &path, None).await?;
        ensure!(
            answer.status == StatusCode::NOT_FOUND
                && answer.code() == "sale_unknown"
                && answer.content_type.starts_with("application/problem+json"),
            "GET {path} answered {answer} ({}); expected the problem 404 sale_unknown. Does a proxy in between replace answers?",
            answer.content_type
        );
        println!("GET {path}: 404 sale_unknown, as it should be");
        Ok(())
    }

    async fn sells(&self, sale: &str) -> anyhow::Result<()> {
        let path = format!("/v1/sales/{sale}/orders");
        let key = Uuid::new_v4().to_string();
        let answer = self.final_answer(Method::POST, &path, Some(&key)).await;
        // The key is of no use to anybody else once the order is cancelled.
        let answer =
            answer.with_context(|| format!("the purchase with the key {key} may have bought a unit of {sale}"))?;
        let number = answer.body["order_no"].as_str();
        let Some(number) = number.filter(|_| answer.status == StatusCode::CREATED) else {
            bail!("POST {path} answered {answer}; expected 201. {}", advice(answer.code()));
        };
        println!("POST {path}: 201, order {number}");

        let order = format!("/v1/orders/{number}");
        let stored = self.order_in(&order, |status| status != "processing").await;
        match &stored {
            Ok(status) => println!("GET {order}: {status}"),
            Err(_) => println!("GET {order}: not stored in time; the order is cancelled now"),
        }
        // Also an order that was not found gives its unit back.
        let cancelled = self.cancel(&order).await;
        stored
            .with_context(|| format!("the order {number} was not stored in MySQL; look at the log of order-worker"))?;
        cancelled.with_context(|| {
            format!("the order {number} may still hold a unit of {sale}; cancel it: DELETE {order}")
        })?;
        println!("DELETE {order}: cancelled, its unit returns");
        Ok(())
    }

    async fn cancel(&self, order: &str) -> anyhow::Result<()> {
        // 202: the cancellation is in the log, and its result shows in the order.
        let answer = self.answer_unless(Method::DELETE, order, None, |answer| {
            answer.is_temporary() && answer.status != StatusCode::ACCEPTED
        });
        let answer = answer.await?;
        ensure!(
            matches!(answer.status, StatusCode::OK | StatusCode::ACCEPTED),
            "DELETE {order} answered {answer}; expected 200"
        );
        self.order_in(order, |status| status == "cancelled").await?;
        Ok(())
    }

    /// Waits until the order has such a status.
    async fn order_in(&self, order: &str, expected: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let status_of = |answer: &Answer| answer.body["status"].as_str().unwrap_or_default().to_owned();
        let waits = |answer: &Answer| {
            answer.is_temporary() || (answer.status == StatusCode::OK && !expected(&status_of(answer)))
        };
        let answer = self.answer_unless(Method::GET, order, None, waits).await?;
        ensure!(
            answer.status == StatusCode::OK,
            "GET {order} answered {answer}; expected 200"
        );
        Ok(status_of(&answer))
    }

    async fn final_answer(&self, method: Method, path: &str, key: Option<&str>) -> anyhow::Result<Answer> {
        self.answer_unless(method, path, key, Answer::is_temporary).await
    }

    /// Sends the request until it has an answer that is not to be sent again, or the time is over.
    async fn answer_unless(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        again: impl Fn(&Answer) -> bool,
    ) -> anyhow::Result<Answer> {
        let deadline = Instant::now() + self.limit;
        loop {
            let last = match self.send(&method, path, key).await {
                Ok(answer) if !again(&answer) => return Ok(answer),
                Ok(answer) if answer.code() == "not_ready" => anyhow!(
                    "the last answer was {answer} If it stays so, look at the log of order-worker: MySQL may be behind the log"
                ),
                Ok(answer) => anyhow!("the last answer was {answer}"),
                Err(error) => {
                    error.context("check that the pods of the API are ready, and that NetworkPolicies admit this one")
                }
            };
            if Instant::now() + PAUSE > deadline {
                let seconds = self.limit.as_secs();
                return Err(last.context(format!(
                    "{method} {}{path} had no final answer within {seconds} s",
                    self.url
                )));
            }
            sleep(PAUSE).await;
        }
    }

    async fn send(&self, method: &Method, path: &str, key: Option<&str>) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        let mut body = Bytes::new();
        if let Some(key) = key {
            request = request
                .header("idempotency-key", key)
                .header(header::CONTENT_TYPE, "application/json");
            body = Bytes::from_static(br#"{"quantity":1}"#);
        }
        let request = request.body(Full::new(body))?;
        let answered = async {
            let answer = self.client.request(request).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body
                .map_err(|error| anyhow!("reading the answer failed: {error}"))?
                .to_bytes();
            Ok(Answer {
                status,
                content_type: content_type.unwrap_or("no content type").to_owned(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
            })
        };
        let seconds = ANSWER_TIMEOUT.as_secs();
        timeout(ANSWER_TIMEOUT, answered)
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer within {seconds} s")))
    }
}

/// What to do about a purchase that was refused.
fn advice(code: &str) -> &'static str {
    match code {
        "sold_out" | "limit_reached" | "too_many_orders" => "Raise spec.stock of the sale, or take another one.",
        "not_started" => "Try again after its start, or take a sale that is open.",
        "ended" => "Take a sale that is open.",
        "suspended" => "Resume the sale, or take another one.",
        "sale_unknown" => {
            "Check its namespace and name, and its spec.className: GET /v1/sales lists the sales of this API."
        }
        code if code.starts_with("token_") => "Take a sale without spec.access, because this test has no token.",
        _ => "docs/http-api.md explains each code.",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn parse(words: &[&str]) -> Result<SmokeTestArgs, String> {
        let words = [&["seckill-api smoke-test"], words].concat();
        SmokeTestArgs::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_checked_before_anything_is_sent() {
        let args = parse(&["--url", "http://api:8080/", "--sale", "shop/a.b-1"]).expect("valid");
        assert_eq!(args.url.0, "http://api:8080");
        for (refused, expected) in [
            (&["--url", "https://api"][..], "http://host[:port]"),
            (&["--url", "http://user:password@api"], "http://host[:port]"),
            (&["--url", "http://api/v1"], "http://host[:port]"),
            (&["--url", "http://"], "http://host[:port]"),
            (&["--url", "http://api", "--sale", "shop"], "NAMESPACE/NAME"),
            (&["--url", "http://api", "--sale", "shop/a/b"], "NAMESPACE/NAME"),
            (&["--url", "http://api", "--sale", "shop/A?"], "NAMESPACE/NAME"),
            (&["--sale", "shop/a"], "--url"),
        ] {
            let error = parse(refused).expect_err("refused");
            assert!(error.contains(expected), "{refused:?}: {error}");
        }
    }
}
