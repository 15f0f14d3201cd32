//! `status`: the sales of a namespace, or one sale.
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use seckill_crds::{FlashSale, FlashSaleStatus, Phase};

use crate::kubectl::Kubectl;
use crate::table::{Table, count};

pub fn all(kubectl: &Kubectl) -> Result<()> {
    let mut sales: Vec<FlashSale> = kubectl.list("flashsales")?;
    sales.sort_by_key(|sale| (sale.spec.starts_at.0, name(sale).to_owned()));
    print!("{}", overview(&sales, Timestamp::now()));
    Ok(())
}

pub fn one(kubectl: &Kubectl, sale: &str) -> Result<()> {
    let sale: FlashSale = kubectl.object("flashsale", sale)?;
    print!("{}", details(&sale, Timestamp::now()));
    Ok(())
}

/// One line for each sale, in the order of their starts.
fn overview(sales: &[FlashSale], now: Timestamp) -> String {
    let mut table = Table::new(
        &["NAMESPACE", "NAME", "PHASE", "STOCK", "SOLD", "LEFT", "NEXT", "PROBLEM"],
        &[3, 4, 5],
    );
    for sale in sales {
        let status = status(sale);
        let units = |units: Option<i64>| units.map_or("-".into(), count);
        let ledger = status.ledger.as_ref();
        table.row(vec![
            namespace(sale).to_owned(),
            name(sale).to_owned(),
            phase(&status),
            count(sale.spec.stock),
            units(ledger.map(|ledger| ledger.sold)),
            units(ledger.map(|ledger| ledger.remaining)),
            next(sale, &status, now),
            problems(&status)
                .first()
                .map_or(String::new(), |condition| condition.reason.clone()),
        ]);
    }
    match table.is_empty() {
        true => "no sales found; -A shows those of all namespaces\n".into(),
        false => table.to_string(),
    }
}

