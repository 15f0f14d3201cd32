//! Support for the end-to-end scenarios: a cluster, a release on it, sales, and buyers. docs/glossary.md defines the terms.
//!
//! Everything goes through kubectl, helm and HTTP, as for a user. Environment variables:
//!
//! | variable | meaning |
//! |---|---|
//! | `KUBECONFIG` | the cluster |
//! | `SECKILL_KUBECTL`, `SECKILL_HELM` | the programs; by default those on the PATH |
//! | `SECKILL_INGRESS_URL` | the address of the ingress, for example `http://127.0.0.1:8880` |
//! | `SECKILL_NODE_ADDRESS` | an address of this machine that pods reach; only for scenarios with an issuer of their own |
//! | `SECKILL_KEYCLOAK` | a Keycloak that pods reach, and the commands that stop and start it, in JSON; only for the slow scenarios |
//! | `SECKILL_DEMO` | the command of a demo on that cluster, as a list in JSON; only for the slow scenarios |
//! | `SECKILL_LOAD` | the program `seckill-load`; only for the scenario of its signed crowd |
//! | `SECKILL_TLS_VALUES`, `SECKILL_TEST_CERTIFICATES` | more values for a release with TLS, and the folder with the CA of the servers; only for the scenarios of that release |
//! | `SECKILL_REPLACED_LOGINS_VALUES`, `SECKILL_ROTATE` | these values with new passwords, and the command that changes the servers, as a list in JSON; only for the scenario that replaces them |
//! | `SECKILL_PLUGIN` | the program `kubectl-seckill`; only for its scenario |
//! | `SECKILL_HELM_VALUES` | values of the cluster for the chart `helm/seckill`: image, servers, credentials |
mod buyers;
mod cluster;
mod concurrent;
mod load;
mod release;
mod sale;

pub use buyers::{ApiClient, ApiResponse, Crowd, PurchaseResult, new_key};
pub use cluster::{Cluster, wait_until};
pub use concurrent::at_the_same_time;
pub use load::{LoadReport, buy_during, wait_until_stored};
pub use release::{Release, chart, check_all_named, repository, text_field};
pub use sale::{Sale, in_seconds};

/// The name of a scenario, and the scenario.
pub type Scenario = (&'static str, fn(&Release) -> anyhow::Result<()>);
