//! Parts of answers that several routes use.
use seckill_ledger::Sale;
use serde::Serialize;

#[derive(Serialize)]
pub struct OrderView {
    pub order_no: String,
    pub sale: String,
    /// Missing if the order is not stored yet and the request has only its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantity: Option<u32>,
    pub price: Price,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// The price of one unit.
#[derive(Serialize)]
pub struct Price {
    pub amount: String,
    pub currency: String,
}

impl Price {
    pub fn of_sale(sale: &Sale) -> Self {
        Price {
            amount: sale.price.clone(),
            currency: sale.currency.clone(),
        }
    }
}
