//! Which cluster this is, among those that may share a ledger.
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use seckill_service::health::Gate;
use seckill_service::retry;
use seckill_service::shutdown::Shutdown;

use crate::args::OwnershipArgs;

/// It exists in each cluster as long as the cluster does, and its UID is not copied by manifests.
const NAMESPACE: &str = "kube-system";

/// The configured identity, or the UID of kube-system; `None`: shutdown.
pub async fn of_cluster(args: &OwnershipArgs, kube: &Client, gate: &Gate, shutdown: &Shutdown) -> Option<String> {
    if let Some(configured) = &args.cluster_identity {
        return Some(configured.0.clone());
    }
    let task = "reading the UID of the namespace kube-system, as SECKILL_CLUSTER_IDENTITY is not set";
    retry::until_ok(task, gate, shutdown, || uid(kube)).await
}

async fn uid(kube: &Client) -> Result<String, String> {
    let namespaces: Api<Namespace> = Api::all(kube.clone());
    let namespace = namespaces.get_metadata(NAMESPACE).await;
    let namespace = namespace.map_err(|error| error.to_string())?;
    namespace.metadata.uid.ok_or_else(|| "it has none".to_owned())
}
