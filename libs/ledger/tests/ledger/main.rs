//! Tests of the ledger with a real MySQL: SECKILL_TEST_MYSQL_URL, whose user may create databases.
mod common;
mod connecting;
mod format;
mod identity;
mod sales;
mod store;
