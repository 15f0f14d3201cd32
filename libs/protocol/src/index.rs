//! Decides a batch of purchases on the index of one sale, as a plain function.
//!
//! `libs/stock/src/lua/purchase.lua` does the same inside Redis. A test runs random batches through both and compares
//! all answers and stored data.
use std::collections::BTreeMap;

pub use crate::ids::Millis;
use crate::ids::{Buyer, Epoch, KeyHash, Offset, Quantity, SaleId, Seq, Tier};
use crate::record::{Batch, Order};
use crate::tiers::{TierTerms, available};

/// The state of a sale, apart from its time window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SaleState {
    Open,
    Suspended,
    /// Final.
    Closed,
}

impl SaleState {
    pub fn as_str(self) -> &'static str {
        match self {
            SaleState::Open => "open",
            SaleState::Suspended => "suspended",
            SaleState::Closed => "closed",
        }
    }

    pub fn from_text(text: &str) -> Option<Self> {
        [SaleState::Open, SaleState::Suspended, SaleState::Closed]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// The terms of a sale. They may change while it runs, without the log. The newest version counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Terms {
    pub version: u64,
    pub state: SaleState,
    /// The first instant at which a purchase is accepted.
    pub opens: Millis,
    /// The first instant at which purchases are refused.
    pub closes: Millis,
    /// Maximum number of units of a buyer; 0 = no limit.
    pub limit: Quantity,
    pub bounds: OrderBounds,
    /// The terms of each tier by its number; empty: the sale has no tiers. General buyers are the first one.
    pub tiers: Vec<TierTerms>,
}

impl Terms {
    /// When buyers of a tier can buy, and how many units each. A number that no tier has is that of general buyers.
    pub fn opening_and_limit(&self, tier: Tier) -> (Millis, Quantity) {
        let terms = self.tiers.get(usize::from(tier)).or(self.tiers.first());
        terms.map_or((self.opens, self.limit), |tier| (tier.opens, tier.limit))
    }
}

/// Bounds on the orders of a sale; 0 = no bound. The index holds them, so that all callers have the same ones. Without
/// them a buyer who buys and cancels in a loop fills Redis, MySQL and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OrderBounds {
    /// Units in one order.
    pub max_per_order: Quantity,
    /// Orders of all buyers together, whatever became of them.
    pub orders_ever_max: u64,
    /// Live orders of one buyer.
    pub buyer_live_max: u32,
    /// Orders of one buyer, whatever became of them.
    pub buyer_ever_max: u32,
}

impl Default for OrderBounds {
    /// The bounds of every buyer, and none for the sale.
    fn default() -> Self {
        OrderBounds {
            max_per_order: 0,
            orders_ever_max: 0,
            buyer_live_max: 32,
            buyer_ever_max: 64,
        }
    }
}

/// An order of a buyer in the index. It may be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holding {
    pub epoch: Epoch,
    pub seq: Seq,
    pub quantity: Quantity,
    /// The tier by which it was bought. A later token of the buyer may have another one.
    pub tier: Tier,
    pub key: KeyHash,
    pub cancelled: bool,
}

impl Holding {
    /// Whether an index in force of `epoch` proves by itself that the log has the order. It does if a rebuild added the
    /// order or the order was cancelled. Any other holding is a promise only after its record was read back.
    pub fn is_durable(&self, epoch: Epoch) -> bool {
        self.epoch < epoch || self.cancelled
    }
}

/// The holdings of each buyer, in the order of the sales.
pub type Holdings = BTreeMap<Buyer, Vec<Holding>>;

/// The index of one sale: the data in Redis under one hash tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Index {
    pub sale: SaleId,
    pub epoch: Epoch,
    /// The replication id of the server on which it was installed.
    pub rid: String,
    pub terms: Terms,
    pub total: u64,
    pub left: u64,
    pub seq: Seq,
    /// Orders ever made, whatever became of them. `None`: an index of an earlier version, without a bound on them.
    pub ever: Option<u64>,
    /// The index contains every stock adjustment of the log up to this offset, if its epoch is the current one. `None`:
    /// an index of an earlier version.
    pub adjusted: Option<Offset>,
    /// Live units of each tier; empty: the sale has no tiers.
    pub taken: Vec<u64>,
    pub holdings: Holdings,
}

