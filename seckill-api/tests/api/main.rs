//! The API over HTTP, on a real Redis, Kafka and MySQL.
mod bad_input;
mod buying;
mod legacy;
mod orders;
mod recovery;
mod sales;
#[allow(dead_code, reason = "shared with the test of the program")]
mod shop;
