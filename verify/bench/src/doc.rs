//! Writes docs/benchmarks.md, and its plot, from the figures of a run.
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::report::{Goal, Report, Row};

const INTRODUCTION: &str = include_str!("benchmarks.md");
const WHAT_LIMITS: &str = include_str!("what-limits.md");

/// The figures in the README stand between these.
const MARKERS: [&str; 2] = [
    "<!-- figures of cargo xtask bench all -->\n",
    "<!-- end of the figures -->",
];
/// The scenarios in the README.
const IN_README: [&str; 5] = ["purchase", "sold-out", "not-started", "store", "burst"];

pub fn write(report: &Report, folder: &Path, readme: &Path) -> Result<()> {
    std::fs::write(folder.join("benchmarks.md"), page(report)?)?;
    std::fs::write(folder.join("benchmarks.svg"), plot(report)?)?;
    let text = std::fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
    std::fs::write(readme, with_figures(&text, report)?)?;
    Ok(())
}

fn with_figures(readme: &str, report: &Report) -> Result<String> {
    let parts = readme
        .split_once(MARKERS[0])
        .and_then(|(before, rest)| Some((before, rest.split_once(MARKERS[1])?.1)));
    let (before, after) = parts.context("the README has no markers for the figures")?;
    let mut table =
        String::from("\n| | median (of the rounds: least to most) | of the limit | goal |\n|---|---|---|---|\n");
    let scenarios = report.scenarios.iter();
    for row in scenarios
        .filter(|scenario| IN_README.contains(&scenario.scenario.as_str()))
        .flat_map(|scenario| &scenario.measured.rows)
    {
        let what = row.what.split([';', '(']).next().unwrap_or_default().trim();
        let ratio = match (row.unit.as_str(), row.ratio()) {
            ("/s", Some(ratio)) => format!("{:.0} %", 100.0 * ratio),
            _ => String::new(),
        };
        let goal = match (row.goal_text(), row.reached()) {
            (Some(goal), Some(false)) => format!("{goal}: **not reached**"),
            (Some(goal), _) => goal,
            (None, _) => String::new(),
        };
        writeln!(table, "| {what} | {} {} | {ratio} | {goal} |", row.rounds, row.unit)?;
    }
    writeln!(
        table,
        "\nOn {} cores that the buyers, the programs and all servers share; {}; {} rounds.\n",
        report.cores, report.servers, report.rounds
    )?;
    Ok(format!("{before}{}{table}{}{after}", MARKERS[0], MARKERS[1]))
}

fn page(report: &Report) -> Result<String> {
    let mut page = INTRODUCTION.to_owned();
    writeln!(
        page,
        "{} rounds of each, on {} cores that the buyers, the programs and all servers share; {}. Each figure is the median of \
         the rounds, and between what they lie; the ratio is the median of the ratios of each round.\n",
        report.rounds, report.cores, report.servers
    )?;
    page += "![Each round's ratio to its limit](benchmarks.svg)\n\n";
    page += "| | figure | limit, in the same rounds | of the limit | goal | |\n|---|---|---|---|---|---|\n";
    for row in report.rows() {
        if let Some(why) = &row.broken {
            writeln!(page, "| {} | no figure: {why} | | | | |", row.what)?;
            continue;
        }
        let limit = row.limit.as_ref().map(ToString::to_string).unwrap_or_default();
        let ratio = row
            .ratio()
            .map(|ratio| format!("{:.0} %", 100.0 * ratio))
            .unwrap_or_default();
        let reached = match row.reached() {
            Some(true) => "reached",
            Some(false) => "**not reached**",
            None => "",
        };
        writeln!(
            page,
            "| {} | {} {} | {limit} | {ratio} | {} | {reached} |",
            row.what,
            row.rounds,
            row.unit,
            row.goal_text().unwrap_or_default()
        )?;
    }
    if report.costs().next().is_some() {
        page += "\n";
        page += &WHAT_LIMITS.replace("{costs}\n", &costs(report));
    }
    Ok(page)
}

