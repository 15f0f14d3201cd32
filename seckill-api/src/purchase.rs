//! The whole way of a purchase.
//!
//! The index in Redis decides, but only the log makes it true: an order number is answered after its record was read
//! back as accepted, and a refusal counts only if this process has read the log to its end and the refusing index is
//! the one that the log names.
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use seckill_ledger::{Sale, StoredOrder};
use seckill_order_log::ReadBack;
use seckill_protocol::index::{Decision, Holding, Request};
use seckill_protocol::{
    Batch, Buyer, Epoch, KeyHash, Order, OrderId, OrderNo, Quantity, Record, RecordVerdict, SaleId, Tier,
};
use seckill_stock::PurchaseError;
use tokio::time::{Instant, timeout};

use crate::api::Api;
use crate::catalogue::{Listed, REFRESHED_WITHIN};
use crate::clock;
use crate::problem::Problem;

/// Who waits longer for the log is told to ask again.
const READ_BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long a purchase is tried under one epoch after another.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);
/// A refusal needs a tail that had read everything so recently.
const FRESH: Duration = Duration::from_millis(100);
/// There are no classes of buyers yet.
const TIER: Tier = 0;

#[derive(Debug, Clone)]
pub struct Purchase {
    pub sale: SaleId,
    pub buyer: Buyer,
    pub key: KeyHash,
    /// 0 asks only what an earlier purchase came to.
    pub quantity: Quantity,
}

impl Purchase {
    fn request(&self) -> Request {
        Request {
            buyer: self.buyer.clone(),
            quantity: self.quantity,
            tier: TIER,
            key: self.key,
        }
    }

    fn only_asks(&self) -> bool {
        self.quantity == 0
    }

    fn fits(&self, quantity: Quantity) -> bool {
        self.only_asks() || self.quantity == quantity
    }
}

#[derive(Debug, Clone)]
pub enum Outcome {
    /// Bought, for ever: the log has it.
    Bought(Bought),
    /// Taken by the index, and the log has not answered yet. The same key learns what came of it.
    Pending,
}

#[derive(Debug, Clone)]
pub struct Bought {
    pub order_no: OrderNo,
    pub quantity: Quantity,
    /// The order's status as the buyer is told it here: a retry is told the same as the first request was.
    pub status: &'static str,
}

pub type Answered = Result<Outcome, Problem>;

/// On the heap: they are large, and every purchase's future would have to hold the room for what seldom happens.
type Rare<'a> = BoxFuture<'a, Answered>;

impl Api {
    /// Buys. The same purchase again is answered with the same order, whatever happened in between.
    pub async fn purchase(&self, purchase: &Purchase) -> Answered {
        if let Some(starts_at) = self.catalogue.starts_later(purchase.sale) {
            return Err(Problem::NotStarted { starts_at });
        }
        let _place = self.places.try_acquire().map_err(|_| Problem::Overloaded)?;
        let began = Instant::now();
        let _turn = self.in_flight.turn((purchase.sale, purchase.key)).await;
        let answered = self.decide(purchase).await;
        self.metrics.purchase_seconds.observe(began.elapsed().as_secs_f64());
        answered
    }

    /// What an earlier purchase with this key came to.
    pub async fn earlier_purchase(&self, sale: SaleId, buyer: Buyer, key: KeyHash) -> Answered {
        let _place = self.places.try_acquire().map_err(|_| Problem::Overloaded)?;
        let question = Purchase {
            sale,
            buyer,
            key,
            quantity: 0,
        };
        self.decide(&question).await
    }

