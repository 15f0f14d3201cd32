//! The FlashSale resource, as it is served by the Kubernetes API.
//!
//! The manifest is generated from these types: `cargo run --bin operator -- crd`. What the API server can refuse, it
//! refuses by the rules stated here, with a message that names the field and says what to do.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A limited stock of one item, offered at a set time.
///
/// A FlashSale runs once, like a Job. Its identity is class, namespace and name: the ledger remembers it, and an object
/// that is deleted and applied again adopts the sale that runs under its name.
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
    doc = "A limited stock of one item, offered at a set time to more buyers than units. It runs once, like a Job: its identity is class, namespace and name, and an object that is deleted and applied again adopts the sale that runs under its name.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Stock","type":"integer","jsonPath":".spec.stock"}"#,
    printcolumn = r#"{"name":"Remaining","type":"integer","jsonPath":".status.ledger.remaining"}"#,
    printcolumn = r#"{"name":"Starts","type":"string","jsonPath":".spec.startsAt"}"#,
    printcolumn = r#"{"name":"Ends","type":"string","jsonPath":".spec.endsAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name: at most 63 characters; choose a shorter name"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || self.spec.stock >= oldSelf.spec.stock").message("spec.stock: it can only rise once the sale is preheated, for units may be sold already; withdraw what is left by an earlier spec.endsAt"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ended', 'Settled']) || self.spec.stock == oldSelf.spec.stock").message("spec.stock: it can't change once the sale has ended, for a sale runs once; make another sale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || self.spec.item == oldSelf.spec.item").message("spec.item: it can't change once the sale is preheated, for buyers were told it; make another sale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.preheatedAt) || self.spec.startsAt == oldSelf.spec.startsAt").message("spec.startsAt: it can't change once the sale is preheated; use spec.suspend to hold the sale back, or make another sale"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Ended', 'Settled']) || self.spec.endsAt == oldSelf.spec.endsAt").message("spec.endsAt: it can't change once the sale has ended, for a sale runs once; make another sale"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.className == oldSelf.className").message("spec.className: it can't change; make another sale"))]
#[x_kube(validation = Rule::new("self.endsAt > self.startsAt").message("spec.endsAt: it must be later than spec.startsAt"))]
#[x_kube(validation = Rule::new("self.endsAt - self.startsAt <= duration('720h')").message("spec.endsAt: a sale lasts at most 30 days"))]
pub struct FlashSaleSpec {
    /// Which release of Seckill runs the sale, as ingress classes do. It never changes.
    #[serde(default = "default_class_name")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub class_name: String,

    /// What is sold. It can change until the sale is preheated.
    pub item: Item,

    /// The units that are offered in all, 1 to 10,000,000. Once the sale is preheated it can only rise, until the end.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub stock: i64,

    /// When the first unit can be bought, in RFC 3339, such as 2026-11-30T12:00:00Z. A time in the past means at once. It
    /// can change until the sale is preheated.
    pub starts_at: Time,

    /// When the sale ends, in RFC 3339; at most 30 days after the start. It can change until the sale has ended.
    pub ends_at: Time,

    /// How many seconds before the start the stock is put in place and the pods are up.
    #[serde(default = "default_seconds")]
    #[schemars(range(min = 5, max = 86_400))]
    pub lead_time_seconds: i32,

    /// How many seconds the pods stay after the end.
    #[serde(default = "default_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub cool_down_seconds: i32,

    /// How many pods this sale asks of the release while it runs. What the running sales of a release ask for adds up,
    /// between the release's own floor and ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Demand>,

    /// Sells nothing as long as it is true. It can change at any time; the annotation seckill.dev/suspend=true does the
    /// same, and either of them suffices, so that a tool that restores this field can't resume a sale that a person
    /// stopped.
    #[serde(default)]
    pub suspend: bool,

    /// What could spoil the sale, such as a Redis that drops stock when its memory is full, is checked before it opens,
    /// and told by the condition Preflight. Warn: it opens all the same. Require: it is held back as long as something is
    /// found, or can't be checked; once it has opened, nothing that is found stops it.
    #[serde(default)]
    pub preflight: Preflight,
}

/// Whether a sale opens when its preflight has found something.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// It opens, and says what was found.
    #[default]
    Warn,
    /// It is held back until nothing is found.
    Require,
}

/// What is sold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The shop's own name for it: letters, digits, dots, underscores and hyphens.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$")
    )]
    pub sku: String,

    /// The number of the item on the routes of the old demo (/seckill/buy). Without one it can't be bought there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_007_199_254_740_991i64))]
    pub id: Option<i64>,

    /// What buyers read.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,

    /// Of one unit, as a decimal string with at most 4 fraction digits, such as "1999.00".
    #[schemars(length(min = 1, max = 19), regex(pattern = r"^(0|[1-9][0-9]{0,13})(\.[0-9]{1,4})?$"))]
    pub price: String,

    /// Of the price, by its three letters of ISO 4217, such as EUR.
    #[schemars(length(min = 3, max = 3), regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,

    /// More that buyers read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2000))]
    pub description: Option<String>,
}

/// How many pods a sale asks of the release.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// Pods of seckill-api.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub api_replicas: Option<i32>,

    /// Pods of order-worker. More than the log has partitions have nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub worker_replicas: Option<i32>,
}

/// What the operator saw last. It is never read as an input.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FlashSaleStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Where the sale is in its life; a summary of the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// The truth about the sale: Accepted, Preflight, StockPreheated, WorkloadsScaled, Ready, LedgerBalanced, Settled,
    /// Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The epoch of the index that sells: it rises with each rebuild of the index in Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,

    /// The units, sampled while the sale runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerStatus>,

    /// When the stock was put in place for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preheated_at: Option<Time>,

    /// When stock and pods were in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,

    /// When the sale was seen open for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Time>,

    /// When every unit was accounted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Time>,

    /// When the phase will change next by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_transition_at: Option<Time>,
}

/// Where a sale is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Accepted; its preheating has not begun.
    Scheduled,
    /// The stock is being put in place, and the pods are starting.
    Preheating,
    /// Stock and pods are in place; it opens by itself.
    Ready,
    /// It sells.
    Open,
    /// Every unit is sold; it ends at its time.
    SoldOut,
    /// It sells nothing, because it is told so.
    Suspended,
    /// Its time is over; the last orders are on their way into the ledger.
    Ended,
    /// Every unit is accounted for, and Redis holds nothing of it any more.
    Settled,
}

/// The units of a sale: total = sold + remaining + inFlight.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStatus {
    /// Offered in all.
    pub total: i64,
    /// In orders that the ledger holds.
    pub sold: i64,
    /// Left to buy.
    pub remaining: i64,
    /// Taken, and not in the ledger yet.
    pub in_flight: i64,
}

fn default_class_name() -> String {
    "default".to_owned()
}

fn default_seconds() -> i32 {
    300
}
