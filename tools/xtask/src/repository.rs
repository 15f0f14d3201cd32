//! Tests of files of the repository that belong to no other package.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{command::output, workspace};

fn read(path: &str) -> String {
    let file = workspace::folder().expect("a workspace").join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The value behind the first `name = ` or `name: ` at the start of a line, without quotes.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.trim_start();
        rest.strip_prefix(['=', ':'])
    });
    line.unwrap_or_else(|| panic!("{name} is missing"))
        .trim()
        .trim_matches('"')
}

#[test]
fn charts_have_the_version_of_the_workspace() {
    let manifest = read("Cargo.toml");
    let package = manifest
        .split("[workspace.package]")
        .nth(1)
        .expect("[workspace.package]");
    let version = value(package, "version");
    assert_eq!(version, env!("CARGO_PKG_VERSION"), "a package has its own version");
    for chart in ["helm/seckill/Chart.yaml", "helm/seckill-crds/Chart.yaml"] {
        let chart_text = read(chart);
        assert_eq!(value(&chart_text, "version"), version, "{chart}: version");
        assert_eq!(value(&chart_text, "appVersion"), version, "{chart}: appVersion");
    }
}

#[test]
fn packages_take_version_and_toolchain_from_the_workspace() {
    let metadata = workspace::metadata().expect("cargo metadata");
    for package in metadata["packages"].as_array().expect("packages") {
        let path = package["manifest_path"].as_str().expect("a path");
        let manifest = fs::read_to_string(path).expect("a manifest");
        for line in ["version.workspace = true", "rust-version.workspace = true"] {
            assert!(manifest.lines().any(|l| l == line), "{path} has no line `{line}`");
        }
    }
}

#[test]
fn toolchain_is_the_supported_rust_version() {
    let manifest = read("Cargo.toml");
    let channel = read("rust-toolchain.toml");
    let (supported, channel) = (value(&manifest, "rust-version"), value(&channel, "channel"));
    // The channel names a patch release, for example 1.95.0.
    assert!(
        channel == supported
            || channel
                .strip_prefix(supported)
                .is_some_and(|rest| rest.starts_with('.')),
        "rust-version {supported} in Cargo.toml, channel {channel} in rust-toolchain.toml"
    );
}

/// What a translation has in common with its original: the levels of the headings, the code, the targets of the links, and the
/// numbers in the tables.
fn structure(page: &str) -> [Vec<String>; 4] {
    let (mut headings, mut code, mut links, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut in_code = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            code.push(line.to_owned());
            continue;
        }
        headings.extend(
            line.split_once("# ")
                .map(|(level, _)| level.to_owned())
                .filter(|level| level.chars().all(|c| c == '#')),
        );
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        links.extend(
            targets
                .filter(|target| !target.starts_with("README"))
                .map(str::to_owned),
        );
        if line.starts_with('|') {
            let of_line = line
                .split(|c: char| !c.is_ascii_digit() && c != '.')
                .filter(|number| !number.is_empty());
            numbers.extend(of_line.filter(|number| *number != ".").map(str::to_owned));
        }
    }
    [headings, code, links, numbers]
}

#[test]
fn the_translated_readme_has_the_structure_and_the_figures_of_the_original() {
    let (original, translated) = (read("README.md"), read("README.zh-CN.md"));
    let parts = ["headings", "code", "links", "numbers in tables"];
    for ((part, original), translated) in parts.iter().zip(structure(&original)).zip(structure(&translated)) {
        assert_eq!(
            original, translated,
            "README.zh-CN.md: the {part} differ from README.md"
        );
    }
}