    async fn decide(&self, purchase: &Purchase) -> Answered {
        let deadline = Instant::now() + DECIDED_WITHIN;
        // Once an index has taken something under this key, "nothing was bought" is no longer ours to say.
        let mut taken = false;
        let nothing_bought = |taken: bool, problem| if taken { Problem::OutcomeUnknown } else { problem };
        loop {
            let listed = self.listed(purchase.sale)?;
            let sale = &listed.sale;
            let Some(selling) = &listed.selling else {
                return self.by_the_ledger(&listed, purchase).await;
            };
            // What this process does not read it must not sell. The catalogue has said so in the log.
            if sale.part >= self.log.partitions() {
                return Err(Problem::NotReady);
            }

            // The index decides, in a batch with whoever else waits.
            let batcher = selling.batcher(|epochs| self.spawn_batcher(sale, epochs));
            let known_epoch = selling.epoch();
            let (epoch, answer) = match batcher.purchase(purchase.request()).await {
                Ok(decided) => decided,
                Err(PurchaseError::Refresh(newer)) => {
                    let until = deadline.min(Instant::now() + REFRESHED_WITHIN);
                    if self.catalogue.epoch_reached(selling, newer, until).await {
                        continue;
                    }
                    return Err(nothing_bought(taken, Problem::NotReady));
                }
                // The ledger may name a newer index, or the first one, by now.
                Err(PurchaseError::Stale | PurchaseError::NoIndex) => {
                    self.catalogue.refresh(REFRESHED_WITHIN).await;
                    if selling.epoch() > known_epoch && Instant::now() < deadline {
                        continue;
                    }
                    return self.without_index(purchase, taken).await;
                }
                Err(PurchaseError::Overloaded) => return Err(nothing_bought(taken, Problem::Overloaded)),
                // The batcher has tried twice, and logged it.
                Err(PurchaseError::Unknown(_)) => return Err(Problem::OutcomeUnknown),
            };

            // What it took, or took earlier under this key.
            let (order, quantity, read_back) = match answer {
                Decision::Reserved { seq } => {
                    let order = OrderId {
                        sale: sale.id,
                        epoch,
                        seq,
                    };
                    (order, purchase.quantity, self.tail.read_back(sale.part, order))
                }
                Decision::AlreadyReserved(held) if !purchase.fits(held.quantity) => return Err(Problem::KeyReused),
                // It came here through a rebuild or has been cancelled since: either way the log has it.
                Decision::AlreadyReserved(held) if held.is_durable(epoch) => {
                    return self.bought_as_held(sale.id, &held);
                }
                Decision::AlreadyReserved(held) => {
                    let order = order_id(sale.id, &held);
                    (order, held.quantity, self.publish_again(purchase, &listed, &held))
                }
                ref refusal => return self.refused(purchase, &listed, epoch, refusal).await,
            };
            taken = true;
            if seckill_failpoint::breaks("reply-before-read-back") {
                return self.bought(order, quantity, "processing");
            }

            // Only the log makes it true.
            let waited = Instant::now();
            let verdict = timeout(READ_BACK_WITHIN, read_back).await;
            self.metrics.read_back_seconds.observe(waited.elapsed().as_secs_f64());
            match verdict {
                Ok(RecordVerdict::Accepted) => {
                    seckill_failpoint::reach("api.after-read-back");
                    return self.bought(order, quantity, "processing");
                }
                // Void: a barrier went before it. The same key under the new epoch, since an earlier copy may count.
                Ok(RecordVerdict::Void) if self.is_closed(sale) => return self.without_index(purchase, taken).await,
                Ok(RecordVerdict::Void) if self.newer_epoch(&listed, epoch, deadline).await => {}
                Ok(RecordVerdict::Void) => return Err(Problem::OutcomeUnknown),
                Err(_) => return Ok(Outcome::Pending),
            }
        }
    }

    fn listed(&self, sale: SaleId) -> Result<Arc<Listed>, Problem> {
        let listed = self.catalogue.by_id(sale);
        listed.ok_or_else(|| Problem::SaleUnknown(sale.to_string()))
    }

    /// Waits for an index that is newer than this; false if there is none in time.
    async fn newer_epoch(&self, listed: &Listed, than: Epoch, deadline: Instant) -> bool {
        match &listed.selling {
            Some(selling) => self.catalogue.epoch_reached(selling, Epoch(than.0 + 1), deadline).await,
            None => false,
        }
    }

    fn is_closed(&self, sale: &Sale) -> bool {
        sale.cut.closed.is_some() || self.tail.cut(sale.part, sale.id).closed.is_some()
    }

    /// The order's record may never have reached the log: the process that sold it may have died before.
    fn publish_again(&self, purchase: &Purchase, listed: &Listed, held: &Holding) -> ReadBack {
        let sale = &listed.sale;
        let mut read_back = self.tail.read_back(sale.part, order_id(sale.id, held));
        if (&mut read_back).now_or_never().is_none() {
            let order = Order {
                buyer: purchase.buyer.clone(),
                quantity: held.quantity,
                tier: TIER,
                key: held.key,
            };
            let batch = Batch {
                sale: sale.id,
                epoch: held.epoch,
                first: held.seq,
                orders: vec![order],
            };
            self.append(sale.part, &Record::Batch(batch));
        }
        read_back
    }

