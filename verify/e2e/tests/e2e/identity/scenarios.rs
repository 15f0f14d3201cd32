//! What a shop may rely on, whatever its issuer is.
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use seckill_e2e::{ApiClient, ApiResponse, PurchaseResult, at_the_same_time, new_key, wait_until};
use seckill_test_issuer::{Key, token};
use serde_json::{Value, json};

use super::issuer::BUYERS;
use super::shop::{Fetches, Scenario, Shop, WAIT_LIMIT};

/// The rotation comes first: after random key ids, a pod learns no new key for 30 seconds.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    (
        "no_buyer_is_refused_while_keys_rotate_and_the_issuer_is_away",
        no_buyer_is_refused_while_keys_rotate_and_the_issuer_is_away,
    ),
    (
        "a_limit_counts_the_units_of_all_tokens_of_a_buyer",
        a_limit_counts_the_units_of_all_tokens_of_a_buyer,
    ),
    (
        "gold_buys_before_the_start_and_leaves_the_units_of_others",
        gold_buys_before_the_start_and_leaves_the_units_of_others,
    ),
    (
        "only_its_buyer_sees_and_cancels_an_order",
        only_its_buyer_sees_and_cancels_an_order,
    ),
    ("a_forged_token_buys_nothing", a_forged_token_buys_nothing),
    (
        "random_key_ids_cause_few_fetches_of_keys",
        random_key_ids_cause_few_fetches_of_keys,
    ),
];

fn no_buyer_is_refused_while_keys_rotate_and_the_issuer_is_away(shop: &Shop) -> Result<()> {
    let sale = shop.sale("rotation", 2000, None)?;
    let path = shop.path(&sale);
    let crowd = || -> Result<Vec<ApiClient>> { (0..BUYERS).map(|buyer| shop.buyer(buyer)).collect() };
    let old = crowd()?;
    buy_each(shop, &path, &old)?;

    let before = shop.fetches()?;
    shop.issuer.rotate_keys()?;
    let new = crowd()?;
    buy_each(shop, &path, &new)?;
    // Otherwise, a pod would not know the new key while the issuer is away.
    let known = shop.fetches()?;
    ensure!(
        before
            .iter()
            .zip(&known)
            .all(|(before, now)| now.succeeded > before.succeeded),
        "a pod has not fetched the new key: {before:?}, then {known:?}"
    );

    shop.issuer.stop()?;
    let during = buy_while_the_issuer_is_away(shop, &path, &known, &[&old, &new]);
    shop.issuer.start()?;
    during.context("while the issuer was away")?;
    buy_each(shop, &path, &crowd()?)?;
    sale.delete()
}

/// Until the time of the outage is over, and each pod has failed to fetch keys.
fn buy_while_the_issuer_is_away(shop: &Shop, path: &str, known: &[Fetches], crowds: &[&[ApiClient]]) -> Result<()> {
    const EVERY: Duration = Duration::from_secs(5);
    /// A buyer can have 32 orders, and has 2 already.
    const ROUNDS: u32 = 14;
    let away = Instant::now();
    for round in 1..=ROUNDS {
        // Tokens with unknown keys make the pods ask the issuer.
        send_unknown_keys(shop, path, 32)?;
        for crowd in crowds {
            buy_each(shop, path, crowd)?;
        }
        let now = shop.fetches()?;
        let all_failed = known.iter().zip(&now).all(|(known, now)| now.failed > known.failed);
        if all_failed && away.elapsed() >= shop.outage {
            return Ok(());
        }
        thread::sleep((EVERY * round).saturating_sub(away.elapsed()));
    }
    bail!("after {:?}: {known:?}, then {:?}", away.elapsed(), shop.fetches()?)
}

/// Each token has another key that the issuer does not have. A pod whose last fetch failed can't know that.
fn send_unknown_keys(shop: &Shop, path: &str, count: usize) -> Result<()> {
    const EXPECTED: [&str; 2] = ["token_unknown_key", "issuer_unavailable"];
    at_the_same_time(count, |_| {
        let header = json!({"alg": "RS256", "kid": new_key()});
        let claims = json!({"iss": shop.issuer.url(), "aud": "seckill", "sub": "somebody"});
        let forged = shop.release.api.with_token(&token(&header, &claims, |_| vec![0; 256]));
        let answer = forged.buy(path, "any-key")?;
        ensure!(EXPECTED.contains(&answer.code()), "{answer:?}");
        Ok(())
    })
}

/// Each buyer buys one unit.
fn buy_each(shop: &Shop, path: &str, buyers: &[ApiClient]) -> Result<()> {
    at_the_same_time(buyers.len(), |number| {
        let answer = shop.buy(&buyers[number], path)?;
        Shop::check_bought(&answer).with_context(|| format!("buyer {number}"))
    })
}

