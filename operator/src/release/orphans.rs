//! The running sales without a FlashSale, and those that have to be settled without one. The planner decides what becomes of
//! them; this loop observes and applies. The ledger knows all sales, so no finalizer blocks a namespace.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};
use seckill_crds::FlashSale;
use seckill_ledger::Sale;
use seckill_planner::orphan::{
    Absence, Deletion, LiveAnswer, MassDeletion, MissingSale, SeenDeletions, needs_live_answer,
};
use seckill_planner::ownership::Ownership;
use seckill_planner::plan::{Step, plan};
use seckill_planner::sale::SaleKey;
use seckill_protocol::index::SaleState;
use seckill_service::periodic;

use crate::cluster::watch::{FlashSales, Missing};
use crate::context::Context;
use crate::error::ReconcileError;
use crate::sale::act::act;
use crate::sale::observe::observe;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the Lease is read for a person's confirmation, and a namespace for its deletion.
const READ_INTERVAL: Duration = Duration::from_secs(5);
const MAX_CONCURRENT_ORPHANS: usize = 16;
/// One sale must not keep the others waiting; from a deletion to the settlement it takes about so many.
const MAX_STEPS_PER_CHECK: usize = 10;

/// A person confirms a mass deletion by this annotation of the operator's Lease, with the token of the event as its value.
pub const CONFIRMATION_ANNOTATION: &str = "seckill.dev/end-missing";

/// What one leadership term remembers. Whatever must outlive it is in the row of the sale.
#[derive(Default)]
struct Orphans {
    deletions: SeenDeletions,
    /// Whether namespaces are being deleted, and when that was read.
    namespaces: HashMap<String, (bool, Instant)>,
    /// The token of the mass deletion that was announced last.
    announced: Option<String>,
    lease_read_at: Option<Instant>,
}

/// A sale without a FlashSale.
struct Orphan {
    sale: Sale,
    missing: Missing,
}

pub async fn run(context: Arc<Context>, sales: FlashSales) {
    let mut orphans = Orphans::default();
    let mut ticks = periodic(CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = context.term.ending.cancelled() => return,
            _ = ticks.tick() => {}
        }
        forget_deleted(&context, &sales);
        if let Err(error) = orphans.check(&context, &sales).await {
            tracing::warn!(%error, "failed to check the sales without a FlashSale");
            context.metrics.failed(error.label());
        }
    }
}

/// What is kept of FlashSales ends with them.
fn forget_deleted(context: &Context, sales: &FlashSales) {
    let present = sales.keys();
    context.cache.keep(&present);
    context.metrics.keep(&present);
}

impl Orphans {
    async fn check(&mut self, context: &Context, sales: &FlashSales) -> Result<(), ReconcileError> {
        let release = &context.release;
        let unfinished = context.connections.ledger()?.unfinished_sales(&release.class).await?;
        let keys: HashSet<SaleKey> = unfinished.iter().map(key).collect();
        sales.forget_deletions(&keys);
        let ownership = |sale: &Sale| release.cluster.ownership(sale.cluster.as_deref());
        let is_ending = |sale: &Sale| ownership(sale) == Ownership::Ours && sale.state == SaleState::Closed;
        context.cache.note_any_ending(unfinished.iter().any(is_ending));

        let is_running = |sale: &Sale| ownership(sale) == Ownership::Ours && sale.state != SaleState::Closed;
        let running = unfinished.iter().filter(|sale| is_running(sale)).count();
        let is_candidate = |sale: &Sale| matches!(ownership(sale), Ownership::Ours | Ownership::ToTakeOver);
        let candidates = unfinished.into_iter().filter(is_candidate);
        let orphans: Vec<Orphan> = candidates.filter_map(|sale| orphan(context, sales, sale)).collect();
        let lost: Vec<&Orphan> = orphans.iter().filter(|orphan| is_running(&orphan.sale)).collect();
        note_unexplained(context, &lost);
        self.update_deletions(context, &lost, running).await;
        self.ask_for_confirmation(context).await;

        futures::stream::iter(&orphans)
            .for_each_concurrent(MAX_CONCURRENT_ORPHANS, async |orphan| {
                let deletion = self.deletions.of(orphan.sale.id);
                if let Err(error) = reconcile_orphan(context, sales, orphan, deletion).await {
                    tracing::warn!(sale = %key(&orphan.sale), %error, "failed to reconcile a sale without a FlashSale");
                    context.metrics.failed(error.label());
                }
            })
            .await;
        Ok(())
    }