    /// The index refuses. Whether that counts is for the log to say: an old primary refuses too.
    async fn refused(&self, purchase: &Purchase, listed: &Listed, epoch: Epoch, refusal: &Decision) -> Answered {
        let sale = &listed.sale;
        if self.tail.confirm_fresh(sale.part, FRESH).await.is_err() {
            return Err(Problem::NotReady);
        }
        let cut = self.tail.cut(sale.part, sale.id);
        if cut.closed.is_some() {
            return self.by_the_ledger(listed, purchase).await;
        }
        if !cut.lets_refuse(epoch) {
            return Err(Problem::NotReady);
        }
        Err(match *refusal {
            Decision::SoldOut { left } => Problem::SoldOut { left },
            Decision::NotStarted { opens } => Problem::NotStarted { starts_at: opens },
            Decision::Ended => Problem::Ended,
            Decision::Suspended => Problem::Suspended,
            Decision::Unknown => Problem::RequestUnknown,
            Decision::TooManyOrders => Problem::LimitReached { held: None },
            Decision::LimitReached { ref held } => Problem::LimitReached {
                held: held.as_ref().and_then(|held| self.number_if_safe(listed, epoch, held)),
            },
            Decision::Reserved { .. } | Decision::AlreadyReserved(_) => Problem::Internal,
        })
    }

    /// The number of an order that the buyer holds, unless the log has not answered for it yet.
    fn number_if_safe(&self, listed: &Listed, epoch: Epoch, held: &Holding) -> Option<OrderNo> {
        let order = order_id(listed.sale.id, held);
        let read_back = self.tail.read_back(listed.sale.part, order);
        if held.is_durable(epoch) || read_back.now_or_never() == Some(RecordVerdict::Accepted) {
            return self.numbers.encode(order).ok();
        }
        None
    }

    /// No index of the sale is in force: not preheated yet, being rebuilt, or at its end.
    fn without_index<'a>(&'a self, purchase: &'a Purchase, taken: bool) -> Rare<'a> {
        Box::pin(async move {
            let listed = self.listed(purchase.sale)?;
            let sale = &listed.sale;
            let answered = if listed.selling.is_none() || self.is_closed(sale) {
                self.by_the_ledger(&listed, purchase).await
            } else {
                Err(self.before_the_first_index(&listed, purchase).await)
            };
            match answered {
                Err(problem) if taken && problem.may_pass() => Err(Problem::OutcomeUnknown),
                answered => answered,
            }
        })
    }

    async fn before_the_first_index(&self, listed: &Listed, purchase: &Purchase) -> Problem {
        let sale = &listed.sale;
        if listed.selling.as_ref().is_none_or(|selling| selling.epoch().is_some()) {
            return Problem::NotReady;
        }
        if clock::now() < sale.opens_at && !purchase.only_asks() {
            return Problem::NotStarted {
                starts_at: sale.opens_at,
            };
        }
        // The ledger may have lost its tail, and with it the epoch. Only a log without a barrier says that nothing was
        // ever sold.
        let fresh = self.tail.confirm_fresh(sale.part, FRESH).await.is_ok();
        match fresh && self.tail.cut(sale.part, sale.id).cur.is_none() {
            true if purchase.only_asks() => Problem::RequestUnknown,
            true if listed.has_ended() => Problem::Ended,
            _ => Problem::NotReady,
        }
    }

    /// After the end the ledger answers, once it has folded the log up to CLOSE: a winner's retry is never told "ended".
    fn by_the_ledger<'a>(&'a self, listed: &'a Listed, purchase: &'a Purchase) -> Rare<'a> {
        Box::pin(async move {
            let lookup = self.ledger.order_by_key(listed.sale.id, &purchase.buyer, purchase.key);
            let (order, complete) = self.lookups.look_up(lookup).await?;
            match order {
                Some(order) if !purchase.fits(order.quantity) => Err(Problem::KeyReused),
                Some(order) => self.bought_as_stored(&order),
                None if !complete => Err(Problem::NotReady),
                None if purchase.only_asks() => Err(Problem::RequestUnknown),
                None => Err(Problem::Ended),
            }
        })
    }

    fn bought_as_held(&self, sale: SaleId, held: &Holding) -> Answered {
        let status = if held.cancelled { "cancelled" } else { "processing" };
        self.bought(order_id(sale, held), held.quantity, status)
    }

    fn bought_as_stored(&self, order: &StoredOrder) -> Answered {
        let status = if order.status.is_live() {
            "processing"
        } else {
            order.status.as_str()
        };
        self.bought(order.id, order.quantity, status)
    }

    fn bought(&self, order: OrderId, quantity: Quantity, status: &'static str) -> Answered {
        match self.numbers.encode(order) {
            Ok(order_no) => Ok(Outcome::Bought(Bought {
                order_no,
                quantity,
                status,
            })),
            Err(error) => {
                tracing::error!(%error, "an order without a number");
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
