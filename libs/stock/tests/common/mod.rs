//! Support of the tests that need a real Redis.
use seckill_protocol::index::{Index, Terms};
use seckill_protocol::rebuild::BuyerHoldings;
use seckill_protocol::{Epoch, SaleId};
use seckill_stock::{Install, Installed, StockClient, StockError};

/// The words after ACL SETUSER.
pub fn account_rules() -> Vec<&'static str> {
    let rules = include_str!("../../../../examples/redis.acl").lines();
    let rules = rules.filter_map(|line| line.strip_prefix("user ")).next_back();
    rules.expect("an account").split(' ').collect()
}

/// Each test uses its own sale.
pub fn new_sale() -> SaleId {
    SaleId(rand::random())
}

/// Writes holdings of an index that is not in force yet.
pub async fn write(
    client: &StockClient,
    sale: SaleId,
    epoch: Epoch,
    buyers: &[BuyerHoldings],
) -> Result<(), StockError> {
    let mut writer = client.write_holdings(sale, epoch).await?;
    writer.write(buyers).await?;
    writer.finish().await
}

/// Installs an index without holdings and returns the same one as plain data.
pub async fn install(client: &StockClient, sale: SaleId, epoch: Epoch, total: u64, terms: Terms) -> Index {
    let index = Install {
        epoch,
        total,
        left: total,
        holders: 0,
        orders: 0,
        taken: vec![0; terms.tiers.len()],
        terms: terms.clone(),
    };
    assert_eq!(
        client.install(sale, &index).await.expect("Redis answers"),
        Installed::Done
    );
    let rid = client.probe(sale).await.expect("Redis answers").server.rid;
    Index {
        sale,
        epoch,
        rid,
        total,
        left: total,
        seq: 0,
        ever: Some(0),
        adjusted: Some(epoch.0),
        taken: vec![0; terms.tiers.len()],
        terms,
        holdings: Default::default(),
    }
}
