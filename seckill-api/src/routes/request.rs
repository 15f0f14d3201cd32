use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::orders::told;
use crate::api::Api;
use crate::buyer::Caller;
use crate::input::NamedSale;
use crate::problem::Problem;

/// `GET /v1/sales/{namespace}/{name}/request`: what an earlier purchase with this key came to.
pub async fn earlier(
    State(api): State<Arc<Api>>,
    NamedSale(listed): NamedSale,
    Caller { buyer, key }: Caller,
) -> Result<Response, Problem> {
    let outcome = api.earlier_purchase(listed.sale.id, buyer, key).await?;
    Ok(told(&listed, outcome, StatusCode::OK))
}
