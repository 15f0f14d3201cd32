//! Sales, from their manifest to their end.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seckill_e2e::{
    ApiResponse, Crowd, PurchaseResult, Release, Sale, Scenario, in_seconds, new_key, text_field, wait_until,
    wait_until_stored,
};

pub const SCENARIOS: &[Scenario] = &[
    (
        "a_sale_goes_from_its_manifest_to_settled",
        a_sale_goes_from_its_manifest_to_settled,
    ),
    (
        "a_sale_with_a_start_in_the_past_opens_at_once",
        a_sale_with_a_start_in_the_past_opens_at_once,
    ),
    (
        "a_sale_that_has_ended_settles_empty",
        a_sale_that_has_ended_settles_empty,
    ),
    ("two_concurrent_sales_share_nothing", two_concurrent_sales_share_nothing),
    ("deleting_an_open_sale_closes_it", deleting_an_open_sale_closes_it),
    (
        "a_suspended_sale_sells_nothing_until_it_is_resumed",
        a_suspended_sale_sells_nothing,
    ),
    (
        "raised_stock_and_cancelled_units_are_sold",
        raised_stock_and_cancelled_units_are_sold,
    ),
    (
        "no_sold_unit_is_lost_when_the_api_pods_are_killed",
        no_sold_unit_is_lost_when_the_api_pods_are_killed,
    ),
];

/// Generous, for a busy machine. Nothing waits longer than necessary.
pub const WAIT_LIMIT: Duration = Duration::from_secs(120);

fn a_sale_goes_from_its_manifest_to_settled(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let mut manifest = Sale::manifest(&release.class, &namespace, "whole", 20, 60, 660);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    let path = format!("{namespace}/whole");

    sale.wait_for_phase("Ready", WAIT_LIMIT)?;
    let early = release.api.buy_until_final(&path)?;
    ensure!(
        early.result() == PurchaseResult::NotStarted,
        "before the start: {early:?}"
    );
    ensure!(early.body["starts_at"].is_string(), "the start is missing: {early:?}");

    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let crowd = Crowd::buy(&release.api, &path, 60);
    crowd.check_winners(20, 60)?;
    for number in crowd.order_numbers() {
        let order = release.api.get(&format!("/v1/orders/{number}"))?;
        ensure!(
            order.status == 200 && order.body["order_no"] == number.as_str(),
            "{number}: {order:?}"
        );
    }
    sale.wait_for_phase("SoldOut", WAIT_LIMIT)?;

    manifest["spec"]["endsAt"] = in_seconds(1).into();
    release.cluster.apply(&manifest)?;
    sale.wait_for_phase("Ended", WAIT_LIMIT)?;
    check_ended(&release.api.buy_until_final(&path)?)?;
    let status = sale.wait_for_phase("Settled", WAIT_LIMIT)?;
    ensure!(
        status["ledger"]["sold"] == 20 && status["ledger"]["remaining"] == 0,
        "{status}"
    );
    ensure!(
        text_field(&status, "readyAt")? < text_field(&manifest["spec"], "startsAt")?,
        "the sale was ready too late: {status}"
    );
    // Orders can be read after the end.
    for number in crowd.order_numbers().iter().take(3) {
        wait_until_stored(&release.api, number, Instant::now() + WAIT_LIMIT)?;
    }
    Ok(())
}

fn a_sale_with_a_start_in_the_past_opens_at_once(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "late", 5, -60, 600),
    )?;
    sale.wait_for_phase("Open", Duration::from_secs(60))?;
    Crowd::buy(&release.api, &format!("{namespace}/late"), 8).check_winners(5, 8)?;
    sale.delete()
}

fn a_sale_that_has_ended_settles_empty(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "over", 5, -120, -60),
    )?;
    let status = sale.wait_for_phase("Settled", WAIT_LIMIT)?;
    ensure!(status["ledger"]["sold"].as_u64().unwrap_or(0) == 0, "{status}");
    let answer = release.api.buy_until_final(&format!("{namespace}/over"))?;
    ensure!(
        matches!(answer.result(), PurchaseResult::Ended) || answer.status == 404,
        "{answer:?}"
    );
    Ok(())
}

fn two_concurrent_sales_share_nothing(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let manifest = |name: &str, stock| Sale::manifest(&release.class, &namespace, name, stock, -1, 600);
    let first = Sale::apply(&release.cluster, &manifest("first", 10))?;
    let second = Sale::apply(&release.cluster, &manifest("second", 25))?;
    first.wait_for_phase("Open", WAIT_LIMIT)?;
    second.wait_for_phase("Open", WAIT_LIMIT)?;
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| Crowd::buy(&release.api, &format!("{namespace}/first"), 30));
        let two = scope.spawn(|| Crowd::buy(&release.api, &format!("{namespace}/second"), 30));
        (one.join(), two.join())
    });
    let (one, two) = (
        one.ok().context("a crowd panicked")?,
        two.ok().context("a crowd panicked")?,
    );
    one.check_winners(10, 30)?;
    two.check_winners(25, 30)?;
    ensure!(
        one.order_numbers().is_disjoint(&two.order_numbers()),
        "one order number in two sales"
    );
    first.delete()?;
    second.delete()
}

