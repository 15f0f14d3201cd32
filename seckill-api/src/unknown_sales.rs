//! How a request names a sale, and the names of sales that do not exist.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::catalogue::{ListedSale, Snapshot};

/// For this time an answer "there is no such sale" is given again. A sale that is created meanwhile is found all the same, as
/// soon as the catalogue has it.
const MAX_UNKNOWN_AGE: Duration = Duration::from_secs(5);
/// Names that are remembered, at most some 4 MB.
const MAX_UNKNOWN_SALES: usize = 10_000;

/// How a request names a sale.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SaleReference {
    /// `namespace/name`
    Name(String),
    /// The number of its item, on the old demo's routes.
    Item(i64),
}

impl SaleReference {
    /// `None` if no FlashSale can have this name.
    pub fn of_name(namespace: &str, name: &str) -> Option<Self> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_namespace = (1..=63).contains(&namespace.len()) && namespace.bytes().all(letter);
        let is_name = (1..=253).contains(&name.len()) && name.bytes().all(|b| letter(b) || b == b'.');
        (is_namespace && is_name).then(|| SaleReference::Name(format!("{namespace}/{name}")))
    }

    pub fn find(&self, snapshot: &Snapshot) -> Option<Arc<ListedSale>> {
        match self {
            SaleReference::Name(name) => snapshot.by_name(name),
            SaleReference::Item(item) => snapshot.by_item(*item),
        }
    }
}

/// Sales that did not exist a moment ago.
#[derive(Default)]
pub struct UnknownSales(Mutex<HashMap<SaleReference, Instant>>);

impl UnknownSales {
    pub fn contains(&self, reference: &SaleReference, now: Instant) -> bool {
        self.lock().get(reference).is_some_and(|at| is_young(*at, now))
    }

    pub fn insert(&self, reference: SaleReference, now: Instant) {
        let mut sales = self.lock();
        if sales.len() >= MAX_UNKNOWN_SALES {
            sales.retain(|_, at| is_young(*at, now));
        }
        if sales.len() < MAX_UNKNOWN_SALES {
            sales.insert(reference, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SaleReference, Instant>> {
        // It changes in single steps, so a panic elsewhere leaves it consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_young(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < MAX_UNKNOWN_AGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_kubernetes_are_looked_up() {
        let longest = "a".repeat(253);
        for (namespace, name) in [("shop", "sale"), ("s-1", "a.b-c.9"), ("shop", &longest)] {
            assert!(SaleReference::of_name(namespace, name).is_some(), "{namespace}/{name}");
        }
        let too_long = "a".repeat(254);
        for (namespace, name) in [
            ("", "x"),
            ("a.b", "x"),
            ("shop", "Sale"),
            ("shop", "a/b"),
            ("shop", &too_long),
        ] {
            assert!(SaleReference::of_name(namespace, name).is_none(), "{namespace}/{name}");
        }
    }

    #[test]
    fn unknown_sales_are_forgotten_after_seconds() {
        let (unknown, now) = (UnknownSales::default(), Instant::now());
        for item in 0..2 * MAX_UNKNOWN_SALES as i64 {
            unknown.insert(SaleReference::Item(item), now);
        }
        assert_eq!(unknown.lock().len(), MAX_UNKNOWN_SALES);
        assert!(unknown.contains(&SaleReference::Item(1), now) && !unknown.contains(&SaleReference::Item(-1), now));
        let later = now + MAX_UNKNOWN_AGE;
        assert!(!unknown.contains(&SaleReference::Item(1), later));
        unknown.insert(SaleReference::Item(-1), later);
        assert_eq!(unknown.lock().len(), 1);
    }
}
