//! The ledger on a real server: SECKILL_TEST_MYSQL_URL, whose user may create databases.
mod common;
mod sales;
mod store;
