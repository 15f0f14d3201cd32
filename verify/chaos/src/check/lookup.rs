//! The evidence, arranged for lookups.
use std::collections::HashMap;

use seckill_protocol::{Fold, Offset, OrderId, Quantity, SaleId};

use crate::evidence::{Evidence, Sale};
use crate::history::{At, BuyerAnswer, Event};

/// A number that a buyer was given.
pub struct Win<'a> {
    pub event: &'a Event,
    pub number: &'a str,
    pub quantity: Quantity,
}

pub struct Lookup<'a> {
    /// Buyer -> the numbers it was given, in order.
    pub wins: HashMap<usize, Vec<Win<'a>>>,
    /// Buyer -> its requests, in order.
    pub events: HashMap<usize, Vec<&'a Event>>,
    pub sales: HashMap<&'a str, &'a Sale>,
    pub folds: HashMap<SaleId, Fold>,
}

impl<'a> Lookup<'a> {
    pub fn new(evidence: &'a Evidence) -> Self {
        let sales = &evidence.sales;
        let mut lookup = Lookup {
            wins: HashMap::new(),
            events: HashMap::new(),
            sales: sales.iter().map(|sale| (sale.name.as_str(), sale)).collect(),
            folds: sales.iter().map(|sale| (sale.id, fold(sale, Offset::MAX))).collect(),
        };
        for event in &evidence.history.events {
            lookup.events.entry(event.buyer).or_default().push(event);
            if let BuyerAnswer::Won { number, quantity, .. } = &event.answer {
                let win = Win {
                    event,
                    number,
                    quantity: *quantity,
                };
                lookup.wins.entry(event.buyer).or_default().push(win);
            }
        }
        lookup
    }

    /// Whether the log counts this order.
    pub fn counts(&self, id: &OrderId) -> bool {
        let fold = self.folds.get(&id.sale);
        fold.is_some_and(|fold| fold.orders().contains_key(id))
    }

    /// When the buyer sent its first request.
    pub fn first_request(&self, buyer: usize) -> At {
        let events = self.events.get(&buyer);
        events.and_then(|events| events.first()).map_or(0, |event| event.from)
    }
}

/// The product's own fold of the log, from its beginning.
pub fn fold(sale: &Sale, before: Offset) -> Fold {
    let mut fold = Fold::new(sale.id);
    for entry in sale.log.iter().take_while(|entry| entry.offset < before) {
        fold.read(entry.offset, &entry.record);
    }
    fold
}