/// The first buyer is gold.
fn gold_buys_before_the_start_and_leaves_the_units_of_others(shop: &Shop) -> Result<()> {
    let gold = json!({"name": "gold", "values": ["gold"], "opensBeforeSeconds": 7200, "limitPerBuyer": 3});
    let fields = json!({"limitPerBuyer": 1, "tiers": [gold], "reservedForGeneral": 2});
    let sale = shop.sale_with("tiers", 4, 3600, &fields)?;
    let path = shop.path(&sale);
    let (gold, general) = (shop.buyer(0)?, shop.buyer(1)?);
    let early = shop.buy(&general, &path)?;
    ensure!((early.status, early.code()) == (409, "not_started"), "{early:?}");
    for _ in 0..2 {
        Shop::check_bought(&shop.buy(&gold, &path)?)?;
    }
    let kept = shop.buy(&gold, &path)?;
    ensure!((kept.status, kept.code()) == (409, "sold_out"), "{kept:?}");
    ensure!(
        kept.body["reserved_until"].is_string() && kept.body["remaining"] == 0,
        "{kept:?}"
    );
    sale.delete()
}

fn a_limit_counts_the_units_of_all_tokens_of_a_buyer(shop: &Shop) -> Result<()> {
    let sale = shop.sale("limit", 100, Some(2))?;
    let path = shop.path(&sale);
    let (first, second) = (shop.buyer(0)?, shop.buyer(0)?);
    let key = "of-this-buyer";
    let bought = final_answer(&first, &path, key)?;
    Shop::check_bought(&bought)?;
    // A retry with another token is the same purchase.
    let again = final_answer(&second, &path, key)?;
    ensure!(
        again.status == 201 && again.body["order_no"] == bought.body["order_no"],
        "{bought:?}, then {again:?}"
    );
    Shop::check_bought(&shop.buy(&second, &path)?)?;
    for buyer in [&first, &second] {
        let answer = shop.buy(buyer, &path)?;
        ensure!((answer.status, answer.code()) == (409, "limit_reached"), "{answer:?}");
    }
    // The same key of another buyer is another purchase.
    let other = final_answer(&shop.buyer(1)?, &path, key)?;
    Shop::check_bought(&other)?;
    ensure!(other.body["order_no"] != bought.body["order_no"], "{other:?}");

    // A cancelled order counts no more.
    cancel(&second, &bought)?;
    wait_until("the cancelled unit not to count", WAIT_LIMIT, || {
        let answer = shop.buy(&first, &path)?;
        Ok((answer.result() == PurchaseResult::Won).then_some(()))
    })?;
    sale.delete()
}

fn only_its_buyer_sees_and_cancels_an_order(shop: &Shop) -> Result<()> {
    let sale = shop.sale("orders", 100, None)?;
    let path = shop.path(&sale);
    let (owner, owner_again, other) = (shop.buyer(2)?, shop.buyer(2)?, shop.buyer(3)?);
    let key = new_key();
    let bought = final_answer(&owner, &path, &key)?;
    Shop::check_bought(&bought)?;
    let order = order_path(&bought)?;

    let check_others = || -> Result<()> {
        for (answer, code) in [
            (other.get(&order)?, "order_unknown"),
            (other.delete(&order)?, "order_unknown"),
            (other.result_of(&path, &key)?, "request_unknown"),
        ] {
            ensure!(
                (answer.status, answer.code()) == (404, code),
                "another buyer: {answer:?}"
            );
        }
        let nobody = &shop.release.api;
        for answer in [
            nobody.get(&order)?,
            nobody.delete(&order)?,
            nobody.result_of(&path, &key)?,
        ] {
            ensure!(
                (answer.status, answer.code()) == (401, "token_missing"),
                "without a token: {answer:?}"
            );
        }
        Ok(())
    };
    // The order is in the index only, at first, and later in the ledger.
    check_others()?;
    wait_until("the order to be stored", WAIT_LIMIT, || {
        Ok((owner.get(&order)?.body["status"] == "placed").then_some(()))
    })?;
    check_others()?;
    for answer in [owner_again.get(&order)?, owner_again.result_of(&path, &key)?] {
        ensure!(
            answer.status == 200 && answer.body["order_no"] == bought.body["order_no"],
            "its buyer: {answer:?}"
        );
    }
    cancel(&owner_again, &bought)?;
    wait_until("the order to be cancelled", WAIT_LIMIT, || {
        Ok((owner.get(&order)?.body["status"] == "cancelled").then_some(()))
    })?;
    sale.delete()
}

