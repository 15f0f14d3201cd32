//! The FlashSale resource of the Kubernetes API.
//!
//! The manifest is generated from these types: `cargo run --bin operator -- crd`. The API server enforces the validation
//! rules below. Each message names the field and says what to do. The doc comments are the text of `kubectl explain`.
use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::Rule;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

/// Suspends a sale as `spec.suspend` does. Either suffices.
pub const SUSPEND_ANNOTATION: &str = "seckill.dev/suspend";

impl FlashSale {
    pub fn is_suspended(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        let annotation = annotations.and_then(|annotations| annotations.get(SUSPEND_ANNOTATION));
        self.spec.suspend || annotation.is_some_and(|value| value != "false")
    }
}

/// The custom resource. Tools that wait for a FlashSale compare the generation that its status describes with the present one.
/// Without any status they would take an object for ready that no operator has seen yet, so it has one from the beginning.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = FlashSale::crd();
    let schemas = crd
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut());
    let properties = schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()?.properties.as_mut());
    for status in properties.filter_map(|properties| properties.get_mut("status")) {
        status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
    }
    crd
}

/// A limited stock of one item, sold between two fixed times.
///
/// A FlashSale runs once, like a Job. Class, namespace and name identify the sale, and the ledger remembers them. If the
/// object is deleted and applied again, the new object adopts the running sale of that name.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "seckill.dev",
    version = "v1alpha1",
    kind = "FlashSale",
    plural = "flashsales",
    shortname = "fsale",
    category = "seckill",
    namespaced,
    status = "FlashSaleStatus",
    doc = "A limited stock of one item, sold between two fixed times to more buyers than there are units. A FlashSale runs once, like a Job. Class, namespace and name identify the sale. If the object is deleted and applied again, the new object adopts the running sale of that name.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Prepared","type":"string","jsonPath":".status.conditions[?(@.type==\"Prepared\")].status"}"#,
    printcolumn = r#"{"name":"Sellable","type":"string","jsonPath":".status.conditions[?(@.type==\"Sellable\")].status"}"#,
    printcolumn = r#"{"name":"Stock","type":"integer","jsonPath":".spec.stock"}"#,
    printcolumn = r#"{"name":"Remaining","type":"integer","jsonPath":".status.ledger.remaining"}"#,
    printcolumn = r#"{"name":"Starts","type":"string","jsonPath":".spec.startsAt"}"#,
    printcolumn = r#"{"name":"Ends","type":"string","jsonPath":".spec.endsAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name: it must have at most 63 characters; choose a shorter name"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || self.spec.stock >= oldSelf.spec.stock").message("spec.stock: it can only rise once the sale is preheated, because units may already be sold; to withdraw the remaining units, set an earlier spec.endsAt"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ended', 'Settled']) || self.spec.stock == oldSelf.spec.stock").message("spec.stock: it can't change once the sale has ended, because a sale runs once; create another FlashSale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || self.spec.item == oldSelf.spec.item").message("spec.item: it can't change once the sale is preheated, because buyers may have seen it; create another FlashSale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || (has(self.spec.access) == has(oldSelf.spec.access) && (!has(self.spec.access) || self.spec.access == oldSelf.spec.access))").message("spec.access: it can't change once the sale is preheated, because others may have bought already; create another FlashSale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || (has(self.spec.reservedForGeneral) == has(oldSelf.spec.reservedForGeneral) && (!has(self.spec.reservedForGeneral) || self.spec.reservedForGeneral == oldSelf.spec.reservedForGeneral) && has(self.spec.tiers) == has(oldSelf.spec.tiers) && (!has(self.spec.tiers) || (self.spec.tiers.map(t, t.name) == oldSelf.spec.tiers.map(t, t.name) && self.spec.tiers.all(t, oldSelf.spec.tiers.exists(o, o.name == t.name && o.values == t.values && o.opensBeforeSeconds == t.opensBeforeSeconds && o.reserved == t.reserved && o.reservedForSeconds == t.reservedForSeconds)))))").message("spec.tiers: only limitPerBuyer of a tier can change once the sale is preheated, because orders name tiers by number; create another FlashSale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || self.spec.startsAt == oldSelf.spec.startsAt").message("spec.startsAt: it can't change once the sale is preheated; use spec.suspend to delay the sale, or create another FlashSale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || self.spec.maxPerOrder >= oldSelf.spec.maxPerOrder").message("spec.maxPerOrder: it can only rise once the sale is preheated, because buyers may hold larger orders; create another FlashSale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ended', 'Settled']) || self.spec.endsAt == oldSelf.spec.endsAt").message("spec.endsAt: it can't change once the sale has ended, because a sale runs once; create another FlashSale"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.className == oldSelf.className").message("spec.className: it can't change; create another FlashSale"))]
