//! Compares the documents about the API with its code.
use std::collections::BTreeSet;

use seckill_api::problem::ProblemKind;
use seckill_api::routes::openapi_document as document;
use strum::VariantArray as _;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

#[test]
fn the_committed_openapi_document_is_current() {
    let file = format!("{FOLDER}/openapi.json");
    let generated = document().to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &generated).expect("written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == generated,
        "docs/openapi.json is not current; run `UPDATE=1 cargo test --workspace --test openapi`"
    );
}

/// The rows of the table have the form `| status | codes | ...`.
#[test]
fn the_documented_problems_are_those_of_the_code() {
    let page = std::fs::read_to_string(format!("{FOLDER}/http-api.md")).expect("the page");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1);
        let status: u16 = cells.next()?.trim().parse().ok()?;
        let codes = cells.next()?.split('`').skip(1).step_by(2);
        Some(codes.map(move |code| (status, code.to_owned())).collect::<Vec<_>>())
    });
    let documented: BTreeSet<_> = rows.flatten().collect();
    let kinds = ProblemKind::VARIANTS
        .iter()
        .filter(|kind| **kind != ProblemKind::RouteRemoved);
    let known: BTreeSet<_> = kinds
        .map(|kind| (kind.definition().status.as_u16(), kind.definition().code.to_owned()))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_problem_is_an_answer_of_some_operation() {
    let document = serde_json::to_string(&document()).expect("JSON");
    // Requests that no operation takes.
    let elsewhere = [
        ProblemKind::RouteUnknown,
        ProblemKind::RouteRemoved,
        ProblemKind::MethodNotAllowed,
    ];
    for kind in ProblemKind::VARIANTS.iter().filter(|kind| !elsewhere.contains(kind)) {
        let code = kind.definition().code;
        assert!(document.contains(&format!("\"{code}\"")), "{code}");
    }
}
