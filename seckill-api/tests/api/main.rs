//! The API over HTTP, on a real Redis, Kafka and MySQL.
mod bad_input;
mod browser;
mod buying;
mod client;
mod connections;
mod cross_origin;
mod format;
mod harness;
mod health;
mod legacy;
mod orders;
mod other_programs;
mod program;
mod proxy;
mod recovery;
mod sales;
mod switchover;