/// No test runs Docker, so the parts of compose.yaml that can be wrong without it are checked here.
#[test]
fn the_compose_file_uses_known_variables_files_and_commands() {
    let text = read("compose.yaml");
    let compose: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
    let configuration = read("docs/configuration.md");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let variables: Vec<_> = words.filter(|word| word.starts_with("SECKILL_")).collect();
    assert!(variables.len() > 10, "{variables:?}");
    for variable in variables {
        assert!(configuration.contains(&format!("`{variable}`")), "unknown: {variable}");
    }
    let services = compose["services"].as_mapping().expect("services");
    for (name, service) in services {
        for file in service["volumes"].as_sequence().into_iter().flatten() {
            let source = file.as_str().and_then(|file| file.split(':').next()).expect("a volume");
            if let Some(example) = source.strip_prefix("./examples/") {
                read(&format!("examples/{example}"));
            }
        }
        let image = service.get("image").or_else(|| compose["x-program"].get("image"));
        if image.and_then(|image| image.as_str()) == Some("seckill") {
            let program = service["command"][0].as_str().expect("a command");
            assert!(crate::programs::PROGRAMS.contains(&program), "{name:?}: {program}");
        }
    }
    for image in ["apache/kafka:", "mysql:", "redis:"] {
        let images = |text: &str| -> Vec<String> {
            let found = text.lines().filter_map(|line| line.trim().strip_prefix("image: "));
            found
                .filter(|name| name.starts_with(image))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(
            images(&text),
            images(&read("examples/dependencies.yaml")),
            "other versions"
        );
    }
}

#[test]
fn failure_modes_name_existing_tests() {
    let page = read("docs/failure-modes.md");
    let mut tests = String::new();
    for file in tracked("rs") {
        let text = read(&file.to_string_lossy());
        // Unit tests stand beside the code. Tests of the cluster have no attribute.
        let in_tests_folder = file.components().any(|part| part.as_os_str() == "tests");
        if in_tests_folder || text.contains("#[test]") || text.contains("::test") {
            tests += &text;
        }
    }
    let words = page.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let named: Vec<&str> = words.filter(|word| word.matches('_').count() >= 4).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(
            tests.contains(&format!("fn {name}(")),
            "docs/failure-modes.md names {name}, which is not a test"
        );
    }
}

#[test]
fn failure_modes_name_existing_chaos_faults() {
    let faults = read("verify/chaos/src/faults/mod.rs");
    let page = read("docs/failure-modes.md");
    let named: Vec<&str> = page.split("`chaos` ").skip(1).collect();
    assert!(named.len() > 10, "{named:?}");
    for text in named {
        let name = text.split([',', ' ', '|']).next().unwrap_or_default();
        assert!(
            faults.contains(&format!("\"{name}\"")),
            "docs/failure-modes.md names {name}, which is not a fault"
        );
    }
}

#[test]
fn relative_markdown_links_resolve() {
    let root = workspace::folder().expect("a workspace");
    let mut broken = Vec::new();
    // A text in src/ is a template, whose links are relative to another folder.
    let pages = tracked("md")
        .into_iter()
        .filter(|page| page.components().all(|part| part.as_os_str() != "src"));
    for page in pages {
        let text = read(&page.to_string_lossy());
        for link in links(&text) {
            if !resolves(&root, &page, &link) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn links_are_found_outside_code() {
    let text = "[a](b.md#c) ![d](e.svg \"title\")\n`[no](x.md)`\n```\n[no](y.md)\n```\n[web](https://x.y/z) [f]: g.md\n[h]: i.md\n";
    assert_eq!(links(text), ["b.md#c", "e.svg", "https://x.y/z", "i.md"]);
}

#[test]
fn anchors_are_made_of_headings() {
    assert_eq!(anchor("The `code`, and more: 2 words"), "the-code-and-more-2-words");
}

/// The files of the checkout with this extension that git knows or would add.
fn tracked(extension: &str) -> Vec<PathBuf> {
    let mut command = Command::new("git");
    command
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .arg(format!("*.{extension}"))
        .current_dir(workspace::folder().expect("a workspace"));
    let root = workspace::folder().expect("a workspace");
    let files = output(&mut command).expect("git ls-files");
    let files = files.lines().map(PathBuf::from);
    // A file that was deleted and not committed yet is still listed.
    files.filter(|file| root.join(file).exists()).collect()
}

/// The targets of the links of a Markdown text, without those in code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        if line.starts_with('[')
            && let Some((label, target)) = line.split_once("]: ")
            && !label.contains(']')
        {
            links.extend(target.split_whitespace().next().map(str::to_owned));
        }
        for part in line.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or_default();
            links.push(target.to_owned());
        }
    }
    links
}

/// Whether a link of a page is external, or names an existing file and heading.
fn resolves(root: &Path, page: &Path, link: &str) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    let page = root.join(page);
    let file = match path {
        "" => page,
        path => page.parent().unwrap_or(root).join(path),
    };
    if !file.exists() {
        return false;
    }
    if fragment.is_empty() || file.extension().is_none_or(|extension| extension != "md") {
        return true;
    }
    let text = fs::read_to_string(&file).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .any(|anchor| anchor == fragment)
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
