//! What is printed of a run, and the report file.
use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use crate::check::Finding;
use crate::evidence::Evidence;
use crate::history::BuyerAnswer;
use crate::mutants::Mutant;
use crate::promotions::{self, Times};
use crate::run::PlayedFault;
use crate::waits::Waits;

/// How many violations of an invariant are printed. The report file has all of them.
const MAX_VIOLATIONS_PRINTED: usize = 5;

pub fn print(evidence: &Evidence, played: &[PlayedFault], findings: &[Finding]) {
    let history = &evidence.history;
    println!(
        "\n{} faults, {} sales, {} buyers, {} requests, {} winners",
        played.len(),
        evidence.sales.len(),
        history.buyers.len(),
        history.events.len(),
        winners(evidence)
    );
    print_faults(&Waits::of(history), played);
    print_promotions(evidence, played);
    println!();
    for finding in findings {
        print_finding(finding);
    }
    println!();
}

fn print_faults(waits: &Waits, played: &[PlayedFault]) {
    println!(
        "\n  {:<36} {:>5}  {:>16}  {:>12}  {:>10}",
        "", "", "selling stopped", "a buyer", "waited"
    );
    println!(
        "  {:<36} {:>5}  {:>16}  {:>12}  {:>10}",
        "fault", "times", "median, longest", "waited up to", "over 10 s"
    );
    let mut by_name: BTreeMap<&str, Vec<&PlayedFault>> = BTreeMap::new();
    for played in played {
        by_name.entry(&played.fault).or_default().push(played);
    }
    for (fault, played) in by_name {
        let mut stopped: Vec<u64> = played.iter().map(|fault| fault.stopped_ms).collect();
        stopped.sort_unstable();
        let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
        let (median, longest) = (stopped[stopped.len() / 2], stopped[stopped.len() - 1]);
        let waited: Vec<_> = played.iter().map(|fault| waits.during(fault)).collect();
        println!(
            "  {fault:<36} {:>5}  {:>7} {:>8}  {:>12}  {:>10}",
            stopped.len(),
            seconds(median),
            seconds(longest),
            seconds(waited.iter().map(|(longest, _)| *longest).max().unwrap_or_default()),
            waited.iter().map(|(_, failed)| failed).sum::<usize>()
        );
    }
}

fn print_promotions(evidence: &Evidence, played: &[PlayedFault]) {
    let faults = promotions::by_fault(&evidence.history, &evidence.order_no_keys, played);
    if faults.is_empty() {
        return;
    }
    println!(
        "\n  {:<28} {:>5}  {:>18}  {:>18}  {:>7} {:>17}",
        "promotions, median and max", "times", "new primary after", "first sale after", "buyers", "got 503 for"
    );
    for (fault, promotions) in faults {
        let seconds = |times: &Times| match times.summary() {
            Some((median, max)) => format!("{:.1} s {:.1} s", median as f64 / 1000.0, max as f64 / 1000.0),
            None => "-".to_owned(),
        };
        println!(
            "  {fault:<28} {:>5}  {:>18}  {:>18}  {:>7} {:>17}",
            promotions.count,
            seconds(&promotions.promoted),
            seconds(&promotions.first_sale),
            promotions.unavailable.count(),
            seconds(&promotions.unavailable)
        );
    }
}

fn print_finding(finding: &Finding) {
    let word = if finding.is_violated() { "VIOLATED" } else { "held" };
    println!(
        "  {:<8} {word:<8} {}: {}",
        finding.invariant, finding.says, finding.checked
    );
    for violation in finding.violations.iter().take(MAX_VIOLATIONS_PRINTED) {
        println!("             - {violation}");
    }
    if finding.violations.len() > MAX_VIOLATIONS_PRINTED {
        let more = finding.violations.len() - MAX_VIOLATIONS_PRINTED;
        println!("             - and {more} more");
    }
}

/// Prints whether an expected invariant found the mutant.
pub fn is_caught(mutant: &Mutant, findings: &[Finding]) -> bool {
    let by: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.is_violated() && mutant.caught_by.contains(&finding.invariant))
        .map(|finding| finding.invariant)
        .collect();
    match by.is_empty() {
        true => println!(
            "\nmutant {} SURVIVED; expected: {}",
            mutant.name,
            mutant.caught_by.join(" or ")
        ),
        false => println!("\nmutant {} caught by {}", mutant.name, by.join(", ")),
    }
    !by.is_empty()
}

/// Adds the results of a run to what the caller knows of it.
pub fn json(mut report: Value, evidence: &Evidence, played: &[PlayedFault], findings: &[Finding]) -> Value {
    let waits = Waits::of(&evidence.history);
    let with_waits = |fault: &PlayedFault| {
        let (longest, failed) = waits.during(fault);
        let mut fault = json!(fault);
        fault["longest_wait_ms"] = longest.into();
        fault["waits_over_10_s"] = failed.into();
        fault
    };
    report["faults"] = played.iter().map(with_waits).collect();
    report["buyers"] = json!(evidence.history.buyers.len());
    report["requests"] = json!(evidence.history.events.len());
    report["winners"] = json!(winners(evidence));
    report["recovery"] = json!(evidence.recovery);
    let promotions = promotions::by_fault(&evidence.history, &evidence.order_no_keys, played);
    report["promotions"] = json!(promotions);
    report["invariants"] = json!(findings);
    report
}

fn winners(evidence: &Evidence) -> usize {
    let events = evidence.history.events.iter();
    let wins = events.filter(|event| matches!(event.answer, BuyerAnswer::Won { .. }));
    wins.map(|event| event.buyer).collect::<HashSet<_>>().len()
}