#[x_kube(validation = Rule::new("self.endsAt > self.startsAt").message("spec.endsAt: it must be later than spec.startsAt"))]
#[x_kube(validation = Rule::new("!has(self.ordersEverMax) || self.ordersEverMax > self.stock").message("spec.ordersEverMax: it must be greater than spec.stock, so that every unit can be sold"))]
#[x_kube(validation = Rule::new("!has(self.limitPerBuyer) || has(self.access)").message("spec.limitPerBuyer: it needs spec.access, because an anonymous sale can't know its buyers"))]
#[x_kube(validation = Rule::new("!has(self.tiers) || size(self.tiers) == 0 || has(self.access)").message("spec.tiers: it needs spec.access, because an anonymous sale can't know its buyers"))]
#[x_kube(validation = Rule::new("!has(self.tiers) || self.tiers.all(t, self.tiers.exists_one(o, o.name == t.name))").message("spec.tiers: two tiers have the same name; rename one of them"))]
#[x_kube(validation = Rule::new("!has(self.reservedForGeneral) || (has(self.tiers) && size(self.tiers) > 0)").message("spec.reservedForGeneral: it needs spec.tiers, because without tiers all buyers are general buyers"))]
#[x_kube(validation = Rule::new("!has(self.tiers) || self.tiers.map(t, t.reserved).sum() + (has(self.reservedForGeneral) ? self.reservedForGeneral : 0) <= self.stock").message("spec.tiers: the units that are kept for tiers and general buyers must be at most spec.stock together"))]
#[x_kube(validation = Rule::new("self.endsAt - self.startsAt <= duration('720h')").message("spec.endsAt: it must be at most 30 days after spec.startsAt"))]
pub struct FlashSaleSpec {
    /// The class of the Seckill release that runs the sale; it works like an ingress class. It can't change.
    #[serde(default = "default_class_name")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub class_name: String,

    /// The item for sale. It can change until the sale is preheated.
    pub item: Item,

    /// The total number of units for sale, from 1 to 10,000,000. Once the sale is preheated, it can only rise. Once the
    /// sale has ended, it can't change.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub stock: i64,

    /// Who can buy. Without this field, buyers are anonymous: each idempotency key is a buyer. It can change until the sale is
    /// preheated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,

    /// Tiers of buyers, at most 4. A token of the issuer has values in a claim, which the configuration of the issuer names. The
    /// first tier that has one of the values is the buyer's. Buyers of no tier are general buyers. It needs access. It can
    /// change until the sale is preheated, and a tier's limitPerBuyer at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub tiers: Vec<Tier>,

    /// How many units are kept for general buyers until startsAt, from 0 to stock: tiers that open before can't buy them. It
    /// needs tiers. It can change until the sale is preheated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub reserved_for_general: Option<i64>,

    /// How many units one buyer can have over the whole sale, from 1 to 1000. Units of cancelled orders do not count, so the
    /// buyer can buy them again. It needs access. It may be less than maxPerOrder: then it also limits each order. Without
    /// this field, there is no such limit. It can change at any time; a lower limit takes nothing from buyers who have more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit_per_buyer: Option<i32>,

    /// How many units one order can have, from 1 to 1000. Once the sale is preheated, it can only rise. The default is the
    /// smallest value, because a value that is too small can be corrected during the sale, and a value that is too large
    /// can't.
    #[serde(default = "default_max_per_order")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_per_order: i32,

    /// How many orders the sale can make, including those that are cancelled later. It limits what buyers who buy and
    /// cancel in a loop can use up in Redis, Kafka and MySQL. At this number the sale stops selling until the field is
    /// raised, and buyers get the answer "suspended". It must be greater than stock and at most 200,000,000. The default
    /// is 20 times stock. It can change at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 200_000_000))]
    pub orders_ever_max: Option<i64>,

