//! The parts of the environment.

/// The part of the environment that a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Redis, MySQL and Kafka.
    Stores,
    /// Redis, MySQL, Kafka and the Kubernetes API server.
    Servers,
    /// The servers, a node that runs pods, and an ingress controller.
    Cluster,
}