    async fn update_deletions(&mut self, context: &Context, lost: &[&Orphan], running: usize) {
        let mut missing = Vec::new();
        for Orphan { sale, missing: found } in lost {
            let is_open_question = matches!(self.deletions.of(sale.id), Deletion::NotSeen | Deletion::HeldBack);
            let namespace_ends =
                found.deletion_seen && is_open_question && self.namespace_ends(context, &sale.namespace).await;
            missing.push(MissingSale {
                sale: sale.id,
                deletion_seen: found.deletion_seen,
                namespace_ends,
            });
        }
        self.deletions.update(&missing, running, context.now());
    }

    /// Whether a namespace is being deleted or gone. If that can't be read, it is not.
    async fn namespace_ends(&mut self, context: &Context, namespace: &str) -> bool {
        if let Some((ends, at)) = self.namespaces.get(namespace)
            && at.elapsed() < READ_INTERVAL
        {
            return *ends;
        }
        let namespaces: Api<Namespace> = Api::all(context.cluster.kube.clone());
        let ends = match namespaces.get_metadata(namespace).await {
            Ok(found) => found.metadata.deletion_timestamp.is_some(),
            Err(kube::Error::Api(status)) => status.code == 404,
            Err(_) => false,
        };
        self.namespaces.insert(namespace.to_owned(), (ends, Instant::now()));
        ends
    }

    /// Announces a mass deletion, and looks for the confirmation of a person.
    async fn ask_for_confirmation(&mut self, context: &Context) {
        let Some(held) = self.deletions.held_back() else {
            self.announced = None;
            return;
        };
        let is_news = self.announced.as_ref() != Some(&held.token);
        let read_lately = self.lease_read_at.is_some_and(|at| at.elapsed() < READ_INTERVAL);
        if !is_news && read_lately {
            return;
        }
        let release_lease = &context.release.lease;
        let leases: Api<Lease> = Api::namespaced(context.cluster.kube.clone(), &release_lease.namespace);
        let lease = match leases.get(&release_lease.name).await {
            Ok(lease) => lease,
            Err(error) => return tracing::warn!(%error, "failed to read the Lease for a confirmation"),
        };
        self.lease_read_at = Some(Instant::now());
        let confirmation = lease.annotations().get(CONFIRMATION_ANNOTATION);
        if confirmation.is_some_and(|token| self.deletions.confirm(token)) {
            tracing::info!(
                token = held.token,
                sales = held.sales.len(),
                "a mass deletion was confirmed"
            );
            return;
        }
        if is_news {
            announce(context, &lease, &held).await;
            self.announced = Some(held.token);
        }
    }
}

fn key(sale: &Sale) -> SaleKey {
    SaleKey::new(&sale.namespace, &sale.name)
}

/// A sale whose FlashSale is missing. While a namespace is not known, a FlashSale that seems to be missing may exist; what
/// the row says of its deletion is known even then.
fn orphan(context: &Context, sales: &FlashSales, sale: Sale) -> Option<Orphan> {
    let is_known = sales.are_known(&sale.namespace) || sale.missing_since_ms.is_some();
    if !context.release.namespaces.contain(&sale.namespace) || !is_known {
        return None;
    }
    let missing = sales.missing(&sale.class, &key(&sale))?;
    Some(Orphan { sale, missing })
}