    /// The time from which buyers can buy, in RFC 3339, such as 2026-11-30T12:00:00Z. If the time is in the past, the
    /// sale opens immediately. It can change until the sale is preheated.
    #[x_kube(validation = usable_time("spec.startsAt"))]
    pub starts_at: Time,

    /// The time at which the sale ends, in RFC 3339. It must be after startsAt, by at most 30 days. It can change until
    /// the sale has ended.
    #[x_kube(validation = usable_time("spec.endsAt"))]
    pub ends_at: Time,

    /// How many seconds before the start the operator begins to load the stock into Redis and to start the pods. At least
    /// 60, because a change of the leading operator can take 20 seconds.
    #[serde(default = "default_seconds")]
    #[schemars(range(min = 60, max = 86_400))]
    pub lead_time_seconds: i32,

    /// How many seconds the pods of this sale stay after its end.
    #[serde(default = "default_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub cool_down_seconds: i32,

    /// How many pods this sale needs while it runs. The release adds up the demands of its running sales, and keeps the
    /// sum between its own minimum and maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Demand>,

    /// While this field is true, the sale sells nothing. It can change at any time. The annotation
    /// seckill.dev/suspend=true has the same effect, and one of the two is enough. So a GitOps tool that restores this
    /// field can't resume a sale that a person has suspended by the annotation.
    #[serde(default)]
    pub suspend: bool,

    /// Before the sale opens, the operator checks the servers for risks, such as a Redis that evicts keys when its memory
    /// is full. The condition Preflight reports the result. Warn: the sale opens in any case. Require: the sale does not
    /// open while a check fails or can't be made. A sale that is already open is never stopped by a check.
    #[serde(default)]
    pub preflight: Preflight,

    /// Fields of a newer version of this resource.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// The fields of an object that this version of the resource does not have. The API server keeps only fields of the
/// installed resource, so these are of a newer one. They are not ignored: they may change what the user means.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct UnknownFields(BTreeMap<String, serde_json::Value>);

/// Never written: the ledger gets what this version knows of an item.
impl Serialize for UnknownFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_map(Some(0))?.end()
    }
}

impl UnknownFields {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Whether a sale opens when a preflight check has found a problem.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// The sale opens, and the condition Preflight reports the problems.
    #[default]
    Warn,
    /// The sale does not open until all checks pass.
    Require,
}

/// The item for sale.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The seller's identifier of the item (stock keeping unit): letters, digits, dots, underscores and hyphens.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$")
    )]
    pub sku: String,

    /// The number of the item on the legacy routes (/seckill/buy). Without a number, the item can't be bought there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991i64))]
    pub id: Option<i64>,

    /// The name of the item that buyers see.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,

    /// The price of one unit, as a decimal string with at most 4 fraction digits, such as "1999.00".
    #[schemars(length(min = 1, max = 19), regex(pattern = r"^(0|[1-9][0-9]{0,13})(\.[0-9]{1,4})?$"))]
    pub price: String,

    /// The currency of the price, as a three-letter code of ISO 4217, such as EUR.
    #[schemars(length(min = 3, max = 3), regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,

    /// A longer text about the item that buyers see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2000))]
    pub description: Option<String>,

    /// Fields of a newer version of this resource.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// The buyers of a sale.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// The name of an issuer in the configuration of the Seckill release. A buyer sends a token of this issuer with each
    /// request, and the subject of the token is the buyer.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub issuer: String,

    /// Fields of a newer version of this resource.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// Some of the buyers, who may buy earlier, have another limit, or have units that are kept for them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.name != 'general'").message("name: general is the name for buyers of no tier; choose another one"))]
#[x_kube(validation = Rule::new("self.reserved == 0 || self.opensBeforeSeconds > 0 || self.reservedForSeconds > 0").message("reserved: it needs reservedForSeconds or opensBeforeSeconds, because units are kept only until then"))]
pub struct Tier {
    /// The name of the tier in the status, in metrics and for buyers. Two tiers can't have the same, and general is the name for
    /// buyers of no tier.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The values of the claim that make a buyer one of this tier, from 1 to 16.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 64)))]
    pub values: Vec<String>,

