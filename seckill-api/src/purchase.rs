//! A purchase from the request to its answer.
//!
//! The index in Redis decides, but only the log makes the decision final. An order number is returned after its record
//! was read back as accepted. A refusal counts only if this process has just read the log to its end, and if the log
//! names the index that refused.
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use seckill_ledger::{Sale, StoredOrder};
use seckill_order_log::ReadBack;
use seckill_protocol::index::{Decision, Holding, Millis, Request};
use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{
    Batch, Buyer, Epoch, KeyHash, Order, OrderId, OrderNo, Quantity, Record, RecordVerdict, SaleId, Seq, Tier,
};
use seckill_service::traces::SpanContext;
use seckill_stock::PurchaseError;
use tokio::time::{Instant, timeout};

use crate::api::Api;
use crate::catalogue::{ActiveSale, ListedSale, REFRESH_TIMEOUT};
use crate::clock;
use crate::limits::MAX_QUANTITY;
use crate::order_lookup::OrderOfKey;
use crate::problem::Problem;

/// Time limit for a record to come back from the log. After it the buyer gets 202, and asks again later.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for all attempts, one for each epoch.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);
/// A refusal counts only if the tail was at the end of the log within this time.
const MAX_TAIL_AGE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Purchase {
    pub sale: SaleId,
    pub buyer: Buyer,
    /// By the token of this request. It decides nothing if the key has an order already.
    pub tier: Tier,
    pub key: KeyHash,
    /// 0 queries the result of an earlier purchase.
    pub quantity: Quantity,
    /// None: it is not traced.
    pub span: Option<SpanContext>,
}

impl Purchase {
    fn request(&self) -> Request {
        Request {
            buyer: self.buyer.clone(),
            quantity: self.quantity,
            tier: self.tier,
            key: self.key,
        }
    }

    fn is_query(&self) -> bool {
        self.quantity == 0
    }

    /// Whether an order of this quantity can be the result of this purchase.
    fn matches(&self, quantity: Quantity) -> bool {
        self.is_query() || self.quantity == quantity
    }
}

#[derive(Debug, Clone)]
pub enum Outcome {
    /// The order is in the log, so it is final.
    Bought(Bought),
    /// The index has reserved the units, and the log has not confirmed the order yet. A request with the same key gets the
    /// result.
    Pending,
}

#[derive(Debug, Clone)]
pub struct Bought {
    pub order_no: OrderNo,
    pub quantity: Quantity,
    /// The status of the order in this answer. A retry gets the same status as the first request.
    pub status: &'static str,
}

pub type PurchaseResult = Result<Outcome, Problem>;

/// Boxed, because these paths are rare and large: otherwise the future of every purchase would need room for them.
type BoxedResult<'a> = BoxFuture<'a, PurchaseResult>;

/// Units that the index has reserved for the buyer, now or earlier under the same key.
struct Reservation {
    order: OrderId,
    quantity: Quantity,
    read_back: ReadBack,
}

/// The index has made no decision.
enum Undecided {
    /// A newer index is in force.
    Retry,
    /// No index is in force.
    NoIndex,
    Failed(Problem),
}

impl Api {
    /// Buys. A retry of the same purchase gets the same order, whatever happened in between.
    pub async fn purchase(&self, purchase: &Purchase) -> PurchaseResult {
        if let Some(starts_at) = self.catalogue.future_start(purchase.sale, purchase.tier) {
            return Err(self.refuse_before_start(purchase, starts_at));
        }
        let began = Instant::now();
        let result = self.decide_in_turn(purchase).await;
        self.metrics.purchase_seconds.observe(began.elapsed().as_secs_f64());
        result
    }

    /// Nobody has bought yet, so the catalogue may refuse the quantity. Later only the index may: it knows the buyers who
    /// have an order under their key, and the catalogue may be older than a larger bound that they bought by.
    fn refuse_before_start(&self, purchase: &Purchase, starts_at: Millis) -> Problem {
        let most = self
            .catalogue
            .by_id(purchase.sale)
            .map_or(MAX_QUANTITY, |listed| listed.max_per_order());
        match purchase.quantity > most {
            true => Problem::QuantityTooLarge {
                quantity: purchase.quantity,
                most,
            },
            false => Problem::NotStarted { starts_at },
        }
    }

    /// The result of an earlier purchase with this key. It waits for a purchase in progress.
    pub async fn earlier_purchase(&self, sale: SaleId, buyer: Buyer, key: KeyHash) -> PurchaseResult {
        let query = Purchase {
            sale,
            buyer,
            tier: GENERAL,
            key,
            quantity: 0,
            span: None,
        };
        self.decide_in_turn(&query).await
    }

