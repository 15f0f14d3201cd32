//! The Redis that the tests share.
use seckill_stock::StockClient;

use crate::common::account_rules;

/// The address from `cargo xtask test integration`.
pub fn redis_url() -> String {
    std::env::var("SECKILL_TEST_REDIS_URL").expect("SECKILL_TEST_REDIS_URL; run `cargo xtask test integration`")
}

/// With the account of examples/redis.acl, so everything that is tested here works with its rights.
pub async fn connect() -> StockClient {
    let (url, password) = (redis_url(), "change-me");
    let client = redis::Client::open(url.as_str()).expect("a URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis answers");
    let mut account = redis::cmd("ACL");
    account.arg("SETUSER").arg(account_rules());
    let () = account.query_async(&mut redis).await.expect("an account");
    let (_, server) = url.rsplit_once(['@', '/']).expect("a URL");
    let url = format!("redis://seckill:{password}@{server}");
    StockClient::connect(&url).await.expect("Redis answers")
}
