//! Turns the callers of one sale into few script calls.
//!
//! There is no timer. One caller waits for nobody; a crowd fills its batches by itself, since it queues up behind the call
//! under way. Large batches are what makes a purchase cheap: everything behind them, to the record in the log and the
//! transaction in MySQL, is paid once a batch. So another call goes out beside the first only if it is full.
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use seckill_protocol::index::{Decision, Fenced, Request};
use seckill_protocol::{Batch, Epoch, SaleId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::client::{StockClient, StockError};

/// They keep Redis busy while replies are on their way, and their callers come back.
const SCRIPTS_IN_FLIGHT: usize = 4;

/// Where the records of what was sold go. Called once a script call that sold something, before the callers hear of it.
pub trait BatchSink: Send + Sync + 'static {
    /// Must not block. A failure is not the caller's to know: the read-back and the relay decide.
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
    #[error("no index of this sale is known to sell")]
    NoIndex,
    #[error("the index has moved on to epoch {0}")]
    Refresh(Epoch),
    #[error("the index is not in force: it has to be rebuilt")]
    Stale,
    /// It may have been taken. The same request again, with the same key, learns it.
    #[error("unknown outcome: {0}")]
    Unknown(Arc<StockError>),
}

type Reply = Result<(Epoch, Decision), PurchaseError>;

struct Waiting {
    request: Request,
    answer: oneshot::Sender<Reply>,
}

/// The batcher of one sale in this process. Clones share it; it ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Waiting>,
}

impl Batcher {
    /// `epoch` is the epoch of the index that sells, as the ledger knows it; `queue` bounds the callers that wait.
    pub fn spawn(
        client: StockClient,
        sale: SaleId,
        epoch: watch::Receiver<Option<Epoch>>,
        log: impl BatchSink,
        queue: usize,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(queue);
        tokio::spawn(run(
            Scripts {
                client,
                sale,
                log: Arc::new(log),
            },
            epoch,
            receiver,
        ));
        Batcher { queue: sender }
    }

    /// Decides one request, in a batch with others that wait at the same time. [`Decision::Reserved`] is not a promise yet.
    pub async fn purchase(&self, request: Request) -> Reply {
        let (answer, decision) = oneshot::channel();
        self.queue
            .try_send(Waiting { request, answer })
            .map_err(|_| PurchaseError::Overloaded)?;
        // The task answers everyone whom it took from the queue; only the end of the process drops them.
        decision.await.unwrap_or(Err(PurchaseError::Overloaded))
    }
}

struct Scripts<S> {
    client: StockClient,
    sale: SaleId,
    log: S,
}

async fn run<S: BatchSink>(
    scripts: Scripts<S>,
    epoch: watch::Receiver<Option<Epoch>>,
    mut queue: mpsc::Receiver<Waiting>,
) {
    let mut in_flight = FuturesUnordered::new();
    loop {
        let one_is_full = queue.len() >= Batch::MAX_ORDERS;
        if in_flight.is_empty() || (one_is_full && in_flight.len() < SCRIPTS_IN_FLIGHT) {
            let mut batch = Vec::new();
            // It waits only while nothing is under way.
            if queue.recv_many(&mut batch, Batch::MAX_ORDERS).await == 0 {
                return;
            }
            let epoch = *epoch.borrow();
            in_flight.push(scripts.decide(epoch, batch));
        } else {
            in_flight.next().await;
        }
    }
}

impl<S: BatchSink> Scripts<S> {
    async fn decide(&self, epoch: Option<Epoch>, batch: Vec<Waiting>) {
        let (requests, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.request, w.answer)).unzip();
        let tell_all = |answers: Vec<oneshot::Sender<Reply>>, error: PurchaseError| {
            for answer in answers {
                let _ = answer.send(Err(error.clone())); // a caller that has gone away needs no answer
            }
        };
        let Some(epoch) = epoch else {
            return tell_all(answers, PurchaseError::NoIndex);
        };
        let decided = match self.client.purchase(self.sale, epoch, &requests).await {
            // Unknown. The same requests again: what the first call took is answered as held.
            Err(_) => self.client.purchase(self.sale, epoch, &requests).await,
            decided => decided,
        };
        match decided {
            Ok(Ok((decisions, sold))) => {
                if let Some(sold) = sold {
                    self.log.append(sold);
                }
                for (answer, decision) in answers.into_iter().zip(decisions) {
                    let _ = answer.send(Ok((epoch, decision)));
                }
            }
            Ok(Err(Fenced::Refresh { epoch })) => tell_all(answers, PurchaseError::Refresh(epoch)),
            Ok(Err(Fenced::Stale)) => tell_all(answers, PurchaseError::Stale),
            Err(error) => {
                tracing::warn!(sale = %self.sale, %error, purchases = answers.len(), "purchases of unknown outcome");
                tell_all(answers, PurchaseError::Unknown(Arc::new(error)));
            }
        }
    }
}