/// Everything that a person wants to know of one sale.
fn details(sale: &FlashSale, now: Timestamp) -> String {
    let (spec, status) = (&sale.spec, status(sale));
    let mut lines = vec![
        format!("{}/{}: {}", namespace(sale), name(sale), phase(&status)),
        format!(
            "  item      {} ({}), {} {}",
            spec.item.name, spec.item.sku, spec.item.price, spec.item.currency
        ),
        format!("  starts    {}", at(&spec.starts_at, now)),
        format!("  ends      {}", at(&spec.ends_at, now)),
    ];
    let shown = [&spec.starts_at, &spec.ends_at];
    if let Some(next) = status.next_transition_at.as_ref().filter(|next| !shown.contains(next)) {
        lines.push(format!("  next      {}", at(next, now)));
    }
    lines.push(match &status.ledger {
        Some(units) => format!(
            "  units     {} = {} sold + {} left + {} in flight",
            count(units.total),
            count(units.sold),
            count(units.remaining),
            count(units.in_flight)
        ),
        None => format!("  units     {}, not loaded yet", count(spec.stock)),
    });
    for tier in &status.tiers {
        let (sold, reserved) = (count(tier.sold), count(tier.reserved));
        lines.push(format!("  tier      {}: {sold} sold, {reserved} kept", tier.name));
    }
    if sale.metadata.generation != status.observed_generation {
        lines.push("  note      the operator has not seen the last change yet".into());
    }
    let mut text = lines.join("\n") + "\n\n";
    let mut table = Table::new(&["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"], &[]);
    for condition in &status.conditions {
        table.row(vec![
            condition.type_.clone(),
            condition.status.clone(),
            distance(condition.last_transition_time.0, now),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    match table.is_empty() {
        true => text
            .push_str("no operator has seen the sale; `kubectl get pods -A -l app.kubernetes.io/component=operator`\n"),
        false => text.push_str(&table.to_string()),
    }
    text
}

fn status(sale: &FlashSale) -> FlashSaleStatus {
    sale.status.clone().unwrap_or_default()
}

fn name(sale: &FlashSale) -> &str {
    sale.metadata.name.as_deref().unwrap_or_default()
}

fn namespace(sale: &FlashSale) -> &str {
    sale.metadata.namespace.as_deref().unwrap_or_default()
}

fn phase(status: &FlashSaleStatus) -> String {
    status.phase.map_or("not seen".into(), |phase| format!("{phase:?}"))
}

/// What time will do next to the sale.
fn next(sale: &FlashSale, status: &FlashSaleStatus, now: Timestamp) -> String {
    let to = match status.phase {
        Some(Phase::Settled) => return String::new(),
        _ if sale.spec.starts_at.0 > now => ("starts", sale.spec.starts_at.0),
        _ => match (sale.spec.ends_at.0 > now, &status.next_transition_at) {
            (true, _) => ("ends", sale.spec.ends_at.0),
            (false, Some(next)) => ("next", next.0),
            (false, None) => return String::new(),
        },
    };
    format!("{} {}", to.0, distance(to.1, now))
}

/// Conditions that are not as they should be. `Stalled` is bad if it is true.
fn problems(status: &FlashSaleStatus) -> Vec<&Condition> {
    let is_bad = |condition: &&Condition| match condition.type_.as_str() {
        "Stalled" => condition.status == "True",
        "Accepted" | "Preflight" | "LedgerBalanced" => condition.status == "False",
        _ => false,
    };
    let mut bad: Vec<&Condition> = status.conditions.iter().filter(is_bad).collect();
    bad.sort_by_key(|condition| condition.type_ != "Stalled");
    bad
}

fn at(time: &Time, now: Timestamp) -> String {
    format!("{} ({})", time.0, distance(time.0, now))
}

/// `in 5m10s` or `3h2m ago`: the two largest units.
fn distance(time: Timestamp, now: Timestamp) -> String {
    let seconds = time.as_second() - now.as_second();
    let left = seconds.unsigned_abs();
    let parts = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let parts = parts.iter().scan(left, |left, (size, unit)| {
        let number = *left / size;
        *left %= size;
        Some((number, unit))
    });
    let parts: Vec<String> = parts
        .skip_while(|(number, _)| *number == 0)
        .take(2)
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    match (parts.is_empty(), seconds > 0) {
        (true, _) => "now".into(),
        (false, true) => format!("in {}", parts.concat()),
        (false, false) => format!("{} ago", parts.concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-11-30T12:00:00Z";

    fn sale(status: serde_json::Value) -> FlashSale {
        let sale = json!({
            "apiVersion": "seckill.dev/v1alpha1", "kind": "FlashSale",
            "metadata": {"name": "phone", "namespace": "shop", "generation": 2},
            "spec": {
                "item": {"sku": "PHONE-1", "name": "Phone One", "price": "499.00", "currency": "EUR"},
                "stock": 10_000, "startsAt": "2026-11-30T11:00:00Z", "endsAt": "2026-11-30T13:30:00Z",
            },
            "status": status,
        });
        serde_json::from_value(sale).unwrap()
    }

    fn selling() -> serde_json::Value {
        json!({
            "phase": "Open", "observedGeneration": 2,
            "ledger": {"total": 10_000, "sold": 8000, "remaining": 1990, "inFlight": 10},
            "conditions": [{
                "type": "Stalled", "status": "True", "reason": "MysqlUnavailable", "message": "connection refused",
                "lastTransitionTime": "2026-11-30T11:58:50Z",
            }],
        })
    }

    #[test]
    fn the_overview_has_units_the_next_time_and_the_worst_problem() {
        let text = overview(&[sale(selling()), sale(json!(null))], NOW.parse().unwrap());
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("   ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines[1],
            [
                "shop",
                "phone",
                "Open",
                "10,000",
                "8,000",
                "1,990",
                "ends in 1h30m",
                "MysqlUnavailable"
            ]
        );
        assert_eq!(
            lines[2],
            ["shop", "phone", "not seen", "10,000", "-", "-", "ends in 1h30m"]
        );
    }

    #[test]
    fn details_show_times_units_and_conditions() {
        let text = details(&sale(selling()), NOW.parse().unwrap());
        for part in [
            "shop/phone: Open",
            "Phone One (PHONE-1), 499.00 EUR",
            "2026-11-30T11:00:00Z (1h ago)",
            "10,000 = 8,000 sold + 1,990 left + 10 in flight",
            "1m10s ago",
            "connection refused",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("not seen the last change"));
        let unseen = details(&sale(json!(null)), NOW.parse().unwrap());
        assert!(unseen.contains("no operator has seen the sale"), "{unseen}");
    }

    #[test]
    fn distances_have_two_units() {
        let of = |seconds: i64| {
            let now: Timestamp = NOW.parse().unwrap();
            distance(Timestamp::from_second(now.as_second() + seconds).unwrap(), now)
        };
        let texts = [0, 5, -65, 3600, -90_061].map(of);
        assert_eq!(texts, ["now", "in 5s", "1m5s ago", "in 1h", "1d1h ago"]);
    }
}
