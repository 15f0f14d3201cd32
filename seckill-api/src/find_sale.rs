//! Finding a sale. "There is no such sale" is final, so it must be true: MySQL may have failed over and lost the row of a
//! sale, until order-worker has read the log again.
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use seckill_protocol::Offset;
use tokio::time::Instant;

use crate::api::Api;
use crate::catalogue::ListedSale;
use crate::problem::Problem;
use crate::unknown_sales::SaleReference;

/// However many requests name unknown sales, Kafka is not asked for the ends of the log more often.
const MAX_END_AGE: Duration = Duration::from_millis(100);
/// Two periodic reads of the catalogue: in the middle of a sale order-worker is always some milliseconds behind.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);
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