    /// How many seconds before startsAt its buyers can buy, from 0 to 604,800 (7 days).
    #[serde(default)]
    #[schemars(range(min = 0, max = 604_800))]
    pub opens_before_seconds: i32,

    /// How many units one buyer of this tier can have over the whole sale, from 1 to 1000. All units of the buyer count, also
    /// those bought by another tier. The default is limitPerBuyer of the sale. It can change at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit_per_buyer: Option<i32>,

    /// How many units are kept for buyers of this tier, until reservedForSeconds after startsAt. They can buy more if units
    /// are left.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub reserved: i64,

    /// How many seconds after startsAt the units are kept, from 0 to 604,800 (7 days).
    #[serde(default)]
    #[schemars(range(min = 0, max = 604_800))]
    pub reserved_for_seconds: i32,

    /// Fields of a newer version of this resource.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// How many pods a sale needs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// The number of seckill-api pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub api_replicas: Option<i32>,

    /// The number of order-worker pods. Pods beyond the number of Kafka partitions have no work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub worker_replicas: Option<i32>,

    /// Fields of a newer version of this resource.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// The state of the sale at the last reconcile. The operator writes the status, and never uses it as an input.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FlashSaleStatus {
    /// The generation of the spec that this status describes. -1: no operator has seen the object yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The stage of the sale; a summary of the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// The id of the sale in the ledger and in the order log, once the log has it. It is shown, and compared: if the ledger
    /// has another sale under this name, the operator stops with the reason IdentityMismatch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub sale_id: Option<String>,

    /// The state of the sale in detail, by the condition types Accepted, Preflight, StockPreheated, WorkloadsScaled,
    /// Prepared, Sellable, Ready, LedgerBalanced, Settled, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The epoch of the index in Redis that sells. Each rebuild of the index has a greater epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,

    /// The units of the sale, sampled while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerStatus>,

    /// The units of each tier, sampled while the sale runs. General buyers are first, under the name general.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tiers: Vec<TierStatus>,

    /// When the stock began to be loaded into Redis, or to be counted in the order log. From then on the item, the access
    /// and the start can't change, and the stock can only rise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preheated_at: Option<Time>,

    /// When the stock was loaded and the pods were ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,

    /// When the operator first observed the sale as open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Time>,

    /// When the sale was settled: no order was in flight any more, and the units were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Time>,

    /// When time will next change the phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_transition_at: Option<Time>,
}

/// The stage of a sale.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The sale is accepted, and preheating has not begun.
    Scheduled,
    /// The stock is being loaded into Redis, and the pods are starting.
    Preheating,
    /// The stock is loaded and the pods are ready. The sale opens at its start time.
    Ready,
    /// Buyers can buy.
    Open,
    /// Every unit is sold. The sale still ends at its end time.
    SoldOut,
    /// The sale sells nothing, because it is suspended or a required preflight check fails.
    Suspended,
    /// The sale is over. The last orders are being written into the ledger.
    Ended,
    /// The units are compared, the result is in the ledger, and Redis is freed.
    Settled,
}

/// The units of a sale: total = sold + remaining + inFlight.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStatus {
    /// Units offered in total.
    pub total: i64,
    /// Units of orders that the ledger holds.
    pub sold: i64,
    /// Units that can still be bought.
    pub remaining: i64,
    /// Units that are reserved, but not yet in the ledger.
    pub in_flight: i64,
}

/// The units of one tier.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TierStatus {
    /// The name of the tier; general: buyers of no tier.
    pub name: String,
    /// Units that its buyers have bought and not cancelled.
    pub sold: i64,
    /// Units that are still kept for its buyers.
    pub reserved: i64,
}

/// A time that the rules of the API server can compare and that the operator can parse. The format `date-time` alone also
/// admits a lower-case t or z, with which a rule can't be evaluated: then the API server shows the error of the evaluation
/// and this message.
fn usable_time(field: &str) -> Rule {
    let message = format!(
        "{field}: it must be a time in RFC 3339 with upper-case T and Z, before the year 9999, such as 2026-11-30T12:00:00Z"
    );
    Rule::new("self < timestamp('9999-01-01T00:00:00Z')").message(message.as_str())
}

fn default_class_name() -> String {
    "default".to_owned()
}

fn default_max_per_order() -> i32 {
    1
}

fn default_seconds() -> i32 {
    300
}
