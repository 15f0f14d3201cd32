//! What happens to the FlashSales: deleted, lost, or those of another cluster.
use std::time::Duration;

use anyhow::Result;
use seckill_crds::Phase;

use crate::context::{FaultSale, RunContext};
use crate::crowd::MAIN_SALE;
use crate::flash_sales::NAMESPACE;
use crate::harness::Target;

/// Longer than a FlashSale has to be missing before an operator does anything about it.
const MISSING_DURATION: Duration = Duration::from_secs(8);
/// The same, with the time that an operator needs to become the leader.
const OTHER_OPERATOR_DURATION: Duration = Duration::from_secs(15);
/// How many sales are deleted at once, besides the main one.
const DELETED_SALES: usize = 4;

/// A second cluster without FlashSales has an operator of the same class with the same databases.
pub async fn other_operator(run: &mut RunContext) -> Result<String> {
    run.harness.start_other_cluster(NAMESPACE).await?;
    run.harness.run_for(OTHER_OPERATOR_DURATION).await?;
    run.harness.stop_other_cluster()?;
    let seconds = OTHER_OPERATOR_DURATION.as_secs();
    Ok(format!(
        "an operator of an empty cluster ran for {seconds} s with the same databases"
    ))
}

/// One FlashSale is deleted, and created again within the grace: its sale goes on.
pub async fn delete_one_and_create_again(run: &mut RunContext) -> Result<String> {
    let sale = FaultSale::lasting(40);
    let name = run.open_sale("deleted", sale).await?;
    delete_and_create_again(run, std::slice::from_ref(&name)).await?;
    let again = run.history.now();
    run.wait_for_phase(&name, &[Phase::Open]).await?;
    run.harness.run_for(Duration::from_secs(2)).await?;
    if run.history.winners_since(&name, again, 1).is_empty() {
        run.unrecovered
            .push(format!("{name} did not sell again after its FlashSale came back"));
    }
    let seconds = MISSING_DURATION.as_secs();
    Ok(format!(
        "deleted the FlashSale {name} and created it again {seconds} s later"
    ))
}

/// Most FlashSales that sell are deleted at once, and created again within the grace.
pub async fn delete_many_and_create_again(run: &mut RunContext) -> Result<String> {
    let _no_creation = run.sale_creation.clone().lock_owned().await;
    let sale = FaultSale::lasting(40);
    let mut names = Vec::new();
    for _ in 0..DELETED_SALES {
        names.push(run.create_sale("deleted", &sale).await?);
    }
    for name in &names {
        run.wait_for_phase(name, &[Phase::Open]).await?;
        run.start_buyers(name, &sale);
    }
    names.push(MAIN_SALE.to_owned());
    delete_and_create_again(run, &names).await?;
    let (count, seconds) = (names.len(), MISSING_DURATION.as_secs());
    Ok(format!(
        "deleted {count} FlashSales and created them again {seconds} s later"
    ))
}

async fn delete_and_create_again(run: &mut RunContext, names: &[String]) -> Result<()> {
    let manifests = run.sales.delete(names).await?;
    run.harness.run_for(MISSING_DURATION).await?;
    run.sales.create_again(&manifests).await
}

/// etcd comes back as it was before a sale was created, so the FlashSale is missing. The sale goes on.
pub async fn restore_etcd(run: &mut RunContext) -> Result<String> {
    let _no_creation = run.sale_creation.clone().lock_owned().await;
    run.harness.etcd.copy_data()?;
    let sale = run.open_sale("restored", FaultSale::lasting(30)).await?;
    run.harness.run_for(Duration::from_secs(2)).await?;
    run.harness.api_server.kill()?;
    run.harness.etcd.kill_and_restore_data()?;
    run.harness.restart_cluster().await?;
    // As the manual of Kubernetes says: all components start again, because they may rely on what is no longer there.
    for which in 0..2 {
        run.harness.process(Target::Operator, which).kill()?;
    }
    run.harness.run_for(OTHER_OPERATOR_DURATION).await?;
    Ok(format!("etcd came back as it was before {sale} was created"))
}
