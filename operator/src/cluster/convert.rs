//! Between the types of Kubernetes and those of the planner.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use seckill_crds::{FlashSale, FlashSaleSpec, Tier, UnknownFields};
use seckill_planner::sale::{Demand, DesiredSale, PodSchedule, SaleKey};
use seckill_protocol::index::Millis;
use seckill_protocol::sale::{Offer, TierLimits, first_opens_at, needed_format};
use seckill_protocol::tiers::{MAX_TIERS, TierRule};
use seckill_protocol::{Format, Quantity, SaleId, Tiers};

pub fn sale_key(object: &impl kube::ResourceExt) -> SaleKey {
    SaleKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

pub fn desired_sale(object: &FlashSale) -> DesiredSale {
    let spec = &object.spec;
    let mut desired = DesiredSale {
        uid: object.uid().unwrap_or_default(),
        known_id: known_id(object),
        unknown_fields: unknown_fields(spec),
        format: Format::FIRST,
        created_at: object.creation_timestamp().as_ref().map(to_millis).unwrap_or_default(),
        offer: offer(object),
        limit_per_buyer: limit_per_buyer(spec),
        tier_limits: tier_limits(spec),
        max_per_order: u32::try_from(spec.max_per_order).unwrap_or_default(),
        orders_ever_max: match seckill_failpoint::breaks("orders-unbounded") {
            true => Some(1_000_000),
            false => spec.orders_ever_max.and_then(|most| u64::try_from(most).ok()),
        },
        starts_at: to_millis(&spec.starts_at),
        ends_at: to_millis(&spec.ends_at),
        lead_time_seconds: u32::try_from(spec.lead_time_seconds).unwrap_or_default(),
        cool_down_seconds: u32::try_from(spec.cool_down_seconds).unwrap_or_default(),
        demand: demand(spec),
        suspended: object.is_suspended(),
        preflight_required: spec.preflight == seckill_crds::Preflight::Require,
    };
    desired.format = needed_format(&desired.offer, &desired.terms());
    desired
}

/// Only buyers with an identity can have a limit. The API server refuses another one.
fn limit_per_buyer(spec: &FlashSaleSpec) -> Quantity {
    let limit = spec.limit_per_buyer.filter(|_| spec.access.is_some());
    limit
        .and_then(|limit| Quantity::try_from(limit).ok())
        .unwrap_or_default()
}

/// Of the tiers in `spec.tiers`; a tier without a limit of its own has that of the sale.
fn tier_limits(spec: &FlashSaleSpec) -> TierLimits {
    let mut limits = TierLimits::default();
    for (limit, tier) in limits.iter_mut().zip(&spec.tiers) {
        let own = tier.limit_per_buyer.and_then(|limit| Quantity::try_from(limit).ok());
        *limit = own.unwrap_or_else(|| limit_per_buyer(spec));
    }
    limits
}

/// Only buyers with an identity have a tier. The API server refuses tiers without access.
fn tiers(spec: &FlashSaleSpec) -> Option<Tiers> {
    let number = |n: i64| u64::try_from(n).unwrap_or_default();
    let rule = |tier: &Tier| TierRule {
        name: tier.name.clone(),
        values: tier.values.clone(),
        opens_before_seconds: number(tier.opens_before_seconds.into()),
        reserved: number(tier.reserved),
        reserved_for_seconds: number(tier.reserved_for_seconds.into()),
    };
    let has_tiers = spec.access.is_some() && !spec.tiers.is_empty();
    has_tiers.then(|| Tiers {
        tiers: spec.tiers.iter().take(MAX_TIERS).map(rule).collect(),
        reserved_for_general: number(spec.reserved_for_general.unwrap_or_default()),
    })
}

/// The part of it that scaling needs.
pub fn pod_schedule(object: &FlashSale) -> PodSchedule {
    let spec = &object.spec;
    let seconds = |seconds| u32::try_from(seconds).unwrap_or_default();
    PodSchedule::new(
        [
            first_opens_at(tiers(spec).as_ref(), to_millis(&spec.starts_at)),
            to_millis(&spec.ends_at),
        ],
        [seconds(spec.lead_time_seconds), seconds(spec.cool_down_seconds)],
        demand(spec),
    )
}

fn demand(spec: &FlashSaleSpec) -> Demand {
    let demand = spec.demand.as_ref();
    Demand {
        api_replicas: demand.and_then(|demand| demand.api_replicas),
        worker_replicas: demand.and_then(|demand| demand.worker_replicas),
    }
}

/// The fields that only a newer version of the resource has.
fn unknown_fields(spec: &FlashSaleSpec) -> Vec<String> {
    let of = |parent: &'static str, unknown: &UnknownFields| {
        let paths = unknown.names().map(move |name| format!("{parent}.{name}"));
        paths.collect::<Vec<_>>()
    };
    let demand = spec.demand.iter().flat_map(|demand| of("spec.demand", &demand.unknown));
    let access = spec.access.iter().flat_map(|access| of("spec.access", &access.unknown));
    let tiers = spec.tiers.iter().flat_map(|tier| of("spec.tiers[]", &tier.unknown));
    let item = of("spec.item", &spec.item.unknown);
    of("spec", &spec.unknown)
        .into_iter()
        .chain(access)
        .chain(tiers)
        .chain(item)
        .chain(demand)
        .collect()
}

