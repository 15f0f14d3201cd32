//! Every request of a buyer and its answer.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use seckill_protocol::KeyHash;
use serde::Serialize;

use crate::members;

/// Milliseconds since the run began.
pub type At = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// `POST .../orders`
    Buy,
    /// `GET .../request`
    Ask,
    /// `DELETE /v1/orders/...`
    Cancel,
}

/// What an answer of the API means to a buyer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BuyerAnswer {
    /// 201 to a purchase, or 200 to a question.
    Won {
        number: String,
        quantity: u32,
        cancelled: bool,
    },
    /// 202
    Pending,
    SoldOut {
        left: u64,
    },
    /// 409 "sold_out" with a time at which units that are kept for others are released.
    Kept {
        left: u64,
    },
    /// The buyer holds as many units as one buyer may.
    LimitReached,
    NotStarted,
    Ended,
    /// Nothing was bought with this key.
    Unknown,
    Suspended,
    /// 200 to a cancellation: it has taken effect.
    Cancelled,
    /// 5xx: the outcome is open.
    Unavailable(String),
    /// No answer arrived.
    NoReply(String),
    /// An answer that no buyer should get.
    Unexpected(String),
}

impl BuyerAnswer {
    /// The buyer need not ask again.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            BuyerAnswer::Won { .. }
                | BuyerAnswer::SoldOut { .. }
                | BuyerAnswer::LimitReached
                | BuyerAnswer::Ended
                | BuyerAnswer::Unexpected(_)
        )
    }
}

/// One request and its answer.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    pub from: At,
    pub to: At,
    pub buyer: usize,
    pub kind: RequestKind,
    /// Which of the two API processes.
    pub api: usize,
    pub answer: BuyerAnswer,
}

/// One purchase of one sale under one key.
#[derive(Debug, Clone, Serialize)]
pub struct Buyer {
    pub sale: String,
    pub key: String,
    /// Who buys, in a sale for members.
    pub member: Option<usize>,
    pub quantity: u32,
    /// The buyer knows the outcome of the purchase, or has given up.
    pub done: bool,
}

#[cfg(test)]
impl Event {
    /// A purchase, for tests.
    pub fn purchase(buyer: usize, from: At, to: At, answer: BuyerAnswer) -> Self {
        Event {
            from,
            to,
            buyer,
            kind: RequestKind::Buy,
            api: 0,
            answer,
        }
    }
}

#[cfg(test)]
impl Buyer {
    /// A buyer of one unit of a sale, for tests.
    pub fn of(sale: &str) -> Self {
        Buyer {
            sale: sale.into(),
            key: String::new(),
            member: None,
            quantity: 1,
            done: true,
        }
    }
}

impl Buyer {
    /// The buyer and the key as they are stored.
    pub fn stored(&self) -> (seckill_protocol::Buyer, KeyHash) {
        let anonymous = || (seckill_protocol::Buyer::anonymous(&self.key), KeyHash::of(&self.key));
        let identified = self.member.and_then(|member| members::stored(member, &self.key).ok());
        identified.unwrap_or_else(anonymous)
    }
}

#[derive(Clone)]
pub struct History {
    started: Instant,
    /// The wall clock at `started`, in unix milliseconds.
    pub started_at: u64,
    data: Arc<Mutex<HistoryData>>,
}

#[derive(Debug, Default, Clone)]
pub struct HistoryData {
    pub buyers: Vec<Buyer>,
    pub events: Vec<Event>,
    /// When first-time buyers of the main sale heard that they had won.
    pub wins: Vec<At>,
}

impl History {
    pub fn start() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        History {
            started: Instant::now(),
            started_at: now.map_or(0, |d| d.as_millis() as u64),
            data: Arc::default(),
        }
    }

    pub fn now(&self) -> At {
        self.started.elapsed().as_millis() as At
    }

    /// Prints a line with the time in the run.
    pub fn print(&self, line: &str) {
        println!("[{:>6.1} s] {line}", self.now() as f64 / 1000.0);
    }

    fn with<T>(&self, access: impl FnOnce(&mut HistoryData) -> T) -> T {
        access(&mut self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn add_buyer(&self, buyer: Buyer) -> usize {
        self.with(|data| {
            data.buyers.push(buyer);
            data.buyers.len() - 1
        })
    }

    pub fn buyers(&self, which: &[usize]) -> Vec<(usize, Buyer)> {
        self.with(|data| which.iter().map(|i| (*i, data.buyers[*i].clone())).collect())
    }

    pub fn add_event(&self, event: Event, main_sale_win: bool) {
        self.with(|data| {
            if main_sale_win {
                data.wins.push(event.to);
            }
            data.events.push(event);
        });
    }

    pub fn set_done(&self, buyer: usize) {
        self.with(|data| data.buyers[buyer].done = true);
    }

    /// Buyers who do not know the outcome yet.
    pub fn waiting(&self) -> usize {
        self.with(|data| data.buyers.iter().filter(|buyer| !buyer.done).count())
    }

    /// The latest winners of a sale, of those who heard of it since then.
    pub fn winners_since(&self, sale: &str, at: At, most: usize) -> Vec<usize> {
        self.with(|data| {
            let won = |event: &&Event| {
                event.to > at && event.kind == RequestKind::Buy && matches!(event.answer, BuyerAnswer::Won { .. })
            };
            let events = data.events.iter().rev().take_while(|event| event.to > at);
            let buyers = events.filter(won).map(|event| event.buyer);
            buyers
                .filter(|buyer| data.buyers[*buyer].sale == sale)
                .take(most)
                .collect()
        })
    }

    pub fn won_since(&self, at: At) -> bool {
        self.with(|data| data.wins.last().is_some_and(|last| *last > at))
    }

    /// The longest time without a win among those that overlap `from..to`.
    pub fn longest_gap(&self, from: At, to: At) -> At {
        self.with(|data| {
            let before = data.wins.partition_point(|at| *at < from);
            let mut last = before
                .checked_sub(1)
                .map_or(from, |i| data.wins[i])
                .max(from.saturating_sub(1000));
            let mut longest = 0;
            let within = data.wins[before..].iter().copied().take_while(|at| *at <= to);
            for at in within.chain([to]) {
                longest = longest.max(at.saturating_sub(last));
                last = at;
            }
            longest
        })
    }

    pub fn snapshot(&self) -> HistoryData {
        self.with(|data| data.clone())
    }
}
