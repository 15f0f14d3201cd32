//! How many connections to MySQL each program opens at most. `max_connections` of the server bounds all pods together: see
//! docs/installation.md.

/// A pod of seckill-api: the catalogue, the heartbeat, and lookups of orders. Purchases need none.
pub const API: u32 = 5;
/// A pod of order-worker: the relay and the adjuster, besides [`WORKER_STORES`].
pub const WORKER: u32 = 2;
/// Concurrent transactions of a pod of order-worker, each of another partition. All pods together have no more of them than
/// the topic has partitions.
pub const WORKER_STORES: u32 = 8;
/// A pod of the operator.
pub const OPERATOR: u32 = 8;
