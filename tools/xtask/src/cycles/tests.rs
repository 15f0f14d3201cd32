use std::collections::BTreeMap;
use std::path::Path;

use super::crate_source::CrateSource;
use super::{graph, names};

/// The circles of a crate whose files are given, each as its modules.
fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let read = |file: &Path| files.get(file.to_str()?).map(|text| (*text).to_owned());
    let source = CrateSource::read(Path::new("src/lib.rs"), &read).expect("a crate");
    let circles = graph::circles(&source, &names::dependencies(&source));
    circles.into_iter().map(|circle| circle.modules).collect()
}

fn none() -> Vec<Vec<String>> {
    Vec::new()
}

#[test]
fn two_modules_that_import_each_other_are_a_circle() {
    let files = [
        ("src/lib.rs", "mod a;\nmod b;\nmod c;"),
        ("src/a.rs", "use crate::b::B;\npub struct A(B);"),
        ("src/b.rs", "pub struct B;\nfn f(_: &crate::a::A) {}"),
        ("src/c.rs", "use crate::a::A;\nuse crate::b::B;\nfn f(_: A, _: B) {}"),
    ];
    assert_eq!(circles(&files), [["a", "b"]]);
}

#[test]
fn edges_name_file_line_and_path() {
    let text = "mod a { pub struct A;\nuse super::b::B; }\nmod b { pub struct B;\n fn f() { super::a::A; } }";
    let read = |file: &Path| (file == Path::new("src/lib.rs")).then(|| text.to_owned());
    let source = CrateSource::read(Path::new("src/lib.rs"), &read).expect("a crate");
    let circles = graph::circles(&source, &names::dependencies(&source));
    let edges: Vec<_> = circles[0]
        .edges
        .iter()
        .map(|e| (e.from.as_str(), e.to.as_str(), e.line, e.path.as_str()))
        .collect();
    assert_eq!(edges, [("a", "b", 2, "super::b::B"), ("b", "a", 4, "super::a::A")]);
}

#[test]
fn circle_through_a_third_module_is_found() {
    let files = [
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a.rs", "use crate::b; pub fn f() { b::f() }"),
        ("src/b.rs", "pub fn f() { crate::c::f() }"),
        ("src/c.rs", "pub fn f() { println!(\"{}\", crate::a::f()) }"),
    ];
    assert_eq!(circles(&files), [["a", "b", "c"]]);
}

#[test]
fn reexported_name_belongs_to_its_defining_module() {
    let root = "mod a; mod b; pub use a::A; pub use b::*;";
    let apart = [
        ("src/lib.rs", root),
        ("src/a.rs", "pub struct A;"),
        ("src/b.rs", "use crate::A; pub struct B(A);"),
    ];
    assert_eq!(circles(&apart), none());
    let circle = [
        ("src/lib.rs", root),
        ("src/a.rs", "use crate::B; pub struct A(Box<B>);"),
        ("src/b.rs", "use crate::A; pub struct B(Box<A>);"),
    ];
    assert_eq!(circles(&circle), [["a", "b"]]);
}

#[test]
fn parent_that_only_reexports_its_children_is_no_circle() {
    let files = [
        ("src/lib.rs", "mod a;"),
        (
            "src/a/mod.rs",
            "mod child; pub use child::Child; pub use child::deep::*; pub struct Parent;",
        ),
        (
            "src/a/child.rs",
            "pub mod deep; use super::Parent; pub struct Child(Parent);",
        ),
        ("src/a/child/deep.rs", "use crate::a::Parent; pub struct Deep(Parent);"),
    ];
    assert_eq!(circles(&files), none());
}

#[test]
fn child_of_a_parent_that_uses_it_is_a_circle() {
    let child = ("src/a/child.rs", "use super::Parent; pub fn f(_: Parent) {}");
    for parent in [
        "mod child; pub struct Parent; fn g() { child::f(Parent) }",
        "mod child; use child::f; pub struct Parent; fn g() { f(Parent) }",
        "mod child; pub use child::f; pub struct Parent; fn g() { f(Parent) }",
    ] {
        let files = [("src/lib.rs", "mod a;"), ("src/a.rs", parent), child];
        assert_eq!(circles(&files), [["a", "a::child"]], "{parent}");
    }
}

#[test]
fn test_modules_do_not_count() {
    let files = [
        ("src/lib.rs", "mod a; mod b;"),
        (
            "src/a.rs",
            "pub struct A; #[cfg(test)] mod checks { use crate::b::B; } #[cfg(test)] use crate::b::B; mod tests;",
        ),
        ("src/b.rs", "use crate::a::A; pub struct B(A);"),
    ];
    assert_eq!(circles(&files), none());
}

#[test]
fn names_of_other_crates_and_variables_are_no_edges() {
    let files = [
        ("src/lib.rs", "mod args; mod serde_like; pub fn run() {}"),
        (
            "src/args.rs",
            "use serde::Deserialize; use ::serde_like::X; pub fn f(serde_like: u8) -> u8 { serde_like }",
        ),
        ("src/serde_like.rs", "pub fn g() { crate::args::f(1); }"),
    ];
    assert_eq!(circles(&files), none());
}

#[test]
fn exported_macro_belongs_to_its_module() {
    let files = [
        ("src/lib.rs", "mod a; mod b; pub fn run() { b::f() }"),
        ("src/a.rs", "#[macro_export] macro_rules! hello { () => {} }"),
        ("src/b.rs", "pub fn f() { crate::hello!() }"),
    ];
    assert_eq!(circles(&files), none());
}

#[test]
fn path_attribute_names_the_file() {
    let files = [
        ("src/lib.rs", "#[path = \"other/x.rs\"] mod a; mod b;"),
        ("src/other/x.rs", "pub fn f() { crate::b::g() }"),
        ("src/b.rs", "pub fn g() { crate::a::f() }"),
    ];
    assert_eq!(circles(&files), [["a", "b"]]);
}
