use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::orders::told;
use crate::api::Api;
use crate::buyer::Caller;
use crate::input::{self, SalePath};
use crate::problem::Problem;

/// `GET /v1/sales/{namespace}/{name}/request`: what an earlier purchase with this key came to.
pub async fn earlier(State(api): State<Arc<Api>>, path: SalePath, headers: HeaderMap) -> Result<Response, Problem> {
    let listed = input::sale(&api, path).await?;
    let Caller { buyer, key } = Caller::of(&headers)?;
    let outcome = api.earlier_purchase(listed.sale.id, buyer, key).await?;
    Ok(told(&listed, outcome, StatusCode::OK))
}
