//! Everything that knows Kubernetes.
pub mod client;
pub mod convert;
pub mod events;
pub mod identity;
pub mod lease;
pub mod watch;
pub mod workloads;
