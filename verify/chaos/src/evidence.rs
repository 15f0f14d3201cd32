//! What is known at the end of a run. The invariants in [`check`](crate::check) are functions of this alone.
use std::collections::{BTreeMap, HashMap};

use seckill_protocol::index::Terms;
use seckill_protocol::{Buyer, KeyHash, Offset, OrderId, OrderNoKeys, OrderStatus, Quantity, Record, SaleCut, SaleId};
use serde::Serialize;

use crate::history::{At, HistoryData};

pub struct Evidence {
    pub history: HistoryData,
    /// The wall clock when the history began, in unix milliseconds.
    pub started_at: u64,
    pub order_no_keys: OrderNoKeys,
    pub sales: Vec<Sale>,
    /// Sales of which the log has batches and MySQL no row, with the number of the batches.
    pub unknown_sales: HashMap<SaleId, usize>,
    pub suspensions: Vec<Suspension>,
    pub clock_steps: Vec<ClockStep>,
    /// The peak memory of each program, in KiB.
    pub peak_memory: BTreeMap<String, u64>,
    /// Faults that could not be played, with the reason.
    pub failed_faults: Vec<String>,
    /// Sales whose end was moved, and when the new end had surely taken effect.
    pub ended: HashMap<String, At>,
    /// The end of each sale as the run ordered it last, in unix milliseconds.
    pub ends: HashMap<String, u64>,
    /// The bounds on the orders of sales, cancelled ones included.
    pub max_orders: HashMap<String, u64>,
    /// What clients took from others.
    pub taken: Vec<String>,
    pub recovery: Recovery,
}

/// A time in which a sale was surely suspended: from after the suspension took effect until it was lifted.
#[derive(Debug, Clone)]
pub struct Suspension {
    pub sale: String,
    pub from: At,
    pub to: At,
}

/// A time in which the clock of Redis was wrong.
#[derive(Debug, Clone)]
pub struct ClockStep {
    pub from: At,
    pub to: At,
    pub offset_ms: u64,
    /// A sale that was preheated while the clock was wrong. Its index waits for the start by the other clocks.
    pub preheated: Option<String>,
}

/// Another Redis became the primary.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Promotion {
    /// When the primary was killed, paused, or asked to hand over.
    pub from_ms: At,
    pub promoted_ms: At,
}

/// How the system came to rest after the last fault.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Recovery {
    /// From the last repair to the next win.
    pub resumed_ms: Option<u64>,
    /// From the last purchase until everything sold was stored.
    pub drained_ms: Option<u64>,
    /// What did not recover by itself, such as sales that did not settle.
    pub unrecovered: Vec<String>,
}

/// One sale as MySQL, the log and Redis have it.
pub struct Sale {
    pub name: String,
    pub id: SaleId,
    pub opens_at: u64,
    pub closes_at: u64,
    /// Limits, and tiers if it has some.
    pub terms: Terms,
    pub total: u64,
    pub sold: u64,
    pub cut: SaleCut,
    pub orders: BTreeMap<OrderId, StoredOrder>,
    pub quarantined: usize,
    /// The index was lost at the end of the sale: units in flight then are sold to nobody.
    pub settled_without_index: bool,
    pub log: Vec<LogEntry>,
    /// Before the sale was closed, when nothing was in flight.
    pub at_rest: Option<IndexAtRest>,
}

/// A record of a sale in the log.
pub struct LogEntry {
    pub offset: Offset,
    /// The time stamp of the record, in unix milliseconds.
    pub at: u64,
    pub record: Record,
}

/// An order as MySQL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOrder {
    pub buyer: Buyer,
    pub key: KeyHash,
    pub quantity: Quantity,
    pub status: OrderStatus,
}

/// The index in Redis when nothing was in flight.
#[derive(Debug, Clone, Default)]
pub struct IndexAtRest {
    /// The end of the log at that time.
    pub log_end: Offset,
    pub epoch: Offset,
    pub total: u64,
    pub left: u64,
    /// Orders ever made.
    pub ever: Option<u64>,
    pub outbox: u64,
    /// Live units of each tier.
    pub taken: Vec<u64>,
    /// Buyer -> holdings, in the text form of Redis.
    pub holdings: HashMap<String, String>,
}

impl Sale {
    /// Units of live orders in MySQL.
    pub fn live_units(&self) -> u64 {
        let live = self.orders.values().filter(|order| order.status.is_live());
        live.map(|order| u64::from(order.quantity)).sum()
    }
}
