//! Sales from creation to settlement, against a real Kubernetes API server, Kafka, MySQL and Redis. The operator and
//! order-worker run in the test process.
mod api_server_faults;
mod clocks;
mod deletion;
mod edits;
mod emergency_stop;
mod ends;
mod folder;
mod formats;
mod handover;
mod harness;
mod helm_wait;
mod many_sales;
mod preflight;
mod proxy;
mod rebuild;
mod recovery;
mod redis_server;
mod restore;
mod running;
mod scaling;
mod servers_away;
mod start;
mod switchover;
mod tcp_proxy;
mod tiers;
mod topologies;
