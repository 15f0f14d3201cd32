//! Sales that have to be reconciled, although their FlashSales have not changed.
use futures::stream::{self, Stream};
use seckill_planner::SaleKey;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// A controller that is further behind misses some of them. They are reconciled later, as all sales are now and then.
const MAX_WAITING_CHANGES: usize = 8192;

#[derive(Clone)]
pub struct SaleChanges(broadcast::Sender<SaleKey>);

impl Default for SaleChanges {
    fn default() -> Self {
        SaleChanges(broadcast::Sender::new(MAX_WAITING_CHANGES))
    }
}

impl SaleChanges {
    pub fn send(&self, key: SaleKey) {
        // Nobody listens once the controllers have ended.
        let _ = self.0.send(key);
    }

    pub fn listen(&self) -> impl Stream<Item = SaleKey> + Send + use<> {
        stream::unfold(self.0.subscribe(), |mut changes| async {
            loop {
                match changes.recv().await {
                    Ok(key) => return Some((key, changes)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
    }
}