/// Sales that run although nothing shows their FlashSale: somebody should know, and their pods must stay.
fn note_unexplained(context: &Context, lost: &[&Orphan]) {
    let unexplained = lost.iter().filter(|orphan| orphan.sale.missing_since_ms.is_none());
    context.metrics.sales_without_flash_sale(unexplained.clone().count());
    let any_selling = unexplained.clone().any(|orphan| orphan.sale.live_epoch.is_some());
    context.cache.note_any_selling_orphan(any_selling);
}

async fn announce(context: &Context, lease: &Lease, held: &MassDeletion) {
    let (count, token) = (held.sales.len(), &held.token);
    let release_lease = &context.release.lease;
    tracing::warn!(token, sales = ?held.sales, "a mass deletion of FlashSales is held back");
    let note = format!(
        "{count} FlashSales were deleted within a minute. Their sales go on until their ends. To end them earlier: kubectl \
         annotate lease {} -n {} --overwrite {CONFIRMATION_ANNOTATION}={token}",
        release_lease.name, release_lease.namespace
    );
    let event = Event {
        type_: EventType::Warning,
        reason: "MassDeletionHeldBack".to_owned(),
        note: Some(note),
        // Events of the same action are only counted, and would keep an old token.
        action: format!("Confirm-{token}"),
        secondary: None,
    };
    if let Err(error) = context.cluster.recorder.publish(&event, &lease.object_ref(&())).await {
        tracing::warn!(%error, "failed to write an event of the Lease");
    }
}

/// Carries out steps until there is something to wait for.
async fn reconcile_orphan(
    context: &Context,
    sales: &FlashSales,
    orphan: &Orphan,
    deletion: Deletion,
) -> Result<(), ReconcileError> {
    let (sale, key) = (&orphan.sale, key(&orphan.sale));
    let (deletion, grace) = match seckill_failpoint::breaks("absence-ends-sales") {
        true => (Deletion::Seen { at: 0 }, 0),
        false => (deletion, context.release.deletion_grace),
    };
    let live = match needs_live_answer(sale, deletion, context.now()) {
        true => ask_api_server(context, sales, sale).await?,
        false => LiveAnswer::Inconclusive,
    };
    let absence = Absence { live, deletion, grace };
    for _ in 0..MAX_STEPS_PER_CHECK {
        let observed = observe(context, &key, None, absence.clone()).await?;
        if !context.term.holds() {
            return Ok(());
        }
        let step = plan(&observed).step;
        if step == Step::Nothing {
            return Ok(());
        }
        // A lost index of a sale without a FlashSale is rebuilt too, and takes a turn like every rebuild.
        let _turn = match step {
            Step::Rebuild { .. } => Some(context.rebuilds.acquire().await),
            _ => None,
        };
        act(&context.connections, &context.cache, &step).await?;
    }
    Ok(())
}

/// Only a live answer counts: never a cache, and never the answer that a resource is not served.
async fn ask_api_server(context: &Context, sales: &FlashSales, sale: &Sale) -> Result<LiveAnswer, kube::Error> {
    let resource = ApiResource::erase::<FlashSale>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.cluster.kube.clone(), &sale.namespace, &resource);
    match api.get(&sale.name).await {
        Ok(object) => Ok(LiveAnswer::Found {
            class: object.data["spec"]["className"].as_str().map(str::to_owned),
            terminating: object.metadata.deletion_timestamp.is_some(),
        }),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let names_object = status.details.as_ref().is_some_and(|details| details.name == sale.name);
            Ok(match names_object {
                true => LiveAnswer::NotFound,
                false => LiveAnswer::Inconclusive,
            })
        }
        Err(kube::Error::Api(status)) if status.code == 403 && may_have_lost_role(context, sales, sale) => {
            Ok(LiveAnswer::ForbiddenAfterDeletion)
        }
        Err(error) => Err(error),
    }
}

/// The Role in a listed namespace is deleted with the namespace.
fn may_have_lost_role(context: &Context, sales: &FlashSales, sale: &Sale) -> bool {
    let is_listed = !context.release.namespaces.0.is_empty();
    is_listed && (sales.saw_deletion(&key(sale)) || sale.missing_since_ms.is_some())
}