/// The state of an index without its holdings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexState {
    pub epoch: Epoch,
    pub rid: String,
    pub terms: Terms,
    pub total: u64,
    pub left: u64,
    pub seq: Seq,
    /// As in [`Index`].
    pub ever: Option<u64>,
    /// As in [`Index`].
    pub adjusted: Option<Offset>,
    /// As in [`Index`].
    pub taken: Vec<u64>,
    /// Buyers with holdings.
    pub holders: u64,
    /// Batches in the outbox.
    pub outbox: u64,
}

impl IndexState {
    /// Whether the sale has made as many orders as it may.
    pub fn is_exhausted(&self) -> bool {
        self.ever
            .is_some_and(|ever| exceeds(ever + 1, self.terms.bounds.orders_ever_max))
    }
}

/// The server of the index, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub is_master: bool,
    pub rid: String,
    pub now: Millis,
}

/// One request of a batch. Quantity 0 only looks up the result of an earlier request with this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub buyer: Buyer,
    pub quantity: Quantity,
    pub tier: Tier,
    pub key: KeyHash,
}

/// The decision on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Reserved under this sequence number of the epoch of the index. It is not a promise yet: the log decides.
    Reserved {
        seq: Seq,
    },
    /// The buyer has this order from an earlier request with the same key.
    AlreadyReserved(Holding),
    /// A lookup found no order with this key. The client has to send the purchase again.
    Unknown,
    NotStarted {
        opens: Millis,
    },
    Ended,
    Suspended,
    /// The purchase has more units than one order may have.
    QuantityTooLarge {
        most: Quantity,
    },
    /// The purchase exceeds the limit of the buyer. `held` is a live order of the buyer.
    LimitReached {
        held: Option<Holding>,
    },
    /// The buyer has as many live orders as one buyer may, or has made as many as one buyer may.
    TooManyOrders,
    /// The sale has made as many orders as it may. It is not sold out: the bound may be raised.
    OrdersExhausted,
    /// Fewer units are left for this buyer than requested.
    SoldOut {
        left: u64,
        /// More are kept for others until then.
        release: Option<Millis>,
    },
}

/// The reason why no request of a batch was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// The epoch of the caller is older than that of the index. The caller retries with the new one.
    Refresh { epoch: Epoch },
    /// The index is missing, older than the caller, or not on the server of its installation. It has to be rebuilt, and
    /// its content does not count.
    Stale,
    /// The server is a replica, whatever index it holds. The primary may have one in force.
    Replica,
}

/// The result of a batch: a decision for each request, and the record of the sold orders for the log.
pub type BatchDecision = (Vec<Decision>, Option<Batch>);

/// The fence. The content of an index counts only after this check. The role is first: what a replica holds says nothing.
pub fn fence(index: Option<&Index>, server: &Server, caller: Epoch) -> Result<(), Fenced> {
    if !server.is_master {
        return Err(Fenced::Replica);
    }
    let Some(index) = index else { return Err(Fenced::Stale) };
    if server.rid != index.rid || caller > index.epoch {
        return Err(Fenced::Stale);
    }
    if caller < index.epoch {
        return Err(Fenced::Refresh { epoch: index.epoch });
    }
    Ok(())
}

/// Decides a batch, in the order of the requests.
pub fn purchase(
    index: Option<&mut Index>,
    server: &Server,
    caller: Epoch,
    requests: &[Request],
) -> Result<BatchDecision, Fenced> {
    fence(index.as_deref(), server, caller)?;
    let index = index.ok_or(Fenced::Stale)?;
    let first = index.seq + 1;
    let mut orders = Vec::new();
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        let answer = decide(index, server.now, request);
        if let Decision::Reserved { .. } = answer {
            let Request {
                buyer,
                quantity,
                tier,
                key,
            } = request.clone();
            orders.push(Order {
                buyer,
                quantity,
                tier,
                key,
            });
        }
        answers.push(answer);
    }
    let batch = (!orders.is_empty()).then_some(Batch {
        sale: index.sale,
        epoch: index.epoch,
        first,
        orders,
    });
    Ok((answers, batch))
}

