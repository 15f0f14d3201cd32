//! Showing the sales, for a page that sells.
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use seckill_ledger::Sale;
use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::tiers::GENERAL;
use seckill_protocol::{Quantity, Tier};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::openapi::{self, problems};
use super::view::Price;
use crate::api::Api;
use crate::catalogue::ListedSale;
use crate::clock;
use crate::extract::NamedSale;
use crate::limits::MAX_CONCURRENT_SAMPLES;
use crate::problem::Problem;

/// The server's time in milliseconds, for a countdown; `Date` has only whole seconds.
const SERVER_TIME: HeaderName = HeaderName::from_static("server-time");
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// What one buyer sees.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=1");
const VARY_BY_TOKEN: HeaderValue = HeaderValue::from_static("authorization");

/// All sales of this release, by name
///
/// A sale is listed until 7 days after its settlement. Sales with tiers are shown as to buyers of no tier.
#[utoipa::path(
    get, path = "/v1/sales", operation_id = "listSales", tag = "sales",
    params(openapi::IfNoneMatch),
    responses(
        (status = 200, description = "The sales", body = SaleList, headers(
            ("ETag" = String, description = "For `If-None-Match`"),
            ("Server-Time" = String, description = "For a countdown: RFC 3339 with milliseconds"),
            ("Cache-Control" = String),
        )),
        (status = 304, description = "Unchanged"),
        ListProblems,
    )
)]
pub async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let sales: Vec<SaleView> = stream::iter(api.catalogue.all())
        .map(|listed| SaleView::new(api.clone(), listed, GENERAL))
        .buffered(MAX_CONCURRENT_SAMPLES)
        .collect()
        .await;
    cacheable(&headers, PUBLIC, &SaleList { sales })
}

/// One sale
///
/// With a token of the sale's issuer, a sale with tiers is shown as to its buyer.
#[utoipa::path(
    get, path = "/v1/sales/{namespace}/{name}", operation_id = "showSale", tag = "sales",
    security((), ("token" = [])),
    params(openapi::SalePath, openapi::IfNoneMatch),
    responses(
        (status = 200, description = "The sale", body = SaleView, headers(
            ("ETag" = String, description = "For `If-None-Match`"),
            ("Server-Time" = String, description = "For a countdown: RFC 3339 with milliseconds"),
            ("Cache-Control" = String),
        )),
        (status = 304, description = "Unchanged"),
        ShowProblems,
    )
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    NamedSale(listed): NamedSale,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let sale = &listed.sale;
    let (Some(issuer), Some(_)) = (&sale.issuer, &sale.tiers) else {
        return Ok(cacheable(&headers, PUBLIC, &SaleView::new(api, listed, GENERAL).await));
    };
    let (tier, shared) = match headers.contains_key(header::AUTHORIZATION) {
        true => (api.identify(issuer, &headers).await?.tier_in(sale), PRIVATE),
        false => (GENERAL, PUBLIC),
    };
    let mut response = cacheable(&headers, shared, &SaleView::new(api, listed, tier).await);
    response.headers_mut().append(header::VARY, VARY_BY_TOKEN);
    Ok(response)
}

problems!(ListProblems: Internal, NotReady);
problems!(ShowProblems + TOKEN_PROBLEMS: PathInvalid, SaleUnknown, Internal, NotReady);

#[derive(Serialize, ToSchema)]
struct SaleList {
    sales: Vec<SaleView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Sale)]
struct SaleView {
    /// As in the paths: `namespace/name`.
    sale: String,
    /// As in the FlashSale, without the price.
    #[schema(value_type = openapi::Item)]
    item: Value,
    price: Price,
    #[schema(format = DateTime)]
    starts_at: String,
    #[schema(format = DateTime)]
    ends_at: String,
    /// The greatest `quantity` of a purchase. It can rise while the sale runs.
    max_per_order: u32,
    /// Who can buy. Null: anyone, without a token.
    access: Option<AccessView>,
    /// Tiers of buyers, by what the seller calls them. Null if all buyers are equal.
    tiers: Option<Vec<TierView>>,
    /// The tier of the buyer whose token was sent. Null: none, or no token.
    tier: Option<String>,
    /// When this buyer can buy: `starts_at`, or earlier by the tier.
    #[schema(format = DateTime)]
    opens_at: String,
    /// Units of this buyer over the whole sale, without cancelled ones. Null if there is no limit.
    limit_per_buyer: Option<u32>,
    #[schema(schema_with = openapi::sale_state)]
    state: &'static str,
    /// What this buyer can buy. At most a second old, for display only: a purchase decides. Null if the number is unknown now.
    remaining: Option<u64>,
    /// Units are kept for other buyers until then, so this buyer may find more. Null: no units are kept.
    #[schema(format = DateTime)]
    reserved_until: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Tier)]