fn a_forged_token_buys_nothing(shop: &Shop) -> Result<()> {
    let sale = shop.sale("forged", 10, None)?;
    let path = shop.path(&sale);
    let valid = shop.issuer.token(4)?;
    let (header, claims) = (part(&valid, 0)?, part(&valid, 1)?);
    let mut other_buyer = claims.clone();
    other_buyer["sub"] = json!("somebody-else");
    let signature = valid.rsplit('.').next().unwrap_or_default().to_owned();
    let changed = token(&header, &other_buyer, |_| {
        URL_SAFE_NO_PAD.decode(&signature).unwrap_or_default()
    });
    let id = header["kid"].as_str().context("the token names its key")?;
    let own_key = if header["alg"] == "RS256" {
        Key::rsa(id)
    } else {
        Key::ec(id)
    };
    let unsigned = token(&json!({"alg": "none", "kid": id}), &claims, |_| Vec::new());

    let buy = |token: &str| shop.release.api.with_token(token).buy(&path, &new_key());
    for (what, answer, code) in [
        ("no token", shop.release.api.buy(&path, &new_key())?, "token_missing"),
        ("another subject", buy(&changed)?, "token_bad_signature"),
        (
            "the key of somebody else",
            buy(&own_key.token_with(&header, &claims))?,
            "token_bad_signature",
        ),
        ("no signature", buy(&unsigned)?, "token_algorithm_refused"),
        (
            "another audience",
            buy(&shop.issuer.token_of_other_audience(4)?)?,
            "token_wrong_audience",
        ),
    ] {
        ensure!((answer.status, answer.code()) == (401, code), "{what}: {answer:?}");
        let challenge = answer.challenge.as_deref().unwrap_or_default();
        let expected = match code {
            "token_missing" => "Bearer",
            _ => "Bearer error=\"invalid_token\"",
        };
        ensure!(challenge.starts_with(expected), "{what}: {answer:?}");
    }
    Shop::check_bought(&shop.buy(&shop.release.api.with_token(&valid), &path)?)?;
    wait_until("one unit to be sold", WAIT_LIMIT, || {
        let shown = shop.release.api.get(&format!("/v1/sales/{path}"))?;
        let remaining = shown.body["remaining"].as_u64();
        ensure!(
            remaining.is_none_or(|left| left >= 9),
            "a forged token has bought: {shown:?}"
        );
        Ok((remaining == Some(9)).then_some(()))
    })?;
    sale.delete()
}

fn random_key_ids_cause_few_fetches_of_keys(shop: &Shop) -> Result<()> {
    const TOKENS: usize = 10_000;
    /// Unknown keys cause one fetch of a pod in this time.
    const INTERVAL: Duration = Duration::from_secs(30);
    let sale = shop.sale("flood", 100, None)?;
    let path = shop.path(&sale);
    let (started, before) = (Instant::now(), shop.fetches()?);
    send_unknown_keys(shop, &path, TOKENS)?;
    let after = shop.fetches()?;
    // One at once, and the regular one may be due.
    let most = started.elapsed().as_secs() / INTERVAL.as_secs() + 2;
    ensure!(
        before.len() == after.len(),
        "the pods have changed: {before:?}, then {after:?}"
    );
    let fetches = |(before, after): (&Fetches, &Fetches)| after.all() - before.all();
    let fetches: Vec<_> = before.iter().zip(&after).map(fetches).collect();
    ensure!(
        fetches.iter().all(|fetches| *fetches <= most),
        "{fetches:?} fetches of the pods in {:?}",
        started.elapsed()
    );
    // Buyers notice nothing.
    buy_each(shop, &path, &[shop.buyer(5)?])?;
    sale.delete()
}

/// One purchase with this key, until its answer is final.
fn final_answer(buyer: &ApiClient, path: &str, key: &str) -> Result<ApiResponse> {
    wait_until("a final answer", WAIT_LIMIT, || {
        let answer = buyer.buy(path, key)?;
        Ok((answer.result() != PurchaseResult::Open).then_some(answer))
    })
}

fn order_path(bought: &ApiResponse) -> Result<String> {
    let number = bought.body["order_no"].as_str().context("no order number")?;
    Ok(format!("/v1/orders/{number}"))
}

fn cancel(buyer: &ApiClient, bought: &ApiResponse) -> Result<()> {
    let answer = buyer.delete(&order_path(bought)?)?;
    ensure!(matches!(answer.status, 200 | 202), "not cancelled: {answer:?}");
    Ok(())
}

/// The header (0) or the claims (1) of a token.
fn part(token: &str, number: usize) -> Result<Value> {
    let text = token.split('.').nth(number).context("not a token")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text)?)?)
}