fn decide(index: &mut Index, now: Millis, request: &Request) -> Decision {
    let held = index
        .holdings
        .get(&request.buyer)
        .map(Vec::as_slice)
        .unwrap_or_default();
    // Check for a retry first: a buyer with an order never gets "ended" or "sold out".
    if let Some(holding) = held.iter().find(|h| h.key == request.key) {
        return Decision::AlreadyReserved(*holding);
    }
    if request.quantity == 0 {
        return Decision::Unknown;
    }
    let terms = &index.terms;
    let bounds = terms.bounds;
    // The quantity stays wrong whatever the time is.
    if exceeds(request.quantity.into(), bounds.max_per_order.into()) {
        return Decision::QuantityTooLarge {
            most: bounds.max_per_order,
        };
    }
    if terms.state == SaleState::Closed || now >= terms.closes {
        return Decision::Ended;
    }
    let (opens, limit) = terms.opening_and_limit(request.tier);
    if now < opens {
        return Decision::NotStarted { opens };
    }
    if terms.state == SaleState::Suspended {
        return Decision::Suspended;
    }
    let live = || held.iter().filter(|h| !h.cancelled);
    if exceeds(live().count() as u64 + 1, bounds.buyer_live_max.into())
        || exceeds(held.len() as u64 + 1, bounds.buyer_ever_max.into())
    {
        return Decision::TooManyOrders;
    }
    if limit > 0 {
        let units: u64 = live().map(|h| u64::from(h.quantity)).sum();
        if units + u64::from(request.quantity) > u64::from(limit) {
            return Decision::LimitReached {
                held: live().next().copied(),
            };
        }
    }
    // Before "sold out": a unit that comes back could not be sold, so that answer would be wrong.
    if index.ever.is_some_and(|ever| exceeds(ever + 1, bounds.orders_ever_max)) {
        return Decision::OrdersExhausted;
    }
    let (left, release) = available(index.left, &terms.tiers, &index.taken, request.tier, now);
    if left < u64::from(request.quantity) {
        return Decision::SoldOut { left, release };
    }
    index.left -= u64::from(request.quantity);
    if let Some(taken) = index.taken.get_mut(usize::from(request.tier)) {
        *taken += u64::from(request.quantity);
    }
    index.seq += 1;
    index.ever = index.ever.map(|ever| ever + 1);
    let holding = Holding {
        epoch: index.epoch,
        seq: index.seq,
        quantity: request.quantity,
        tier: request.tier,
        key: request.key,
        cancelled: false,
    };
    index.holdings.entry(request.buyer.clone()).or_default().push(holding);
    Decision::Reserved { seq: index.seq }
}