struct TierView {
    name: String,
    /// When its buyers can buy.
    #[schema(format = DateTime)]
    opens_at: String,
    /// Units of one of its buyers. Null if there is no limit.
    limit_per_buyer: Option<u32>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Access)]
struct AccessView {
    /// Name of the issuer whose tokens this sale needs.
    issuer: String,
}

impl SaleView {
    async fn new(api: Arc<Api>, listed: Arc<ListedSale>, tier: Tier) -> Self {
        let sale = &listed.sale;
        let opens_at = sale.opens_for(tier);
        let remaining = api.remaining(&listed, tier).await;
        let left = remaining.map(|remaining| remaining.left);
        SaleView {
            sale: listed.name(),
            item: item(sale.item.clone()),
            price: Price::of_sale(sale),
            starts_at: clock::rfc3339(sale.opens_at),
            ends_at: clock::rfc3339(sale.closes_at),
            max_per_order: listed.max_per_order(),
            access: sale.issuer.clone().map(|issuer| AccessView { issuer }),
            tiers: sale.tiers.as_ref().map(|tiers| {
                let tiers = (GENERAL + 1..).zip(&tiers.tiers);
                tiers
                    .map(|(tier, rule)| TierView::new(sale, tier, &rule.name))
                    .collect()
            }),
            tier: sale
                .tiers
                .as_ref()
                .and_then(|tiers| tiers.name(tier))
                .map(str::to_owned),
            opens_at: clock::rfc3339(opens_at),
            limit_per_buyer: limit(sale, tier),
            state: state(sale.state_in_force(), listed.has_ended(), opens_at, clock::now(), left),
            remaining: left,
            reserved_until: remaining
                .and_then(|remaining| remaining.reserved_until)
                .map(clock::rfc3339),
        }
    }
}

impl TierView {
    fn new(sale: &Sale, tier: Tier, name: &str) -> Self {
        TierView {
            name: name.to_owned(),
            opens_at: clock::rfc3339(sale.opens_for(tier)),
            limit_per_buyer: limit(sale, tier),
        }
    }
}

fn limit(sale: &Sale, tier: Tier) -> Option<Quantity> {
    Some(sale.limit_for(tier)).filter(|limit| *limit > 0)
}

/// The price is a member of the sale instead.
fn item(mut item: Value) -> Value {
    if let Some(item) = item.as_object_mut() {
        item.remove("price");
        item.remove("currency");
    }
    item
}

fn state(state: SaleState, ended: bool, opens: Millis, now: Millis, remaining: Option<u64>) -> &'static str {
    match (state, remaining) {
        _ if ended => "ended",
        (SaleState::Suspended, _) => "suspended",
        _ if now < opens => "scheduled",
        (_, Some(0)) => "sold_out",
        _ => "open",
    }
}

fn cacheable(request: &HeaderMap, cache: HeaderValue, body: &impl Serialize) -> Response {
    let body = match serde_json::to_string(body) {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(%error, "failed to serialize a sale");
            return Problem::Internal.into_response();
        }
    };
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let tag = format!("W/\"{:016x}\"", hasher.finish());
    let unchanged = matches_etag(request, &tag);
    let headers = [(header::ETAG, tag), (SERVER_TIME, clock::rfc3339(clock::now()))];
    let cache = [(header::CACHE_CONTROL, cache)];
    if unchanged {
        return (StatusCode::NOT_MODIFIED, cache, headers).into_response();
    }
    (cache, headers, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Whether If-None-Match names the tag. The comparison is weak, and the tags of this server contain no comma.
fn matches_etag(request: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let known = request.get_all(header::IF_NONE_MATCH).iter();
    let mut known = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    known.any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_number_is_not_shown_as_sold_out() {
        use SaleState::*;
        assert_eq!(state(Open, false, 5, 5, Some(0)), "sold_out");
        assert_eq!(state(Open, false, 5, 5, None), "open");
        assert_eq!(state(Open, false, 5, 4, Some(3)), "scheduled");
        assert_eq!(state(Suspended, false, 5, 5, Some(0)), "suspended");
        assert_eq!(state(Open, true, 5, 9, None), "ended");
    }

    #[test]
    fn an_etag_matches_in_a_list_weak_or_strong() {
        let request = |value: &str| HeaderMap::from_iter([(header::IF_NONE_MATCH, value.parse().unwrap())]);
        for known in ["W/\"ab\"", "\"ab\"", "\"x\", W/\"ab\"", "*"] {
            assert!(matches_etag(&request(known), "W/\"ab\""), "{known}");
        }
        for other in ["\"abc\"", "ab", ""] {
            assert!(!matches_etag(&request(other), "W/\"ab\""), "{other}");
        }
    }
}
