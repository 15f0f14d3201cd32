//! Finding a sale. "There is no such sale" is final, so it must be true: MySQL may have failed over and lost the row of a
//! sale, until order-worker has read the log again.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use seckill_protocol::Offset;
use tokio::time::Instant;

use crate::api::Api;
use crate::catalogue::{ListedSale, Snapshot};
use crate::problem::Problem;

/// However many requests name unknown sales, Kafka is not asked for the ends of the log more often.
const MAX_END_AGE: Duration = Duration::from_millis(100);
/// Two periodic reads of the catalogue: in the middle of a sale order-worker is always some milliseconds behind.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);
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

    fn find(&self, snapshot: &Snapshot) -> Option<Arc<ListedSale>> {
        match self {
            SaleReference::Name(name) => snapshot.by_name(name),
            SaleReference::Item(item) => snapshot.by_item(*item),
        }
    }
}

impl Api {
    /// The sale, also if it was created after the last read of the ledger: a sale that `kubectl` shows can be bought here.
    /// `None`: there is no such sale. No name makes this process read the ledger, because anybody can send any number.
    pub async fn find_sale(&self, reference: SaleReference) -> Result<Option<Arc<ListedSale>>, Problem> {
        let snapshot = self.catalogue.snapshot();
        if let Some(found) = reference.find(&snapshot) {
            return Ok(Some(found));
        }
        if snapshot.is_recent() && self.unknown_sales.contains(&reference, Instant::now()) {
            return Ok(None);
        }
        // The ends first: a snapshot that is read later, and has read the log to them, has the rows of all sales.
        let deadline = Instant::now() + FIND_TIMEOUT;
        let ends = self.log_ends(MAX_END_AGE).await;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.catalogue.next_snapshot(left).await {
                return Err(Problem::NotReady);
            }
            let snapshot = self.catalogue.snapshot();
            match (reference.find(&snapshot), &ends) {
                (Some(found), _) => return Ok(Some(found)),
                (None, Err(problem)) => return Err(problem.clone()),
                (None, Ok(ends)) if snapshot.has_read_to(ends) => {
                    self.unknown_sales.insert(reference, Instant::now());
                    return Ok(None);
                }
                (None, Ok(_)) => {}
            }
        }
    }

    /// The end of each partition, at most `max_age` ago. All callers share the queries to Kafka.
    pub async fn log_ends(&self, max_age: Duration) -> Result<Vec<Offset>, Problem> {
        let ends = (0..self.tail.partitions()).map(|partition| async move {
            self.tail.confirm_fresh(partition, max_age).await?;
            // This process has read the partition to that end, or further.
            Ok(self.tail.position(partition).unwrap_or_default())
        });
        try_join_all(ends).await.map_err(|error: seckill_order_log::LogError| {
            tracing::debug!(%error, "failed to read the ends of the log");
            Problem::NotReady
        })
    }
}

/// Sales that did not exist a moment ago.
#[derive(Default)]
pub struct UnknownSales(Mutex<HashMap<SaleReference, Instant>>);

impl UnknownSales {
    fn contains(&self, reference: &SaleReference, now: Instant) -> bool {
        self.lock().get(reference).is_some_and(|at| is_young(*at, now))
    }

    fn insert(&self, reference: SaleReference, now: Instant) {
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
