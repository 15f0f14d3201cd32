//! docs/values.md, whose table is generated from values.yaml and its comments.
use std::fmt::Write as _;

use serde_json::Value;

use crate::harness::repository;
use crate::values::{WHOLE, all_values};

const BEGIN: &str = "<!-- begin values -->\n";
const END: &str = "<!-- end values -->\n";

/// A row of the table.
struct Row {
    path: String,
    /// It has values below it.
    is_section: bool,
    comment: String,
}

/// The keys of the file in their order, each with the comment in the lines above it.
fn rows(file: &str) -> Vec<Row> {
    let (mut rows, mut comment) = (Vec::new(), Vec::new());
    // The sections around the line, with their indentation.
    let mut sections: Vec<(usize, &str)> = Vec::new();
    // The indentation of a value that spans several lines.
    let mut value_indent = None;
    for line in file.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if value_indent.is_some_and(|value| !text.is_empty() && indent > value) {
            continue;
        }
        value_indent = None;
        if let Some(text) = text.strip_prefix('#') {
            comment.push(text);
            continue;
        }
        let comment = std::mem::take(&mut comment);
        let Some((key, value)) = text.split_once(':') else {
            continue; // an empty line
        };
        sections.retain(|(section, _)| *section < indent);
        let keys: Vec<&str> = sections.iter().map(|(_, key)| *key).chain([key]).collect();
        let is_section = value.is_empty() && !WHOLE.contains(&key) && key != "topologySpreadConstraints";
        match is_section {
            true => sections.push((indent, key)),
            false => value_indent = Some(indent),
        }
        rows.push(Row {
            path: keys.join("."),
            is_section,
            comment: cell(&comment),
        });
    }
    rows
}

/// The lines of a comment as one text, without its examples, which have a deeper indentation.
fn cell(lines: &[&str]) -> String {
    let lines = lines.iter().filter(|line| !line.starts_with("   "));
    let words = lines.flat_map(|line| line.split_whitespace());
    let text: Vec<String> = words.map(linked).collect();
    text.join(" ").replace('|', "\\|")
}

/// The name of a page becomes a link: `docs/installation.md#issuers`.
fn linked(word: &str) -> String {
    let target = word.trim_end_matches(['.', ',', ';', ':']);
    match target.strip_prefix("docs/") {
        Some(page) => {
            let name = page.rsplit_once('#').map_or(page, |(_, anchor)| anchor);
            format!("[{}]({page}){}", name.replace('-', " "), &word[target.len()..])
        }
        None => word.to_owned(),
    }
}

fn default_of(values: &Value, path: &str) -> String {
    let value = values.pointer(&format!("/{}", path.replace('.', "/")));
    match value.unwrap_or_else(|| panic!("{path}")) {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        value => format!("`{value}`").replace('|', "\\|"),
    }
}

fn table(file: &str) -> String {
    let values: Value = serde_yaml::from_str(file).expect("YAML");
    let mut table = "| value | default | meaning |\n|---|---|---|\n".to_owned();
    for row in rows(file) {
        let Row { path, comment, .. } = &row;
        let _ = match row.is_section {
            true => writeln!(table, "| **`{path}`** | | {comment} |"),
            false => writeln!(table, "| `{path}` | {} | {comment} |", default_of(&values, path)),
        };
    }
    table
}

fn values_file() -> String {
    std::fs::read_to_string(repository().join("helm/seckill/values.yaml")).expect("values.yaml")
}

#[test]
fn the_page_of_the_values_is_current() {
    let path = repository().join("docs/values.md");
    let page = std::fs::read_to_string(&path).expect("docs/values.md");
    let (before, rest) = page.split_once(BEGIN).expect("the begin of the table");
    let (_, after) = rest.split_once(END).expect("the end of the table");
    let expected = format!("{before}{BEGIN}\n{}\n{END}{after}", table(&values_file()));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, expected).expect("written");
        return;
    }
    assert!(
        page == expected,
        "docs/values.md is out of date: run `UPDATE=1 cargo test --workspace --test chart values_page`"
    );
}

#[test]
fn every_value_has_a_row_with_a_meaning() {
    let rows = rows(&values_file());
    let silent: Vec<&str> = rows
        .iter()
        .filter(|row| row.comment.is_empty())
        .map(|row| row.path.as_str())
        .collect();
    assert!(silent.is_empty(), "values.yaml has no comment above {silent:?}");
    for value in all_values() {
        // A value in braces has one row for all its keys.
        let is_in = |row: &Row| {
            let rest = value.strip_prefix(&row.path);
            rest.is_some_and(|rest| rest.is_empty() || (!row.is_section && rest.starts_with('.')))
        };
        assert!(rows.iter().any(is_in), "{value} has no row");
    }
}

#[test]
fn pages_that_a_comment_names_exist_with_their_sections() {
    let table = table(&values_file());
    for link in table.split("](").skip(1) {
        let target = link.split(')').next().expect("a target");
        let (page, anchor) = target.split_once('#').unwrap_or((target, ""));
        let page = std::fs::read_to_string(repository().join("docs").join(page)).expect(target);
        let mut anchors = page.lines().filter(|line| line.starts_with('#')).map(|heading| {
            let title = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        });
        assert!(anchor.is_empty() || anchors.any(|found| found == anchor), "{target}");
    }
}
