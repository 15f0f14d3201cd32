//! The client of the old demo, through the ingress: it sends no keys, retries nothing, and reads what it always read.
use std::collections::HashSet;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{ApiResponse, Release, Sale, Scenario, at_the_same_time, wait_until};
use serde_json::json;
use uuid::Uuid;

use crate::sales::WAIT_LIMIT;

pub const SCENARIOS: &[Scenario] = &[("the_client_of_the_old_demo_buys_50_units_for_300_buyers", |release| {
    the_old_client_buys(release, 50, 300)
})];

/// `cargo xtask test extended` runs them.
pub const SLOW_SCENARIOS: &[Scenario] = &[(
    "the_client_of_the_old_demo_buys_10000_units_for_20000_buyers",
    |release| the_old_client_buys(release, 10_000, 20_000),
)];

fn the_old_client_buys(release: &Release, units: usize, buyers: usize) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let mut manifest = Sale::manifest(&release.class, &namespace, "old", units as u64, -1, 600);
    // The old client has numbers for items. Sales of other runs may have others.
    let item = u64::from(Uuid::new_v4().as_fields().0);
    manifest["spec"]["item"]["id"] = item.into();
    let sale = Sale::apply(&release.cluster, &manifest)?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;

    // Each pod reads the sales now and then.
    wait_until("the item to be listed", WAIT_LIMIT, || {
        let listed = release.api.get("/items/get-list")?;
        let items = listed.body["items"].as_array().cloned().unwrap_or_default();
        ensure!(
            has_code(&listed, 200, "10000") && items.iter().any(|listed| listed["id"] == item),
            "{listed:?}"
        );
        Ok(Some(()))
    })?;
    let shown = release.api.get(&format!("/items/get-info?id={item}"))?;
    ensure!(
        has_code(&shown, 200, "10000") && shown.body["item"]["name"] == "A thing",
        "{shown:?}"
    );

    let orders = Mutex::new(HashSet::new());
    at_the_same_time(buyers, |_| {
        let answer = release.api.post("/seckill/buy", &json!({"item_id": item}))?;
        if has_code(&answer, 200, "10000") {
            let order = answer.body["order_id"].as_str().context("no order_id")?.to_owned();
            ensure!(
                orders.lock().expect("no buyer panics").insert(order),
                "twice: {answer:?}"
            );
        } else {
            // Both forms that the old client reads.
            ensure!(
                has_code(&answer, 400, "42002") && answer.body["code"] == "42002",
                "{answer:?}"
            );
        }
        Ok(())
    })?;
    let orders = orders.into_inner().expect("no buyer panics");
    ensure!(orders.len() == units, "{} orders", orders.len());
    for order in orders.iter().take(20) {
        wait_until("the order to be stored", WAIT_LIMIT, || {
            let query = json!({"order_id": order});
            let queried = release.api.get_with_body("/seckill/query_order", &query)?;
            ensure!(has_code(&queried, 200, "10000"), "{queried:?}");
            Ok((queried.body["order_status"] == "success").then_some(()))
        })?;
    }
    sale.delete()
}

/// Whether an answer has this status, and this code as the old client reads it.
fn has_code(answer: &ApiResponse, status: u16, code: &str) -> bool {
    answer.status == status && answer.body["status"]["code"] == code
}
