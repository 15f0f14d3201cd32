//! Purchases, and the terms that allow them.
use seckill_protocol::index::{BatchDecision, Decision, Fenced, OrderBounds, Request, SaleState, Terms};
use seckill_protocol::{Buyer, Epoch, KeyHash, SaleId};
use seckill_stock::{StockClient, StockError};

/// Terms that sell now.
pub fn open_terms() -> Terms {
    Terms {
        version: 1,
        state: SaleState::Open,
        opens: 0,
        closes: u64::MAX >> 12,
        limit: 0,
        bounds: OrderBounds::default(),
        tiers: Vec::new(),
    }
}

pub fn request(key: &str, quantity: u32) -> Request {
    Request {
        buyer: Buyer::anonymous(key),
        quantity,
        tier: 0,
        key: KeyHash::of(key),
    }
}

pub async fn connect(url: &str) -> StockClient {
    StockClient::connect(url).await.expect("Redis answers")
}

pub type Decided = Result<Result<BatchDecision, Fenced>, StockError>;

/// Buys one unit.
pub async fn buy(client: &StockClient, sale: SaleId, epoch: Epoch, key: &str) -> Decided {
    client.purchase(sale, epoch, &[request(key, 1)]).await
}

pub fn is_reserved(decided: &Decided) -> bool {
    matches!(decided, Ok(Ok((decisions, _))) if matches!(decisions[..], [Decision::Reserved { .. }]))
}
