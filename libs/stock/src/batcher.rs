//! Turns the callers of one sale into few script calls.
//!
//! There is no timer. A single caller does not wait. A crowd fills the batches by itself, because it queues behind the
//! current call. Large batches make a purchase cheap: the record in the log and the work in MySQL cost once per batch.
//! So a second concurrent call starts only with a full batch.
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use seckill_protocol::index::{Decision, Fenced, Request};
use seckill_protocol::{Batch, Epoch, SaleId};
use tokio::sync::{oneshot, watch};

use crate::client::{StockClient, StockError};
use crate::queue;

/// Concurrent script calls. They keep Redis busy while replies are under way and callers come back.
const MAX_CONCURRENT_SCRIPTS: usize = 4;

/// Takes the batches that were sold. It is called once per script call that sold something, before the callers get
/// answers.
pub trait BatchSink: Send + Sync + 'static {
    /// Must not block. The caller does not learn of a failure: the read-back and the relay decide.
    fn append(&self, batch: Batch);
}

impl<T: BatchSink> BatchSink for Arc<T> {
    fn append(&self, batch: Batch) {
        T::append(self, batch);
    }
}

/// Why a purchase was not decided.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PurchaseError {
    #[error("too many purchases of this sale are waiting")]
    Overloaded,
    #[error("the sale has no live index")]
    NoIndex,
    #[error("the index has a newer epoch, {0}")]
    Refresh(Epoch),
    /// Also if the address leads to a replica: another connection may lead to the index.
    #[error("no index in force was reached")]
    Stale,
    /// The purchase may have happened. A retry with the same key gets the answer.
    #[error("unknown outcome: {0}")]
    Unknown(Arc<StockError>),
}

/// The decision, with the epoch of the index that made it.
pub type PurchaseReply = Result<(Epoch, Decision), PurchaseError>;

type QueueSender = queue::Sender<Request, PurchaseReply>;
type QueueReceiver = queue::Receiver<Request, PurchaseReply>;
type QueuedPurchase = queue::Queued<Request, PurchaseReply>;

/// The batcher of one sale in this process. Clones share it. It stops when the last one is dropped.
#[derive(Clone)]
pub struct Batcher {
    queue: Arc<QueueSender>,
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Batcher")
    }
}

impl Batcher {
    /// `epoch` is the live epoch of the sale by the ledger. `queue` limits the number of waiting callers.
    pub fn spawn(
        client: StockClient,
        sale: SaleId,
        epoch: watch::Receiver<Option<Epoch>>,
        log: impl BatchSink,
        queue: usize,
    ) -> Self {
        let (sender, receiver) = queue::queue(queue);
        tokio::spawn(run(
            Scripts {
                client,
                sale,
                log: Arc::new(log),
            },
            epoch,
            receiver,
        ));
        Batcher {
            queue: Arc::new(sender),
        }
    }

    /// Decides one request, in a batch with others that wait at the same time. [`Decision::Reserved`] is not a promise
    /// yet. If the future is dropped before the script call, nothing is bought.
    pub async fn purchase(&self, request: Request) -> PurchaseReply {
        let (answer, decision) = oneshot::channel();
        self.queue
            .push(request, answer)
            .map_err(|queue::Refused| PurchaseError::Overloaded)?;
        // The task answers every request that it takes from the queue. Only the end of the process drops them.
        decision.await.unwrap_or(Err(PurchaseError::Overloaded))
    }
}

struct Scripts<S> {
    client: StockClient,
    sale: SaleId,
    log: S,
}

async fn run<S: BatchSink>(scripts: Scripts<S>, epoch: watch::Receiver<Option<Epoch>>, queue: QueueReceiver) {
    let mut in_flight = FuturesUnordered::new();
    loop {
        let batch = if in_flight.is_empty() {
            let batch = queue.take(Batch::MAX_ORDERS).await;
            if batch.is_empty() {
                return;
            }
            batch
        } else if queue.len() >= Batch::MAX_ORDERS && in_flight.len() < MAX_CONCURRENT_SCRIPTS {
            // Must not wait: the calls in flight advance only below. It is empty if all callers have gone away.
            queue.try_take(Batch::MAX_ORDERS)
        } else {
            Vec::new()
        };
        match batch.is_empty() {
            true => drop(in_flight.next().await),
            false => in_flight.push(scripts.decide(*epoch.borrow(), batch)),
        }
    }
}

impl<S: BatchSink> Scripts<S> {
    async fn decide(&self, epoch: Option<Epoch>, batch: Vec<QueuedPurchase>) {
        let (mut requests, mut answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|queued| (queued.request, queued.answer)).unzip();
        let fail_all = |answers: Vec<oneshot::Sender<PurchaseReply>>, error: PurchaseError| {
            for answer in answers {
                let _ = answer.send(Err(error.clone())); // a caller that has gone away needs no answer
            }
        };
        let Some(epoch) = epoch else {
            return fail_all(answers, PurchaseError::NoIndex);
        };
        let mut decided = self.client.purchase(self.sale, epoch, &requests).await;
        if decided.is_err() {
            // The outcome is unknown. Repeat the requests: purchases of the first call are answered as already
            // reserved. Callers that have gone away since get no second call: a later request with the same key may
            // have been told that nothing was bought. If the first call bought for them, the relay publishes the record.
            (requests, answers) = std::iter::zip(requests, answers)
                .filter(|(_, answer)| !answer.is_closed())
                .unzip();
            if answers.is_empty() {
                return;
            }
            decided = self.client.purchase(self.sale, epoch, &requests).await;
        }
        match decided {
            Ok(Ok((decisions, sold))) => {
                if let Some(sold) = sold {
                    self.log.append(sold);
                }
                for (answer, decision) in answers.into_iter().zip(decisions) {
                    let _ = answer.send(Ok((epoch, decision)));
                }
            }
            Ok(Err(Fenced::Refresh { epoch })) => fail_all(answers, PurchaseError::Refresh(epoch)),
            Ok(Err(Fenced::Stale | Fenced::Replica)) => fail_all(answers, PurchaseError::Stale),
            Err(error) => {
                tracing::warn!(sale = %self.sale, %error, purchases = answers.len(), "purchases have an unknown outcome");
                fail_all(answers, PurchaseError::Unknown(Arc::new(error)));
            }
        }
    }
}
