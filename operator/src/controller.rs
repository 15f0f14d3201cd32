//! Which sale is looked at, and when again.
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use seckill_crds::FlashSale;
use seckill_service::shutdown::Shutdown;

use crate::act::ActError;
use crate::facts::Wanted;
use crate::plan::{Step, plan};
use crate::run::Operator;
use crate::status::status;

/// A FlashSale of another version's making harms only itself.
type Guarded = DeserializeGuard<FlashSale>;

/// Sales whose FlashSale is gone are looked for this often.
const ORPHANS: Duration = Duration::from_secs(5);
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Act(#[from] ActError),
    #[error("Kubernetes: {0}")]
    Kube(#[from] kube::Error),
}

impl ReconcileError {
    fn reason(&self) -> &'static str {
        match self {
            ReconcileError::Act(error) => error.reason(),
            ReconcileError::Kube(_) => "kubernetes",
        }
    }
}

/// All FlashSales of the namespaces that are watched.
#[derive(Clone, Default)]
pub struct Sales(Vec<Store<Guarded>>);

impl Sales {
    /// Waits until all are known.
    pub async fn ready(&self) {
        for store in &self.0 {
            // It fails only when the watch has ended, and the process with it.
            let _ = store.wait_until_ready().await;
        }
    }

    pub fn all(&self, class: &str) -> Vec<FlashSale> {
        let stores = self.0.iter().flat_map(Store::state);
        let whole = stores.filter_map(|guarded| guarded.0.as_ref().ok().cloned());
        whole.filter(|sale| sale.spec.class_name == class).collect()
    }

    fn has(&self, namespace: &str, name: &str) -> bool {
        let mut stores = self.0.iter().flat_map(Store::state);
        stores.any(|sale| sale.namespace().as_deref() == Some(namespace) && sale.name_any() == name)
    }
}

/// One controller for each namespace that is watched, or one for all. They run until the process is told to end.
pub fn controllers(
    operator: &Arc<Operator>,
    shutdown: &Shutdown,
) -> (Sales, Vec<impl Future<Output = ()> + Send + 'static>) {
    let namespaces = &operator.namespaces.0;
    let apis: Vec<Api<Guarded>> = if namespaces.is_empty() {
        vec![Api::all(operator.kube.clone())]
    } else {
        namespaces
            .iter()
            .map(|namespace| Api::namespaced(operator.kube.clone(), namespace))
            .collect()
    };
    let mut stores = Vec::new();
    let mut running = Vec::new();
    for api in apis {
        let controller = Controller::new(api, watcher::Config::default());
        stores.push(controller.store());
        let (shutdown, operator) = (shutdown.clone(), operator.clone());
        running.push(async move {
            controller
                .with_config(kube::runtime::controller::Config::default().concurrency(16))
                .graceful_shutdown_on(async move { shutdown.cancelled().await })
                .run(reconcile, after_failure, operator)
                .for_each(|_| std::future::ready(()))
                .await;
        });
    }
    (Sales(stores), running)
}

async fn reconcile(object: Arc<Guarded>, operator: Arc<Operator>) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => object,
        Err(invalid) => {
            tracing::warn!(sale = invalid.metadata.name, error = %invalid.error, "a FlashSale that can't be understood");
            return Ok(Action::await_change());
        }
    };
    if object.spec.class_name != operator.class {
        return Ok(Action::await_change());
    }
    operator.metrics.reconciled();
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    // Deleted with a foreign finalizer: it is still served, and yet it is to go.
    let wanted = object.metadata.deletion_timestamp.is_none().then(|| Wanted::of(object));
    let facts = operator
        .facts(&namespace, &name, wanted)
        .await
        .map_err(ActError::from)?;
    let plan = plan(&facts);
    operator.memory.note_ending(facts.sale.as_ref());
    operator.metrics.sample(object, &facts);
    let acted = operator.act(&namespace, &name, &facts, &plan).await;
    let told = status(object, &facts, &plan);
    operator.write_status(object, told.clone()).await?;
    operator.tell(object, &told, &facts, acted?).await;
    Ok(match (plan.step, plan.look_again) {
        (Step::Nothing, Some(duration)) => Action::requeue(duration),
        (Step::Nothing, None) => Action::await_change(),
        (Step::Rebuild | Step::Close, _) => Action::requeue(Duration::from_millis(100)),
        // The facts have changed.
        (_, _) => Action::requeue(Duration::from_millis(10)),
    })
}

fn after_failure(object: Arc<Guarded>, error: &ReconcileError, operator: Arc<Operator>) -> Action {
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), %error, "a look at a sale failed");
    operator.metrics.failed(error.reason());
    Action::requeue(AFTER_A_FAILURE + seckill_service::retry::full_jitter(3))
}

/// Ends the sales whose FlashSale was deleted: the ledger knows them, so no finalizer holds a namespace up.
pub async fn orphans(operator: Arc<Operator>, sales: Sales, shutdown: Shutdown) {
    sales.ready().await;
    let mut every = tokio::time::interval(ORPHANS);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = every.tick() => {}
        }
        let unsettled = match operator.ledger.unsettled_sales(&operator.class).await {
            Ok(unsettled) => unsettled,
            Err(error) => {
                tracing::warn!(%error, "the ledger's unsettled sales can't be read");
                continue;
            }
        };
        for sale in unsettled {
            if !operator.namespaces.contain(&sale.namespace) || sales.has(&sale.namespace, &sale.name) {
                continue;
            }
            if let Err(error) = end_if_gone(&operator, &sale.namespace, &sale.name).await {
                tracing::warn!(namespace = sale.namespace, name = sale.name, %error, "a sale without a FlashSale can't be ended");
            }
        }
    }
}

/// Only a live answer that this one object is not there counts: never a cache, a refusal, or a resource that is not served.
async fn end_if_gone(operator: &Operator, namespace: &str, name: &str) -> Result<(), ReconcileError> {
    let api: Api<FlashSale> = Api::namespaced(operator.kube.clone(), namespace);
    let gone = match api.get_metadata(name).await {
        Ok(_) => false,
        Err(kube::Error::Api(status)) => {
            status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name)
        }
        Err(error) => return Err(error.into()),
    };
    if !gone {
        return Ok(());
    }
    for _ in 0..50 {
        let facts = operator.facts(namespace, name, None).await.map_err(ActError::from)?;
        let plan = plan(&facts);
        operator.memory.note_ending(facts.sale.as_ref());
        operator.act(namespace, name, &facts, &plan).await?;
        match (plan.step, plan.look_again) {
            (Step::Nothing, None) => return Ok(()),
            (Step::Nothing, Some(duration)) => tokio::time::sleep(duration).await,
            _ => {}
        }
    }
    Ok(())
}
