//! Every request that a buyer sent, and what came back: the evidence that the checker goes by.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// Milliseconds since the run began.
pub type At = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `POST .../orders`
    Buy,
    /// `GET .../request`
    Ask,
    /// `DELETE /v1/orders/...`
    Cancel,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// 201, or 200 to a question.
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
    NotStarted,
    Ended,
    /// Nothing was bought with this key.
    Unknown,
    Suspended,
    /// 200 to a cancellation: it has taken effect.
    Cancelled,
    /// 503 and 500: says nothing, or not yet.
    NotNow(String),
    /// No answer.
    Nothing(String),
    /// An answer that no buyer should get.
    Odd(String),
}

impl Answer {
    /// The buyer need not ask again.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Answer::Won { .. } | Answer::SoldOut { .. } | Answer::Ended | Answer::Odd(_)
        )
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Event {
    pub from: At,
    pub to: At,
    pub buyer: usize,
    pub kind: Kind,
    /// Which of the two API processes.
    pub api: usize,
    pub answer: Answer,
}

/// A buyer is one purchase of one sale under one key.
#[derive(Debug, Clone, Serialize)]
pub struct Buyer {
    pub sale: String,
    pub key: String,
    pub quantity: u32,
    /// Its last word: it has heard what became of the purchase, or has given up.
    pub done: bool,
}

#[derive(Clone)]
pub struct History {
    begun: Instant,
    /// The wall clock at `begun`, in unix milliseconds.
    pub begun_at: u64,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default, Clone)]
pub struct Inner {
    pub buyers: Vec<Buyer>,
    pub events: Vec<Event>,
    /// When buyers of the sale that lasts heard that they had won.
    pub wins: Vec<At>,
}

impl History {
    pub fn begin() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        History {
            begun: Instant::now(),
            begun_at: now.map_or(0, |d| d.as_millis() as u64),
            inner: Arc::default(),
        }
    }

    pub fn now(&self) -> At {
        self.begun.elapsed().as_millis() as At
    }

    fn with<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        what(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn enter(&self, buyer: Buyer) -> usize {
        self.with(|inner| {
            inner.buyers.push(buyer);
            inner.buyers.len() - 1
        })
    }

    pub fn add(&self, event: Event, lasting_win: bool) {
        self.with(|inner| {
            if lasting_win {
                inner.wins.push(event.to);
            }
            inner.events.push(event);
        });
    }

    pub fn done(&self, buyer: usize) {
        self.with(|inner| inner.buyers[buyer].done = true);
    }

    pub fn waiting(&self) -> usize {
        self.with(|inner| inner.buyers.iter().filter(|buyer| !buyer.done).count())
    }

    /// Whether somebody won since then.
    pub fn won_since(&self, at: At) -> bool {
        self.with(|inner| inner.wins.last().is_some_and(|last| *last > at))
    }

    /// The longest time without a win, of those that overlap `from..to`.
    pub fn longest_gap(&self, from: At, to: At) -> At {
        self.with(|inner| {
            let before = inner.wins.partition_point(|at| *at < from);
            let mut last = before
                .checked_sub(1)
                .map_or(from, |i| inner.wins[i])
                .max(from.saturating_sub(1000));
            let mut longest = 0;
            for at in inner.wins[before..]
                .iter()
                .copied()
                .take_while(|at| *at <= to)
                .chain([to])
            {
                longest = longest.max(at.saturating_sub(last));
                last = at;
            }
            longest
        })
    }

    pub fn all(&self) -> Inner {
        self.with(|inner| inner.clone())
    }
}
