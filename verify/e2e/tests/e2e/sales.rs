//! Sales, from their manifest to their end.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use seckill_e2e::{Answer, Crowd, Kind, Release, Sale, text};

use super::Scenario;

pub const SCENARIOS: &[Scenario] = &[
    (
        "a_sale_goes_from_its_manifest_to_settled",
        a_sale_goes_from_its_manifest_to_settled,
    ),
    (
        "a_sale_whose_start_is_past_opens_at_once",
        a_sale_whose_start_is_past_opens_at_once,
    ),
    (
        "a_sale_that_has_ended_settles_empty",
        a_sale_that_has_ended_settles_empty,
    ),
    ("two_sales_at_once_share_nothing", two_sales_at_once_share_nothing),
    (
        "deleting_a_sale_in_its_middle_closes_it",
        deleting_a_sale_in_its_middle_closes_it,
    ),
    (
        "a_suspended_sale_sells_nothing_until_it_is_resumed",
        a_suspended_sale_sells_nothing,
    ),
    (
        "a_raised_stock_and_a_cancelled_order_are_sold_again",
        a_raised_stock_and_a_cancelled_order_are_sold_again,
    ),
    (
        "no_sold_unit_is_lost_when_the_api_pods_are_killed",
        no_sold_unit_is_lost_when_the_api_pods_are_killed,
    ),
];

/// Long, for a machine that does other things too; nothing waits longer than it must.
const LIMIT: Duration = Duration::from_secs(120);

fn a_sale_goes_from_its_manifest_to_settled(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let manifest = Sale::manifest(&release.class, &namespace, "whole", 20, 15, 35);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    let path = format!("{namespace}/whole");

    sale.reaches("Ready", LIMIT)?;
    let early = release.api.buy_surely(&path)?;
    ensure!(early.kind() == Kind::NotStarted, "before the start: {early:?}");
    ensure!(early.body["starts_at"].is_string(), "it does not say when: {early:?}");

    sale.reaches("Open", LIMIT)?;
    let crowd = Crowd::buys(&release.api, &path, 60);
    exactly(&crowd, 20, 60)?;
    for number in crowd.order_numbers() {
        let order = release.api.get(&format!("/v1/orders/{number}"))?;
        ensure!(
            order.status == 200 && order.body["order_no"] == number.as_str(),
            "{number}: {order:?}"
        );
    }
    sale.reaches("SoldOut", LIMIT)?;

    sale.reaches("Ended", LIMIT)?;
    after_the_end(&release.api.buy_surely(&path)?)?;
    let status = sale.reaches("Settled", LIMIT)?;
    ensure!(
        status["ledger"]["sold"] == 20 && status["ledger"]["remaining"] == 0,
        "{status}"
    );
    ensure!(
        text(&status, "readyAt")? < text(&manifest["spec"], "startsAt")?,
        "it was ready too late: {status}"
    );
    // What was sold stays to be asked for.
    for number in crowd.order_numbers().iter().take(3) {
        let order = release.api.get(&format!("/v1/orders/{number}"))?;
        ensure!(
            order.status == 200 && order.body["status"] == "placed",
            "{number}: {order:?}"
        );
    }
    Ok(())
}

fn a_sale_whose_start_is_past_opens_at_once(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "late", 5, -60, 60),
    )?;
    sale.reaches("Open", Duration::from_secs(60))?;
    exactly(&Crowd::buys(&release.api, &format!("{namespace}/late"), 8), 5, 8)?;
    sale.delete()
}

fn a_sale_that_has_ended_settles_empty(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "over", 5, -120, -60),
    )?;
    let status = sale.reaches("Settled", LIMIT)?;
    ensure!(status["ledger"]["sold"].as_u64().unwrap_or(0) == 0, "{status}");
    let answer = release.api.buy_surely(&format!("{namespace}/over"))?;
    ensure!(
        matches!(answer.kind(), Kind::Ended) || answer.status == 404,
        "{answer:?}"
    );
    Ok(())
}

fn two_sales_at_once_share_nothing(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let manifest = |name: &str, stock| Sale::manifest(&release.class, &namespace, name, stock, -1, 60);
    let first = Sale::apply(&release.cluster, &manifest("first", 10))?;
    let second = Sale::apply(&release.cluster, &manifest("second", 25))?;
    first.reaches("Open", LIMIT)?;
    second.reaches("Open", LIMIT)?;
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| Crowd::buys(&release.api, &format!("{namespace}/first"), 30));
        let two = scope.spawn(|| Crowd::buys(&release.api, &format!("{namespace}/second"), 30));
        (one.join(), two.join())
    });
    let (one, two) = (
        one.ok().context("a crowd panicked")?,
        two.ok().context("a crowd panicked")?,
    );
    exactly(&one, 10, 30)?;
    exactly(&two, 25, 30)?;
    ensure!(
        one.order_numbers().is_disjoint(&two.order_numbers()),
        "an order of two sales"
    );
    first.delete()?;
    second.delete()
}