/// The sale that the status names. A status is written by the operator alone, so what is no id says nothing.
fn known_id(object: &FlashSale) -> Option<SaleId> {
    object.status.as_ref()?.sale_id.as_ref()?.parse().ok()
}

fn offer(object: &FlashSale) -> Offer {
    let item = &object.spec.item;
    Offer {
        // A struct of strings and numbers always becomes JSON.
        item: serde_json::to_value(item).unwrap_or_default(),
        item_id: item.id,
        issuer: object.spec.access.as_ref().map(|access| access.issuer.clone()),
        tiers: tiers(&object.spec),
        price: item.price.clone(),
        currency: item.currency.clone(),
        offered: u64::try_from(object.spec.stock).unwrap_or_default(),
    }
}

pub fn phase(phase: seckill_planner::Phase) -> seckill_crds::Phase {
    use seckill_planner::Phase;
    match phase {
        Phase::Scheduled => seckill_crds::Phase::Scheduled,
        Phase::Preheating => seckill_crds::Phase::Preheating,
        Phase::Ready => seckill_crds::Phase::Ready,
        Phase::Open => seckill_crds::Phase::Open,
        Phase::SoldOut => seckill_crds::Phase::SoldOut,
        Phase::Suspended => seckill_crds::Phase::Suspended,
        Phase::Ended => seckill_crds::Phase::Ended,
        Phase::Settled => seckill_crds::Phase::Settled,
    }
}

pub fn to_millis(time: &Time) -> Millis {
    u64::try_from(time.0.as_millisecond()).unwrap_or_default()
}