/// A line for each kind of answer, a column for each program.
fn costs(report: &Report) -> String {
    let programs: BTreeSet<&String> = report.costs().flat_map(|cost| cost.shares.keys()).collect();
    let mut table = String::from("| microseconds of a core for each |");
    for program in &programs {
        table += &format!(" {program} |");
    }
    table += " all |\n|---|";
    table += &"---|".repeat(programs.len() + 1);
    table += "\n";
    for cost in report.costs() {
        table += &format!("| {} |", cost.what);
        for program in &programs {
            match cost.shares.get(*program) {
                Some(us) => table += &format!(" {:.1} |", us.median()),
                None => table += " |",
            }
        }
        table += &format!(" {:.1} |\n", cost.total());
    }
    table
}

const LEFT: f64 = 420.0;
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 28.0;

/// A line for each row that has a limit, with a dot for each of its rounds and a stroke at the goal.
fn plot(report: &Report) -> Result<String> {
    let rows: Vec<&Row> = report
        .rows()
        .filter(|row| row.unit == "/s" && row.limit.is_some() && row.broken.is_none())
        .collect();
    // The axis ends at 150 % of the limit.
    let x = |ratio: f64| LEFT + WIDTH * (ratio / 1.5).clamp(0.0, 1.0);
    let (width, height) = (LEFT + WIDTH + 40.0, HEIGHT * (rows.len() as f64 + 1.5));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for percent in [0, 50, 100, 150] {
        let at = x(f64::from(percent) / 100.0);
        writeln!(
            svg,
            "<line x1=\"{at}\" y1=\"{HEIGHT}\" x2=\"{at}\" y2=\"{}\" stroke=\"#ddd\"/>\
             <text x=\"{at}\" y=\"18\" text-anchor=\"middle\">{percent} %</text>",
            height - 8.0
        )?;
    }
    for (n, row) in rows.iter().enumerate() {
        let y = HEIGHT * (n as f64 + 1.5);
        let what = row.what.split([';', '(']).next().unwrap_or_default().trim();
        let what = what.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{what}</text>",
            LEFT - 12.0,
            y + 4.0
        )?;
        if let Goal::RatioAtLeast(goal) = row.goal {
            let at = x(goal);
            writeln!(
                svg,
                "<line x1=\"{at}\" y1=\"{}\" x2=\"{at}\" y2=\"{}\" stroke=\"#c33\" stroke-width=\"2\"/>",
                y - 9.0,
                y + 9.0
            )?;
        }
        for ratio in row.ratios() {
            writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{y}\" r=\"4\" fill=\"#2a6\" fill-opacity=\"0.6\"/>",
                x(ratio)
            )?;
        }
    }
    svg += "</svg>\n";
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_each_row_and_marks_missed_goals() {
        let mut report = Report::new(2, "Redis 8".into());
        let row = Row::new("a < b (limit: x)", "/s", vec![40.0, 42.0]).beside(vec![100.0, 100.0]);
        report.add(
            "a",
            vec![
                row.goal(Goal::RatioAtLeast(0.5)),
                Row::broken("c", "an order is missing".into()),
            ],
        );
        let page = page(&report).expect("text");
        assert!(page.contains("| 41 % |") || page.contains("| 42 % |"), "{page}");
        assert!(page.contains("**not reached**") && page.contains("no figure: an order is missing"));
        let readme = format!("a\n{}old{}\nb\n", MARKERS[0], MARKERS[1]);
        report.scenarios[0].scenario = "purchase".into();
        let readme = with_figures(&readme, &report).expect("text");
        assert!(readme.starts_with("a\n") && readme.ends_with("\nb\n") && !readme.contains("old"));
        assert!(readme.contains("| 42 % | at least 50 %: **not reached** |"), "{readme}");
        assert!(with_figures("none", &report).is_err());
        let plot = plot(&report).expect("text");
        assert_eq!(plot.matches("<circle").count(), 2);
        assert!(plot.contains("a &lt; b</text>"), "{plot}");
    }
}
