//! Clients whose connections behave badly. Each client has a loopback address of its own, as another host would.
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{BuyerAnswer, BuyerTask, Crowd, Event, Habits, MAIN_SALE, RequestKind, interpret};
use crate::flash_sales::NAMESPACE;

/// The host whose connections are slow.
const SLOW_HOST: u16 = 1;
/// To each seckill-api; more than it may have open files.
const SLOW_CONNECTIONS: usize = 1200;
/// One in so many sends a body slowly. A request has a deadline, so these give their place back soon.
const SLOW_BODY_SHARE: usize = 12;
/// How long a slow client waits between two bytes.
const DRIP_INTERVAL: Duration = Duration::from_secs(1);
/// Connections that send the same purchase at the same time, in how many rounds, and from how many hosts.
const SAME_KEY_CONNECTIONS: usize = 700;
const SAME_KEY_ROUNDS: usize = 3;
const SAME_KEY_HOSTS: usize = 50;
/// How long a client waits for an answer on a connection of its own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What a slow client does with its connection.
#[derive(Debug, Clone, Copy)]
enum Slow {
    Header,
    Body,
    /// Sends requests, and reads no answer.
    Reader,
}

fn host(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 66, high, low).into()
}

impl Crowd {
    async fn connect(&self, from: IpAddr, api: usize) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(self.api[api]).await
    }

    /// Looks at the main sale on a new connection. Returns the status.
    pub(super) async fn look(&self, api: usize) -> std::io::Result<u16> {
        let mut connection = self.connect(Ipv4Addr::LOCALHOST.into(), api).await?;
        let request =
            format!("GET /v1/sales/{NAMESPACE}/{MAIN_SALE} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let (status, _) = read_answer(connection).await?;
        Ok(status)
    }

    /// Callers send a purchase each, and hang up at once. Returns them.
    pub async fn hang_up(self: &Arc<Self>, callers: usize) -> Vec<usize> {
        let mut buyers = Vec::new();
        for i in 0..callers {
            let task = self.new_buyer(MAIN_SALE, None, 1, Habits::PATIENT);
            if let Ok(mut connection) = self.connect(host(2), i % 2).await {
                // It may break before it is written.
                let _ = connection.write_all(task.raw_purchase().as_bytes()).await;
            }
            self.history.set_done(task.buyer);
            buyers.push(task.buyer);
        }
        buyers
    }

    /// The same purchase arrives on many connections at the same time. Every answer counts.
    pub async fn share_one_key(self: &Arc<Self>) {
        let mut rng = StdRng::seed_from_u64(0);
        let task = self.new_buyer(MAIN_SALE, None, 1, Habits::PATIENT);
        for _ in 0..SAME_KEY_ROUNDS {
            let sent = (0..SAME_KEY_CONNECTIONS).map(|i| {
                let from = host((3 + i % SAME_KEY_HOSTS) as u16);
                task.send_raw(from, i % 2)
            });
            futures::future::join_all(sent).await;
        }
        let _ = task.buy(&mut rng, false).await;
        self.history.set_done(task.buyer);
    }

    /// One host holds as many connections as it gets, and opens each again that is closed.
    pub fn start_slow_clients(self: &Arc<Self>, time: Duration) -> JoinSet<()> {
        let until = Instant::now() + time;
        let mut clients = JoinSet::new();
        for i in 0..2 * SLOW_CONNECTIONS {
            let crowd = self.clone();
            let slow = match i / 2 {
                n if n % SLOW_BODY_SHARE == 0 => Slow::Body,
                n if n % 2 == 0 => Slow::Header,
                _ => Slow::Reader,
            };
            clients.spawn(async move {
                while Instant::now() < until {
                    // The error is what a slow client should get.
                    let _ = timeout(until - Instant::now(), crowd.be_slow(slow, i % 2)).await;
                    sleep(DRIP_INTERVAL).await;
                }
            });
        }
        clients
    }

    async fn be_slow(&self, slow: Slow, api: usize) -> std::io::Result<()> {
        let mut connection = self.connect(host(SLOW_HOST), api).await?;
        let list = format!("GET /v1/sales/{NAMESPACE}/{MAIN_SALE} HTTP/1.1\r\nhost: api\r\n\r\n");
        let start = match slow {
            Slow::Header => "GET / HTTP/1.1\r\nx-slow: ".to_owned(),
            Slow::Body => format!(
                "POST /v1/sales/{NAMESPACE}/{MAIN_SALE}/orders HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\n\
                 idempotency-key: {}\r\ncontent-length: 4000\r\n\r\n",
                uuid::Uuid::new_v4()
            ),
            Slow::Reader => list.repeat(100),
        };
        connection.write_all(start.as_bytes()).await?;
        loop {
            sleep(DRIP_INTERVAL).await;
            match slow {
                Slow::Header | Slow::Body => connection.write_all(b" ").await?,
                Slow::Reader => connection.write_all(list.as_bytes()).await?,
            }
        }
    }
}

impl BuyerTask<'_> {
    fn raw_purchase(&self) -> String {
        let body = format!("{{\"quantity\":{}}}", self.quantity);
        format!(
            "POST /v1/sales/{NAMESPACE}/{}/orders HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\n\
             idempotency-key: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.sale,
            self.key,
            body.len()
        )
    }

    /// Sends the purchase on a connection of its own, and records the answer.
    async fn send_raw(&self, from: IpAddr, api: usize) {
        let started = self.crowd.history.now();
        let exchange = async {
            let mut connection = self.crowd.connect(from, api).await?;
            connection.write_all(self.raw_purchase().as_bytes()).await?;
            read_answer(connection).await
        };
        let answer = match timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(Ok((status, body))) => interpret(RequestKind::Buy, status, &body),
            Ok(Err(error)) => BuyerAnswer::NoReply(error.to_string()),
            Err(_) => BuyerAnswer::NoReply("timeout".into()),
        };
        let event = Event {
            from: started,
            to: self.crowd.history.now(),
            buyer: self.buyer,
            kind: RequestKind::Buy,
            api,
            answer,
        };
        self.crowd.history.add_event(event, false);
    }
}

/// Reads the answer to a request with `connection: close`.
async fn read_answer(mut connection: TcpStream) -> std::io::Result<(u16, Value)> {
    let mut text = Vec::new();
    connection.read_to_end(&mut text).await?;
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("no answer"))?;
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_loopback_addresses() {
        assert_eq!(host(0x0102).to_string(), "127.66.1.2");
        assert!(host(SLOW_HOST).is_loopback());
    }
}