    /// One request with this key after the other. Only the one whose turn it is takes a permit: requests with one key
    /// must not hold those of all other buyers.
    async fn decide_in_turn(&self, purchase: &Purchase) -> PurchaseResult {
        let lock = self.purchase_locks.lock((purchase.sale, purchase.key)).await;
        let _lock = lock.ok_or(Problem::Overloaded)?;
        let _permit = self.purchase_permits.try_acquire().map_err(|_| Problem::Overloaded)?;
        self.decide(purchase).await
    }

    async fn decide(&self, purchase: &Purchase) -> PurchaseResult {
        let deadline = Instant::now() + DECISION_TIMEOUT;
        // Once an index has reserved units under this key, the answer can't be "nothing was bought" any more.
        let mut reserved = false;
        loop {
            let listed = match self.listed(purchase.sale) {
                Err(_) if reserved => return Err(Problem::OutcomeUnknown),
                listed => listed?,
            };
            let sale = &listed.sale;
            let Some(active) = &listed.active else {
                return self.answer_from_ledger(&listed, purchase).await;
            };
            // This process must not sell what it can't read back. It follows an added partition within seconds.
            if sale.partition >= self.tail.partitions() {
                return Err(Problem::NotReady);
            }

            let (epoch, decision) = match self.ask_index(purchase, sale, active, deadline).await {
                Ok(decided) => decided,
                Err(Undecided::Retry) => continue,
                Err(Undecided::NoIndex) => return self.without_index(purchase, reserved).await,
                Err(Undecided::Failed(_)) if reserved => return Err(Problem::OutcomeUnknown),
                Err(Undecided::Failed(problem)) => return Err(problem),
            };
            let reservation = match decision {
                Decision::Reserved { seq } => self.reservation(purchase, sale, epoch, seq),
                Decision::AlreadyReserved(held) if !purchase.matches(held.quantity) => return Err(Problem::KeyReused),
                // The order came through a rebuild or was cancelled since: either way it is in the log.
                Decision::AlreadyReserved(held) if held.is_durable(epoch) => {
                    return self.bought_as_held(sale, &held);
                }
                Decision::AlreadyReserved(held) => self.earlier_reservation(purchase, sale, &held),
                ref refusal => return self.refuse(purchase, &listed, epoch, refusal).await,
            };
            reserved = true;
            let Reservation {
                order,
                quantity,
                read_back,
            } = reservation;
            if seckill_failpoint::breaks("reply-before-read-back") {
                return self.bought(sale, order, quantity, "processing");
            }

            // Only the log makes the order final.
            let waiting_since = Instant::now();
            let span = self.traced.part(purchase.span.as_ref(), "read back");
            let verdict = timeout(READ_BACK_TIMEOUT, read_back).await;
            drop(span);
            let waited = waiting_since.elapsed().as_secs_f64();
            self.metrics.read_back_seconds.observe(waited);
            match verdict {
                Ok(RecordVerdict::Accepted) => {
                    seckill_failpoint::reach("api.after-read-back");
                    return self.bought(sale, order, quantity, "processing");
                }
                // A barrier came before the record. Retry the same key under the new epoch: an earlier copy may count.
                Ok(RecordVerdict::Void) if self.is_closed(sale) => return self.without_index(purchase, reserved).await,
                Ok(RecordVerdict::Void) if self.wait_for_next_epoch(&listed, epoch, deadline).await => {}
                Ok(RecordVerdict::Void) => return Err(Problem::OutcomeUnknown),
                Err(_) => return Ok(Outcome::Pending),
            }
        }
    }

