//! Parts of answers that several routes use.
use seckill_ledger::Sale;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi;

#[derive(Serialize, ToSchema)]
#[schema(as = Order)]
pub struct OrderView {
    /// 27 letters and digits. It can't be guessed, because anyone who knows it can see and cancel an anonymous order.
    pub order_no: String,
    /// `namespace/name` of the FlashSale.
    pub sale: String,
    /// Missing if the order is not stored yet and the request has only its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    pub quantity: Option<u32>,
    pub price: Price,
    #[schema(schema_with = openapi::order_status)]
    pub status: &'static str,
    /// When the order was put in the log. Missing until the order is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    pub created_at: Option<String>,
}

/// The price of one unit.
#[derive(Serialize, ToSchema)]
pub struct Price {
    /// A decimal number, written as in the FlashSale: `500` stays `500`.
    #[schema(example = "499.00")]
    pub amount: String,
    /// A code of ISO 4217.
    #[schema(example = "EUR")]
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
