//! What buyers notice when another Redis becomes the primary of the main sale.
use std::collections::{BTreeMap, HashMap};

use seckill_protocol::{Epoch, OrderNoKeys};
use serde::Serialize;

use crate::crowd::MAIN_SALE;
use crate::evidence::Promotion;
use crate::history::{At, BuyerAnswer, Event, HistoryData};
use crate::run::PlayedFault;

/// All promotions by one kind of fault, in milliseconds.
#[derive(Debug, Default, Serialize)]
pub struct Promotions {
    pub count: usize,
    /// From the fault to the new primary.
    pub promoted: Times,
    /// From the new primary to the first sale by its index, which has a new epoch.
    pub first_sale: Times,
    /// From a buyer's first 503 to the answer.
    pub unavailable: Times,
}

#[derive(Debug, Default, Clone, Serialize)]
pub struct Times(Vec<u64>);

impl Times {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The median and the longest.
    pub fn summary(&self) -> Option<(u64, u64)> {
        let mut times = self.0.clone();
        times.sort_unstable();
        Some((*times.get(times.len() / 2)?, *times.last()?))
    }
}

/// By the name of the fault.
pub fn by_fault<'a>(
    history: &HistoryData,
    keys: &OrderNoKeys,
    played: &'a [PlayedFault],
) -> BTreeMap<&'a str, Promotions> {
    let mut faults: BTreeMap<&str, Promotions> = BTreeMap::new();
    for fault in played {
        let Some(promotion) = &fault.promotion else { continue };
        let promotions = faults.entry(&fault.fault).or_default();
        promotions.count += 1;
        promotions.promoted.0.push(promotion.promoted_ms - promotion.from_ms);
        promotions
            .first_sale
            .0
            .extend(first_sale_after(history, keys, promotion));
        let unavailable = unavailable_between(history, promotion.from_ms, fault.healed_ms);
        promotions.unavailable.0.extend(unavailable);
    }
    faults
}

/// The old primary may sell for a moment after the promotion, so the epoch decides.
fn first_sale_after(history: &HistoryData, keys: &OrderNoKeys, promotion: &Promotion) -> Option<u64> {
    let sales = of_main_sale(history).filter_map(|event| match &event.answer {
        BuyerAnswer::Won { number, .. } => Some((event.to, keys.decode(number).ok()?.epoch)),
        _ => None,
    });
    let (before, after): (Vec<_>, Vec<_>) = sales.partition(|(at, _)| *at < promotion.from_ms);
    let last: Option<Epoch> = before.into_iter().map(|(_, epoch)| epoch).max();
    let first = after.into_iter().find(|(_, epoch)| Some(*epoch) > last);
    first.map(|(at, _)| at.saturating_sub(promotion.promoted_ms))
}

/// For how long each buyer got 503 whose first 503 came in this time.
fn unavailable_between(history: &HistoryData, from: At, to: At) -> Vec<u64> {
    let mut waiting: HashMap<usize, At> = HashMap::new();
    let mut times = Vec::new();
    for event in of_main_sale(history).filter(|event| event.to >= from) {
        match &event.answer {
            BuyerAnswer::Unavailable(_) if event.to <= to => {
                waiting.entry(event.buyer).or_insert(event.to);
            }
            BuyerAnswer::Unavailable(_) | BuyerAnswer::NoReply(_) | BuyerAnswer::Pending | BuyerAnswer::Unknown => {}
            _ => times.extend(waiting.remove(&event.buyer).map(|since| event.to - since)),
        }
    }
    times
}

fn of_main_sale(history: &HistoryData) -> impl Iterator<Item = &Event> {
    let of_main_sale = |event: &&Event| history.buyers[event.buyer].sale == MAIN_SALE;
    history.events.iter().filter(of_main_sale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_protocol::{OrderId, SaleId};

    use crate::harness::ORDER_NO_KEYS;
    use crate::history::Buyer;

    fn won(epoch: i64) -> BuyerAnswer {
        let id = OrderId {
            sale: SaleId(1),
            epoch: Epoch(epoch),
            seq: 1,
        };
        let keys: OrderNoKeys = ORDER_NO_KEYS.parse().expect("keys");
        BuyerAnswer::Won {
            number: keys.encode(id, 0).expect("a number").to_string(),
            quantity: 1,
            cancelled: false,
        }
    }

    #[test]
    fn a_promotion_is_measured_by_the_answers_of_buyers() {
        let unavailable = || BuyerAnswer::Unavailable("503 not_ready".into());
        let event = Event::purchase;
        let history = HistoryData {
            buyers: [MAIN_SALE, MAIN_SALE, "short-1", MAIN_SALE].map(Buyer::of).into(),
            events: vec![
                event(3, 10, 20, unavailable()),
                event(3, 50, 60, won(7)),
                event(0, 1000, 1100, unavailable()),
                event(2, 1000, 1200, unavailable()),
                event(0, 1300, 1500, unavailable()),
                event(1, 2050, 2100, won(7)),
                event(2, 2000, 2150, won(8)),
                event(0, 2050, 2600, won(8)),
            ],
            wins: Vec::new(),
        };
        let played = PlayedFault {
            fault: "primary-killed".into(),
            did: String::new(),
            failed: false,
            from_ms: 900,
            healed_ms: 3000,
            stopped_ms: 0,
            resumed_ms: Some(0),
            promotion: Some(Promotion {
                from_ms: 1000,
                promoted_ms: 2000,
            }),
        };
        let keys = ORDER_NO_KEYS.parse().expect("keys");
        let faults = by_fault(&history, &keys, std::slice::from_ref(&played));
        let promotions = &faults["primary-killed"];
        assert_eq!(promotions.count, 1);
        assert_eq!(promotions.promoted.summary(), Some((1000, 1000)));
        assert_eq!(
            promotions.first_sale.summary(),
            Some((600, 600)),
            "buyer 1 bought at the old primary"
        );
        assert_eq!(promotions.unavailable.0, [1500], "of buyer 0 alone");
    }
}