    /// Sends the purchase to the index, in a batch with other purchases.
    async fn ask_index(
        &self,
        purchase: &Purchase,
        sale: &Sale,
        active: &ActiveSale,
        deadline: Instant,
    ) -> Result<(Epoch, Decision), Undecided> {
        let batcher = active.batcher(|epochs| self.spawn_batcher(sale, epochs));
        let known_epoch = active.epoch();
        let span = self.traced.part(purchase.span.as_ref(), "reserve");
        let answer = batcher.purchase(purchase.request()).await;
        drop(span);
        match answer {
            Ok(decided) => Ok(decided),
            Err(PurchaseError::Refresh(newer)) => {
                let until = deadline.min(Instant::now() + REFRESH_TIMEOUT);
                match self.catalogue.wait_for_epoch(active, newer, until).await {
                    true => Err(Undecided::Retry),
                    false => Err(Undecided::Failed(Problem::NotReady)),
                }
            }
            // By now the ledger may name a newer index, or the first one.
            Err(PurchaseError::Stale | PurchaseError::NoIndex) => {
                self.catalogue.refresh(REFRESH_TIMEOUT).await;
                match active.epoch() > known_epoch && Instant::now() < deadline {
                    true => Err(Undecided::Retry),
                    false => Err(Undecided::NoIndex),
                }
            }
            Err(PurchaseError::Overloaded) => Err(Undecided::Failed(Problem::Overloaded)),
            // The batcher has tried twice, and has logged the error.
            Err(PurchaseError::Unknown(_)) => Err(Undecided::Failed(Problem::OutcomeUnknown)),
        }
    }

    fn reservation(&self, purchase: &Purchase, sale: &Sale, epoch: Epoch, seq: Seq) -> Reservation {
        let order = OrderId {
            sale: sale.id,
            epoch,
            seq,
        };
        Reservation {
            order,
            quantity: purchase.quantity,
            read_back: self.tail.read_back(sale.partition, order),
        }
    }

    /// The record of an earlier reservation may be missing in the log, because the process that made the reservation may
    /// have died. Unless the tail has the record, it is appended again.
    fn earlier_reservation(&self, purchase: &Purchase, sale: &Sale, held: &Holding) -> Reservation {
        let order = order_id(sale.id, held);
        let mut read_back = self.tail.read_back(sale.partition, order);
        if (&mut read_back).now_or_never().is_none() {
            let batch = Batch {
                sale: sale.id,
                epoch: held.epoch,
                first: held.seq,
                orders: vec![Order {
                    buyer: purchase.buyer.clone(),
                    quantity: held.quantity,
                    // Of the holding, not of the token: the record must be the same.
                    tier: held.tier,
                    key: held.key,
                }],
            };
            self.append(sale.partition, &Record::Batch(batch));
        }
        Reservation {
            order,
            quantity: held.quantity,
            read_back,
        }
    }

    fn listed(&self, sale: SaleId) -> Result<Arc<ListedSale>, Problem> {
        // The request named it, so it exists: MySQL has lost its row, until the log brings it back.
        self.catalogue.by_id(sale).ok_or(Problem::NotReady)
    }

    /// Waits for an index that is newer than this epoch. Returns false at the deadline.
    async fn wait_for_next_epoch(&self, listed: &ListedSale, epoch: Epoch, deadline: Instant) -> bool {
        match &listed.active {
            Some(active) => {
                let next = Epoch(epoch.0 + 1);
                self.catalogue.wait_for_epoch(active, next, deadline).await
            }
            None => false,
        }
    }

    fn is_closed(&self, sale: &Sale) -> bool {
        sale.cut.closed.is_some() || self.tail.cut(sale.partition, sale.id).closed.is_some()
    }

    /// The index refuses. The refusal counts only if the log names this index: an old primary refuses, too.
    async fn refuse(
        &self,
        purchase: &Purchase,
        listed: &ListedSale,
        epoch: Epoch,
        refusal: &Decision,
    ) -> PurchaseResult {
        let sale = &listed.sale;
        let fresh = self.tail.confirm_fresh(sale.partition, MAX_TAIL_AGE).await.is_ok();
        if !fresh && !seckill_failpoint::breaks("refusal-without-freshness") {
            return Err(Problem::NotReady);
        }
        let cut = self.tail.cut(sale.partition, sale.id);
        if cut.closed.is_some() {
            return self.answer_from_ledger(listed, purchase).await;
        }
        if !cut.lets_refuse(epoch) {
            return Err(Problem::NotReady);
        }
        Err(match *refusal {
            Decision::SoldOut { left, release } => Problem::SoldOut {
                left,
                reserved_until: release,
            },
            Decision::NotStarted { opens } => Problem::NotStarted { starts_at: opens },
            Decision::Ended => Problem::Ended,
            Decision::Suspended => Problem::Suspended,
            Decision::Unknown => Problem::RequestUnknown,
            Decision::QuantityTooLarge { most } => Problem::QuantityTooLarge {
                quantity: purchase.quantity,
                most,
            },
            Decision::TooManyOrders => Problem::TooManyOrders,
            // Not "sold out": units may be left, and the seller may raise the bound.
            Decision::OrdersExhausted => Problem::Suspended,
            Decision::LimitReached { ref held } => Problem::LimitReached {
                held: held
                    .as_ref()
                    .and_then(|held| self.number_if_durable(listed, epoch, held)),
            },
            Decision::Reserved { .. } | Decision::AlreadyReserved(_) => Problem::Internal,
        })
    }