fn deleting_a_sale_in_its_middle_closes_it(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "gone", 100, -1, 300),
    )?;
    let path = format!("{namespace}/gone");
    sale.reaches("Open", LIMIT)?;
    let crowd = Crowd::buys(&release.api, &path, 10);
    exactly(&crowd, 10, 10)?;
    sale.delete()?;
    seckill_e2e::until("the sale to be closed", LIMIT, || {
        let answer = release.api.buy_surely(&path)?;
        Ok((answer.kind() == Kind::Ended || answer.status == 404).then_some(()))
    })?;
    // Its orders stay.
    seckill_e2e::until("its orders to be stored", LIMIT, || {
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
    sale.reaches("Open", LIMIT)?;
    manifest["spec"]["suspend"] = true.into();
    release.cluster.apply(&manifest)?;
    seckill_e2e::until("the sale to be suspended", LIMIT, || {
        let answer = release.api.buy(&path, &seckill_e2e::new_key())?;
        Ok((answer.status == 503 && answer.body["code"] == "suspended").then_some(()))
    })?;
    manifest["spec"]["suspend"] = false.into();
    release.cluster.apply(&manifest)?;
    let answer = release.api.buy_surely(&path)?;
    ensure!(
        matches!(answer.kind(), Kind::Won | Kind::SoldOut),
        "after it was resumed: {answer:?}"
    );
    sale.delete()
}

fn a_raised_stock_and_a_cancelled_order_are_sold_again(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let mut manifest = Sale::manifest(&release.class, &namespace, "more", 5, -1, 300);
    let sale = Sale::apply(&release.cluster, &manifest)?;
    let path = format!("{namespace}/more");
    sale.reaches("Open", LIMIT)?;
    let first = Crowd::buys(&release.api, &path, 8);
    exactly(&first, 5, 8)?;
    sale.reaches("SoldOut", LIMIT)?;

    manifest["spec"]["stock"] = 7.into();
    release.cluster.apply(&manifest)?;
    let numbers = first.order_numbers();
    let number = numbers.iter().next().context("somebody has won")?;
    for _ in 0..2 {
        let cancelled = release.api.delete(&format!("/v1/orders/{number}"))?;
        ensure!(
            matches!(cancelled.status, 200 | 202),
            "it is not cancelled: {cancelled:?}"
        );
    }
    // Two more, and one again.
    seckill_e2e::until("three units to be left", LIMIT, || {
        let shown = release.api.get(&format!("/v1/sales/{path}"))?;
        Ok((shown.body["remaining"] == 3).then_some(()))
    })?;
    exactly(&Crowd::buys(&release.api, &path, 6), 3, 6)?;

    manifest["spec"]["stock"] = 5.into();
    let refused = release.cluster.refused(&manifest)?;
    ensure!(refused.contains("spec.stock: it can only rise"), "{refused}");
    manifest["spec"]["stock"] = 7.into();
    manifest["spec"]["endsAt"] = seckill_e2e::in_seconds(1).into();
    release.cluster.apply(&manifest)?;
    let status = sale.reaches("Settled", LIMIT)?;
    ensure!(
        status["ledger"]["total"] == 7 && status["ledger"]["sold"] == 7,
        "{status}"
    );
    Ok(())
}

fn no_sold_unit_is_lost_when_the_api_pods_are_killed(release: &Release) -> Result<()> {
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "killed", 400, -1, 60),
    )?;
    let path = format!("{namespace}/killed");
    sale.reaches("Open", LIMIT)?;
    let pods = release.pods("api")?;
    let crowd = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| Crowd::buys(&release.api, &path, 600));
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
    exactly(&crowd, 400, 600)?;
    let status = sale.reaches("Settled", Duration::from_secs(180))?;
    ensure!(status["ledger"]["sold"] == 400, "{status}");
    for number in crowd.order_numbers().iter().take(50) {
        let order = release.api.get(&format!("/v1/orders/{number}"))?;
        ensure!(
            order.status == 200 && order.body["status"] == "placed",
            "{number}: {order:?}"
        );
    }
    Ok(())
}

/// So many winners, each with a number of its own, and all others were told that it is sold out.
pub fn exactly(crowd: &Crowd, winners: usize, buyers: usize) -> Result<()> {
    ensure!(crowd.failures.is_empty(), "unanswered: {:?}", crowd.failures);
    let counts = (crowd.count(Kind::Won), crowd.count(Kind::SoldOut));
    let others: Vec<_> = crowd
        .answers
        .iter()
        .filter(|a| !matches!(a.kind(), Kind::Won | Kind::SoldOut))
        .collect();
    ensure!(
        counts == (winners, buyers - winners),
        "{counts:?} won and sold out; others: {others:?}"
    );
    ensure!(
        crowd.order_numbers().len() == winners,
        "{} different numbers",
        crowd.order_numbers().len()
    );
    Ok(())
}

fn after_the_end(answer: &Answer) -> Result<()> {
    ensure!(
        matches!(answer.kind(), Kind::Ended | Kind::SoldOut),
        "after the end: {answer:?}"
    );
    Ok(())
}
