//! The whole life of sales, on real servers: Kubernetes' API, Kafka, MySQL, Redis, and the order-worker beside the operator.
mod edits;
mod ends;
mod handover;
mod harness;
mod preflight;
mod proxy;
mod quiet;
mod recovery;
mod running;
mod scaling;
mod start;
mod trouble;