    /// The number of an order that the buyer holds, if the log has confirmed the order.
    fn number_if_durable(&self, listed: &ListedSale, epoch: Epoch, held: &Holding) -> Option<OrderNo> {
        let order = order_id(listed.sale.id, held);
        let read_back = self.tail.read_back(listed.sale.partition, order);
        if held.is_durable(epoch) || read_back.now_or_never() == Some(RecordVerdict::Accepted) {
            return self.order_no_keys.encode(order, listed.sale.opens_at).ok();
        }
        None
    }

    /// No index of the sale is in force: the sale is not preheated yet, its index is being rebuilt, or it ends.
    fn without_index<'a>(&'a self, purchase: &'a Purchase, reserved: bool) -> BoxedResult<'a> {
        Box::pin(async move {
            let listed = match self.listed(purchase.sale) {
                Err(_) if reserved => return Err(Problem::OutcomeUnknown),
                listed => listed?,
            };
            let sale = &listed.sale;
            let result = if listed.active.is_none() || self.is_closed(sale) {
                self.answer_from_ledger(&listed, purchase).await
            } else {
                Err(self.before_first_index(&listed, purchase).await)
            };
            match result {
                Err(problem) if reserved && problem.is_temporary() => Err(Problem::OutcomeUnknown),
                result => result,
            }
        })
    }

    async fn before_first_index(&self, listed: &ListedSale, purchase: &Purchase) -> Problem {
        let sale = &listed.sale;
        if listed.active.as_ref().is_none_or(|active| active.epoch().is_some()) {
            return Problem::NotReady;
        }
        let starts_at = sale.opens_for(purchase.tier);
        if clock::now() < starts_at && !purchase.is_query() {
            return Problem::NotStarted { starts_at };
        }
        // The ledger may have lost its tail, and the epoch with it. Only a log without a barrier proves that nothing was
        // ever sold.
        let fresh = self.tail.confirm_fresh(sale.partition, MAX_TAIL_AGE).await.is_ok();
        match fresh && self.tail.cut(sale.partition, sale.id).current_epoch.is_none() {
            true if purchase.is_query() => Problem::RequestUnknown,
            true if listed.has_ended() => Problem::Ended,
            _ => Problem::NotReady,
        }
    }

    /// After the end the ledger answers, once the log is folded up to CLOSE: the retry of a winner never gets "ended".
    fn answer_from_ledger<'a>(&'a self, listed: &'a ListedSale, purchase: &'a Purchase) -> BoxedResult<'a> {
        Box::pin(async move {
            let found = self
                .order_lookups
                .order_of(listed.sale.id, &purchase.buyer, purchase.key)
                .await?;
            match found {
                OrderOfKey::Stored(order) if !purchase.matches(order.quantity) => Err(Problem::KeyReused),
                OrderOfKey::Stored(order) => self.bought_as_stored(&listed.sale, &order),
                OrderOfKey::Unknown => Err(Problem::NotReady),
                OrderOfKey::Never if purchase.is_query() => Err(Problem::RequestUnknown),
                OrderOfKey::Never => Err(Problem::Ended),
            }
        })
    }

    fn bought_as_held(&self, sale: &Sale, held: &Holding) -> PurchaseResult {
        let status = if held.cancelled { "cancelled" } else { "processing" };
        self.bought(sale, order_id(sale.id, held), held.quantity, status)
    }

    fn bought_as_stored(&self, sale: &Sale, order: &StoredOrder) -> PurchaseResult {
        let status = if order.status.is_live() {
            "processing"
        } else {
            order.status.as_str()
        };
        self.bought(sale, order.id, order.quantity, status)
    }

    fn bought(&self, sale: &Sale, order: OrderId, quantity: Quantity, status: &'static str) -> PurchaseResult {
        match self.order_no_keys.encode(order, sale.opens_at) {
            Ok(order_no) => Ok(Outcome::Bought(Bought {
                order_no,
                quantity,
                status,
            })),
            Err(error) => {
                tracing::error!(%error, "failed to encode an order number");
                Err(Problem::Internal)
            }
        }
    }
}

fn order_id(sale: SaleId, held: &Holding) -> OrderId {
    OrderId {
        sale,
        epoch: held.epoch,
        seq: held.seq,
    }
}
