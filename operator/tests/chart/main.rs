//! The chart: what helm renders, and what a real API server says to it.
mod dashboards;
mod each_value;
mod guard;
mod harness;
mod issuers;
mod keys;
mod monitoring;
mod names;
mod network;
mod openshift;
mod pods;
mod reuse_values;
mod rights;
mod rollback;
mod tls;
mod umbrella;
mod values;