/// 0 is no bound.
fn exceeds(number: u64, bound: u64) -> bool {
    bound > 0 && number > bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let terms = Terms {
            version: 1,
            state: SaleState::Open,
            opens: 100,
            closes: 200,
            limit: 2,
            bounds: OrderBounds::default(),
            tiers: Vec::new(),
        };
        Index {
            sale: SaleId(1),
            epoch: Epoch(5),
            rid: "r".into(),
            terms,
            total: 3,
            left: 3,
            seq: 0,
            ever: Some(0),
            adjusted: Some(5),
            taken: Vec::new(),
            holdings: Holdings::new(),
        }
    }

    fn server(now: Millis) -> Server {
        Server {
            is_master: true,
            rid: "r".into(),
            now,
        }
    }

    fn request(buyer: &str, key: u64, quantity: Quantity) -> Request {
        Request {
            buyer: Buyer::new(buyer).expect("valid"),
            quantity,
            tier: 0,
            key: KeyHash(key),
        }
    }

    fn one(index: &mut Index, now: Millis, r: Request) -> Decision {
        purchase(Some(index), &server(now), Epoch(5), &[r])
            .expect("not fenced")
            .0[0]
    }

    fn sold_out(left: u64) -> Decision {
        Decision::SoldOut { left, release: None }
    }

    /// Three units from 100 to 200. Gold opens at 90, has a limit of three, and two units until 120. One unit is kept for
    /// general buyers until 100.
    fn tiered() -> Index {
        let mut index = index();
        let tier = |opens, limit, reserved, release| TierTerms {
            opens,
            limit,
            reserved,
            release,
        };
        index.terms.tiers = vec![tier(100, 2, 1, 100), tier(90, 3, 2, 120)];
        index.taken = vec![0, 0];
        index
    }

    fn gold(buyer: &str, key: u64, quantity: Quantity) -> Request {
        Request {
            tier: 1,
            ..request(buyer, key, quantity)
        }
    }

    #[test]
    fn a_tier_opens_earlier_and_leaves_what_is_kept_for_others() {
        let mut index = tiered();
        assert_eq!(one(&mut index, 89, gold("a", 1, 1)), Decision::NotStarted { opens: 90 });
        assert_eq!(
            one(&mut index, 99, request("b", 1, 1)),
            Decision::NotStarted { opens: 100 }
        );
        assert_eq!(
            one(&mut index, 90, gold("a", 1, 3)),
            Decision::SoldOut {
                left: 2,
                release: Some(100)
            }
        );
        assert_eq!(one(&mut index, 90, gold("a", 1, 2)), Decision::Reserved { seq: 1 });
        assert_eq!((index.left, index.taken.as_slice()), (1, [0, 2].as_slice()));
        assert_eq!(one(&mut index, 100, gold("a", 2, 1)), Decision::Reserved { seq: 2 });
        assert_eq!(one(&mut index, 100, request("b", 1, 1)), sold_out(0));
    }

    #[test]
    fn a_reserve_is_kept_until_its_release() {
        let mut index = tiered();
        assert_eq!(one(&mut index, 100, request("a", 1, 1)), Decision::Reserved { seq: 1 });
        let kept = Decision::SoldOut {
            left: 0,
            release: Some(120),
        };
        assert_eq!(one(&mut index, 119, request("b", 1, 1)), kept);
        assert_eq!(one(&mut index, 119, gold("c", 1, 1)), Decision::Reserved { seq: 2 });
        assert_eq!(one(&mut index, 119, request("b", 1, 1)), kept);
        assert_eq!(one(&mut index, 120, request("b", 1, 1)), Decision::Reserved { seq: 3 });
        assert_eq!(index.taken, [2, 1]);
    }

    #[test]
    fn all_units_of_a_buyer_count_for_the_limit_of_the_present_tier() {
        let mut index = tiered();
        assert_eq!(one(&mut index, 150, request("a", 1, 2)), Decision::Reserved { seq: 1 });
        assert!(matches!(
            one(&mut index, 150, request("a", 2, 1)),
            Decision::LimitReached { .. }
        ));
        assert_eq!(one(&mut index, 150, gold("a", 2, 1)), Decision::Reserved { seq: 2 });
        // The same key has the order of then, by the tier of then.
        assert!(matches!(one(&mut index, 150, gold("a", 1, 2)), Decision::AlreadyReserved(h) if h.tier == 0));
        assert!(matches!(one(&mut index, 150, request("a", 2, 1)), Decision::AlreadyReserved(h) if h.tier == 1));
        assert!(matches!(
            one(&mut index, 150, request("a", 3, 1)),
            Decision::LimitReached { .. }
        ));
    }

    #[test]
    fn a_number_that_no_tier_has_opens_with_general_buyers() {
        let mut index = tiered();
        let other = |key| Request {
            tier: 9,
            ..request("a", key, 1)
        };
        assert_eq!(one(&mut index, 99, other(1)), Decision::NotStarted { opens: 100 });
        assert_eq!(one(&mut index, 100, other(1)), Decision::Reserved { seq: 1 });
        assert_eq!(index.taken, [0, 0]);
    }

    #[test]
    fn a_state_is_stored_by_its_name() {
        for (state, text) in [
            (SaleState::Open, "open"),
            (SaleState::Suspended, "suspended"),
            (SaleState::Closed, "closed"),
        ] {
            assert_eq!((state.as_str(), SaleState::from_text(text)), (text, Some(state)));
        }
        assert_eq!(SaleState::from_text(""), None);
    }

    #[test]
    fn a_sale_is_exhausted_once_it_has_made_its_last_order() {
        let exhausted = |ever, orders_ever_max| {
            let Index {
                epoch, rid, mut terms, ..
            } = index();
            terms.bounds.orders_ever_max = orders_ever_max;
            let state = IndexState {
                epoch,
                rid,
                terms,
                total: 3,
                left: 3,
                seq: 0,
                ever,
                adjusted: None,
                taken: Vec::new(),
                holders: 0,
                outbox: 0,
            };
            state.is_exhausted()
        };
        assert!(!exhausted(Some(4), 5) && exhausted(Some(5), 5));
        // No bound, and no count.
        assert!(!exhausted(Some(5), 0) && !exhausted(None, 5));
    }

    #[test]
    fn the_window_includes_its_start_and_excludes_its_end() {
        let mut index = index();
        assert_eq!(
            one(&mut index, 99, request("b", 1, 1)),
            Decision::NotStarted { opens: 100 }
        );
        assert_eq!(one(&mut index, 100, request("b", 1, 1)), Decision::Reserved { seq: 1 });
        assert_eq!(one(&mut index, 199, request("c", 1, 1)), Decision::Reserved { seq: 2 });
        assert_eq!(one(&mut index, 200, request("d", 1, 1)), Decision::Ended);
    }

    #[test]
    fn a_retry_gets_the_same_order_even_after_the_end() {
        let mut index = index();
        one(&mut index, 100, request("b", 1, 1));
        for now in [0, 150, 900] {
            let Decision::AlreadyReserved(holding) = one(&mut index, now, request("b", 1, 1)) else {
                panic!("not held")
            };
            assert_eq!((holding.epoch, holding.seq), (Epoch(5), 1));
        }
        assert_eq!(index.left, 2);
    }

    #[test]
    fn a_batch_is_decided_in_order() {
        let mut index = index();
        let requests = [
            request("a", 1, 2),
            request("b", 1, 2),
            request("a", 1, 2),
            request("c", 1, 1),
        ];
        let (answers, batch) = purchase(Some(&mut index), &server(100), Epoch(5), &requests).expect("not fenced");
        assert_eq!(answers[0], Decision::Reserved { seq: 1 });
        assert_eq!(answers[1], sold_out(1));
        assert!(matches!(answers[2], Decision::AlreadyReserved(h) if h.seq == 1));
        assert_eq!(answers[3], Decision::Reserved { seq: 2 });
        let batch = batch.expect("something was sold");
        assert_eq!((batch.first, batch.last(), batch.orders.len()), (1, 2, 2));
        assert_eq!(index.left, 0);
    }

    #[test]
    fn a_buyer_can_not_exceed_the_limit() {
        let mut index = index();
        assert_eq!(one(&mut index, 100, request("b", 1, 2)), Decision::Reserved { seq: 1 });
        assert!(
            matches!(one(&mut index, 100, request("b", 2, 1)), Decision::LimitReached { held: Some(h) } if h.seq == 1)
        );
        assert_eq!(one(&mut index, 100, request("c", 2, 1)), Decision::Reserved { seq: 2 });
    }

    /// Cancels all orders, as RETURN does.
    fn cancel_all(index: &mut Index) {
        for holding in index.holdings.values_mut().flatten().filter(|held| !held.cancelled) {
            holding.cancelled = true;
            index.left += u64::from(holding.quantity);
        }
    }

    #[test]
    fn cancelled_orders_count_for_ever_and_not_as_live() {
        let mut index = index();
        index.terms.limit = 0;
        index.terms.bounds.buyer_live_max = 2;
        index.terms.bounds.buyer_ever_max = 5;
        for key in [1, 2] {
            assert!(matches!(
                one(&mut index, 100, request("b", key, 1)),
                Decision::Reserved { .. }
            ));
        }
        assert_eq!(one(&mut index, 100, request("b", 3, 1)), Decision::TooManyOrders);
        cancel_all(&mut index);
        for key in [3, 4, 5] {
            assert!(matches!(
                one(&mut index, 100, request("b", key, 1)),
                Decision::Reserved { .. }
            ));
            cancel_all(&mut index);
        }
        assert_eq!(one(&mut index, 100, request("b", 6, 1)), Decision::TooManyOrders);
        assert!(matches!(
            one(&mut index, 100, request("c", 6, 1)),
            Decision::Reserved { .. }
        ));
    }

    #[test]
    fn orders_of_the_sale_are_bounded_and_it_is_not_sold_out() {
        let mut index = index();
        index.terms.bounds.orders_ever_max = 2;
        for buyer in ["a", "b"] {
            assert!(matches!(
                one(&mut index, 100, request(buyer, 1, 1)),
                Decision::Reserved { .. }
            ));
            cancel_all(&mut index);
        }
        assert_eq!((index.ever, index.left), (Some(2), 3));
        assert_eq!(one(&mut index, 100, request("c", 1, 1)), Decision::OrdersExhausted);
        assert_eq!(
            one(&mut index, 100, request("c", 1, 9)),
            Decision::LimitReached { held: None }
        );
        index.left = 0;
        assert_eq!(one(&mut index, 100, request("c", 1, 1)), Decision::OrdersExhausted);
        assert!(matches!(
            one(&mut index, 100, request("a", 1, 1)),
            Decision::AlreadyReserved(_)
        ));
        index.terms.bounds.orders_ever_max = 3;
        assert_eq!(one(&mut index, 100, request("c", 1, 1)), sold_out(0));
    }

    #[test]
    fn an_index_without_a_count_has_no_bound() {
        let mut index = index();
        index.ever = None;
        index.terms.bounds.orders_ever_max = 1;
        for buyer in ["a", "b"] {
            assert!(matches!(
                one(&mut index, 100, request(buyer, 1, 1)),
                Decision::Reserved { .. }
            ));
        }
        assert_eq!(index.ever, None);
    }

    #[test]
    fn a_quantity_above_the_bound_is_refused_and_a_retry_is_not() {
        let mut index = index();
        index.terms.bounds.max_per_order = 2;
        for now in [99, 100] {
            let refused = one(&mut index, now, request("b", 1, 3));
            assert_eq!(refused, Decision::QuantityTooLarge { most: 2 });
        }
        assert_eq!(one(&mut index, 100, request("b", 1, 2)), Decision::Reserved { seq: 1 });
        index.terms.bounds.max_per_order = 1;
        assert!(matches!(
            one(&mut index, 100, request("b", 1, 2)),
            Decision::AlreadyReserved(_)
        ));
    }

    #[test]
    fn suspended_and_closed_sales_sell_nothing() {
        let mut index = index();
        index.terms.state = SaleState::Suspended;
        assert_eq!(one(&mut index, 150, request("b", 1, 1)), Decision::Suspended);
        assert_eq!(one(&mut index, 200, request("b", 1, 1)), Decision::Ended);
        index.terms.state = SaleState::Closed;
        assert_eq!(one(&mut index, 50, request("b", 1, 1)), Decision::Ended);
    }

    #[test]
    fn a_lookup_takes_no_units() {
        let mut index = index();
        assert_eq!(one(&mut index, 150, request("b", 1, 0)), Decision::Unknown);
        assert_eq!((index.left, index.seq), (3, 0));
    }

    #[test]
    fn holdings_of_earlier_epochs_and_cancelled_ones_are_durable() {
        let mut index = index();
        assert_eq!(one(&mut index, 100, request("b", 1, 1)), Decision::Reserved { seq: 1 });
        let mut held = index.holdings[&Buyer::new("b").expect("valid")][0];
        assert!(!held.is_durable(Epoch(5)));
        assert!(held.is_durable(Epoch(6)));
        held.cancelled = true;
        assert!(held.is_durable(Epoch(5)));
    }

    #[test]
    fn the_fence_passes_only_the_same_server_and_epoch() {
        let (mut index, here) = (index(), server(150));
        let mut fenced = |server: &Server, caller| purchase(Some(&mut index), server, Epoch(caller), &[]).err();
        assert_eq!(fenced(&here, 5), None);
        assert_eq!(fenced(&here, 4), Some(Fenced::Refresh { epoch: Epoch(5) }));
        assert_eq!(fenced(&here, 6), Some(Fenced::Stale));
        assert_eq!(
            fenced(
                &Server {
                    rid: "s".into(),
                    ..here.clone()
                },
                5
            ),
            Some(Fenced::Stale)
        );
        assert_eq!(purchase(None, &here, Epoch(5), &[]).err(), Some(Fenced::Stale));
    }

    #[test]
    fn a_replica_answers_so_whatever_it_holds() {
        let mut index = index();
        let replica = Server {
            is_master: false,
            ..server(150)
        };
        for caller in [4, 5, 6] {
            let fenced = purchase(Some(&mut index), &replica, Epoch(caller), &[]).err();
            assert_eq!(fenced, Some(Fenced::Replica), "{caller}");
        }
        assert_eq!(purchase(None, &replica, Epoch(5), &[]).err(), Some(Fenced::Replica));
    }
}