/// In whole seconds: that is what Kubernetes writes, and what does not change with each reconcile.
pub fn to_time(at: Millis) -> Time {
    let at = i64::try_from(at / 1000).unwrap_or_default();
    Time(k8s_openapi::jiff::Timestamp::from_second(at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flash_sale(spec: serde_json::Value) -> FlashSale {
        let mut object = serde_json::json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSale",
            "metadata": {"namespace": "shop", "name": "sale", "uid": "u", "creationTimestamp": "1970-01-01T00:00:07Z"},
            "spec": {
                "item": {"sku": "s", "name": "n", "price": "1.00", "currency": "EUR"},
                "stock": 9,
                "startsAt": "1970-01-01T00:01:40.250Z",
                "endsAt": "1970-01-01T00:03:20Z",
                "leadTimeSeconds": 10,
            },
        });
        let fields = spec.as_object().expect("an object").clone();
        object["spec"].as_object_mut().expect("an object").extend(fields);
        serde_json::from_value(object).expect("a FlashSale")
    }

    #[test]
    fn times_and_stock_are_taken_from_the_spec() {
        let desired = desired_sale(&flash_sale(serde_json::json!({})));
        assert_eq!((desired.starts_at, desired.ends_at), (100_250, 200_000));
        assert_eq!((desired.preheat_at(), desired.created_at), (90_250, 7_000));
        assert_eq!((desired.offer.offered, desired.offer.price.as_str()), (9, "1.00"));
        assert_eq!(desired.offer.item["sku"], "s");
        assert!(!desired.suspended && !desired.preflight_required);
        assert_eq!((desired.max_per_order, desired.orders_ever_max), (1, None));
        let bounded = flash_sale(serde_json::json!({"maxPerOrder": 3, "ordersEverMax": 50}));
        let desired = desired_sale(&bounded);
        assert_eq!((desired.max_per_order, desired.orders_ever_max), (3, Some(50)));
    }

    #[test]
    fn access_names_the_issuer_and_needs_the_second_format() {
        let anonymous = desired_sale(&flash_sale(serde_json::json!({})));
        assert_eq!(
            (anonymous.offer.issuer, anonymous.limit_per_buyer, anonymous.format),
            (None, 0, Format::FIRST)
        );
        let limited = serde_json::json!({"access": {"issuer": "main"}, "limitPerBuyer": 2});
        let desired = desired_sale(&flash_sale(limited));
        assert_eq!(
            (desired.offer.issuer.as_deref(), desired.limit_per_buyer, desired.format),
            (Some("main"), 2, Format(2))
        );
        assert_eq!(desired.terms().limit_per_buyer, 2);
        assert_eq!(
            desired_sale(&flash_sale(serde_json::json!({"limitPerBuyer": 2}))).limit_per_buyer,
            0
        );
    }

    #[test]
    fn tiers_have_a_limit_each_and_need_the_third_format() {
        let gold = serde_json::json!({
            "name": "gold", "values": ["gold", "vip"], "opensBeforeSeconds": 60, "limitPerBuyer": 2, "reserved": 4,
            "reservedForSeconds": 30,
        });
        let silver = serde_json::json!({"name": "silver", "values": ["silver"]});
        let tiered = serde_json::json!({
            "access": {"issuer": "main"}, "limitPerBuyer": 1, "tiers": [gold, silver], "reservedForGeneral": 3,
        });
        let object = flash_sale(tiered);
        let desired = desired_sale(&object);
        assert_eq!((desired.tier_limits, desired.format), ([2, 1, 0, 0], Format(3)));
        assert_eq!(desired.terms().tier_limits, [2, 1, 0, 0]);
        let tiers = desired.offer.tiers.as_ref().expect("tiers");
        assert_eq!((tiers.tiers.len(), tiers.reserved_for_general), (2, 3));
        let gold = &tiers.tiers[0];
        assert_eq!(
            (gold.name.as_str(), gold.values.as_slice()),
            ("gold", ["gold", "vip"].map(String::from).as_slice())
        );
        assert_eq!(
            (gold.opens_before_seconds, gold.reserved, gold.reserved_for_seconds),
            (60, 4, 30)
        );
        // Preheating and pods come before the first opening.
        assert_eq!((desired.first_opens_at(), desired.preheat_at()), (40_250, 30_250));
        assert_eq!(pod_schedule(&object), desired.pod_schedule());
        // The API server refuses tiers without access.
        let anonymous = serde_json::json!({"tiers": [{"name": "gold", "values": ["gold"]}]});
        assert_eq!(desired_sale(&flash_sale(anonymous)).offer.tiers, None);
    }

    #[test]
    fn fields_that_this_version_does_not_know_are_named() {
        let item = serde_json::json!({"sku": "s", "name": "n", "price": "1.00", "currency": "EUR", "color": "red"});
        let access = serde_json::json!({"issuer": "main", "audience": "shop"});
        let newer = serde_json::json!({"rehearsal": true, "tiers": [{"name": "gold", "values": ["gold"], "color": "red"}], "access": access, "item": item, "demand": {"gpus": 1}});
        let newer = flash_sale(newer);
        let desired = desired_sale(&newer);
        assert_eq!(
            desired.unknown_fields,
            [
                "spec.rehearsal",
                "spec.access.audience",
                "spec.tiers[].color",
                "spec.item.color",
                "spec.demand.gpus"
            ]
        );
        // The ledger gets what this version knows.
        assert_eq!(desired.offer.item["sku"], "s");
        assert_eq!(desired.offer.item.get("color"), None);
        assert!(
            desired_sale(&flash_sale(serde_json::json!({})))
                .unknown_fields
                .is_empty()
        );
    }

    #[test]
    fn the_field_or_the_annotation_suspends() {
        assert!(desired_sale(&flash_sale(serde_json::json!({"suspend": true}))).suspended);
        let mut annotated = flash_sale(serde_json::json!({}));
        for (value, suspended) in [("true", true), ("", true), ("false", false)] {
            annotated
                .annotations_mut()
                .insert(seckill_crds::SUSPEND_ANNOTATION.into(), value.into());
            assert_eq!(desired_sale(&annotated).suspended, suspended, "{value}");
        }
    }

    #[test]
    fn a_phase_keeps_its_name() {
        use seckill_planner::Phase;
        for of in [
            Phase::Scheduled,
            Phase::Preheating,
            Phase::Ready,
            Phase::Open,
            Phase::SoldOut,
            Phase::Suspended,
            Phase::Ended,
            Phase::Settled,
        ] {
            assert_eq!(format!("{of:?}"), format!("{:?}", phase(of)));
        }
    }
}