fn deleting_an_open_sale_closes_it(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "gone", 100, -1, 300),
    )?;
    let path = format!("{namespace}/gone");
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let crowd = Crowd::buy(&release.api, &path, 10);
    crowd.check_winners(10, 10)?;
    sale.delete()?;
    wait_until("the sale to be closed", WAIT_LIMIT, || {
        // Scenarios before this one deleted open sales too, so together they may be a mass deletion.
        release.confirm_mass_deletion()?;
        let answer = release.api.buy_until_final(&path)?;
        Ok((answer.result() == PurchaseResult::Ended || answer.status == 404).then_some(()))
    })?;
    // The orders stay.
    wait_until("its orders to be stored", WAIT_LIMIT, || {
        let mut placed = 0;
        for number in crowd.order_numbers() {
            let order = release.api.get(&format!("/v1/orders/{number}"))?;
            placed += usize::from(order.status == 200 && order.body["status"] == "placed");
        }
        Ok((placed == 10).then_some(()))
    })
}

fn a_suspended_sale_sells_nothing(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let mut manifest = Sale::manifest(&release.class, &namespace, "paused", 10, -1, 300);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    let path = format!("{namespace}/paused");
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    manifest["spec"]["suspend"] = true.into();
    release.cluster.apply(&manifest)?;
    wait_until("the sale to be suspended", WAIT_LIMIT, || {
        let answer = release.api.buy(&path, &new_key())?;
        Ok((answer.status == 503 && answer.body["code"] == "suspended").then_some(()))
    })?;
    manifest["spec"]["suspend"] = false.into();
    release.cluster.apply(&manifest)?;
    let answer = release.api.buy_until_final(&path)?;
    ensure!(
        matches!(answer.result(), PurchaseResult::Won | PurchaseResult::SoldOut),
        "after it was resumed: {answer:?}"
    );
    sale.delete()
}

fn raised_stock_and_cancelled_units_are_sold(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let mut manifest = Sale::manifest(&release.class, &namespace, "more", 5, -1, 300);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    let path = format!("{namespace}/more");
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let first = Crowd::buy(&release.api, &path, 8);
    first.check_winners(5, 8)?;
    sale.wait_for_phase("SoldOut", WAIT_LIMIT)?;

    manifest["spec"]["stock"] = 7.into();
    release.cluster.apply(&manifest)?;
    let numbers = first.order_numbers();
    let number = numbers.iter().next().context("nobody has won")?;
    for _ in 0..2 {
        let cancelled = release.api.delete(&format!("/v1/orders/{number}"))?;
        ensure!(matches!(cancelled.status, 200 | 202), "not cancelled: {cancelled:?}");
    }
    // Two units more, and one that was returned.
    wait_until("three units to be left", WAIT_LIMIT, || {
        let shown = release.api.get(&format!("/v1/sales/{path}"))?;
        Ok((shown.body["remaining"] == 3).then_some(()))
    })?;
    Crowd::buy(&release.api, &path, 6).check_winners(3, 6)?;

    manifest["spec"]["stock"] = 5.into();
    let refused = release.cluster.expect_refusal(&manifest)?;
    ensure!(refused.contains("spec.stock: it can only rise"), "{refused}");
    manifest["spec"]["stock"] = 7.into();
    manifest["spec"]["endsAt"] = in_seconds(1).into();
    release.cluster.apply(&manifest)?;
    let status = sale.wait_for_phase("Settled", WAIT_LIMIT)?;
    ensure!(
        status["ledger"]["total"] == 7 && status["ledger"]["sold"] == 7,
        "{status}"
    );
    Ok(())
}

fn no_sold_unit_is_lost_when_the_api_pods_are_killed(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let mut manifest = Sale::manifest(&release.class, &namespace, "killed", 400, -1, 600);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    let path = format!("{namespace}/killed");
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let pods = release.pods("api")?;
    let crowd = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| Crowd::buy(&release.api, &path, 600));
        std::thread::sleep(Duration::from_millis(300));
        let mut args = vec![
            "delete",
            "-n",
            &release.namespace,
            "--grace-period=0",
            "--force",
            "--wait=false",
        ];
        args.extend(pods.iter().map(String::as_str));
        let killed = release.cluster.kubectl(&args);
        killed.and_then(|_| crowd.join().ok().context("the crowd panicked"))
    })?;
    crowd.check_winners(400, 600)?;
    manifest["spec"]["endsAt"] = in_seconds(1).into();
    release.cluster.apply(&manifest)?;
    let status = sale.wait_for_phase("Settled", Duration::from_secs(180))?;
    ensure!(status["ledger"]["sold"] == 400, "{status}");
    for number in crowd.order_numbers().iter().take(50) {
        wait_until_stored(&release.api, number, Instant::now() + WAIT_LIMIT)?;
    }
    Ok(())
}

fn check_ended(answer: &ApiResponse) -> Result<()> {
    ensure!(
        matches!(answer.result(), PurchaseResult::Ended | PurchaseResult::SoldOut),
        "after the end: {answer:?}"
    );
    Ok(())
}
