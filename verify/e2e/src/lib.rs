//! What the end-to-end scenarios are told in: a cluster, a release on it, sales, and buyers.
//!
//! Everything goes by kubectl, helm and HTTP, as a user would do it. The environment says where they are:
//!
//! | variable | what |
//! |---|---|
//! | `KUBECONFIG` | the cluster |
//! | `SECKILL_KUBECTL`, `SECKILL_HELM` | the programs; by default those on the PATH |
//! | `SECKILL_INGRESS_URL` | where the ingress answers, for example `http://127.0.0.1:8880` |
//! | `SECKILL_HELM_VALUES` | values of the cluster for the chart `helm/seckill`: image, servers, credentials |
mod buyers;
mod cluster;
mod release;
mod sale;

pub use buyers::{Answer, Api, Crowd, Kind, new_key};
pub use cluster::{Cluster, until};
pub use release::{Release, all_named, chart, text};
pub use sale::{Sale, in_seconds};
