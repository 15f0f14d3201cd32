//! One module of a crate.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The index of a module in a crate.
pub type ModuleId = usize;

/// The root module of a crate.
pub const ROOT: ModuleId = 0;

#[derive(Debug, Default)]
pub struct Module {
    /// The path below the root; empty for the root.
    pub path: Vec<String>,
    pub file: PathBuf,
    pub parent: Option<ModuleId>,
    pub children: BTreeMap<String, ModuleId>,
    /// The names of the items that it defines.
    pub items: BTreeSet<String>,
    pub imports: Vec<Import>,
    pub references: Vec<Reference>,
}

impl Module {
    pub fn name(&self) -> String {
        if self.path.is_empty() {
            "crate".into()
        } else {
            self.path.join("::")
        }
    }
}

/// One leaf of a `use`.
#[derive(Debug, Clone)]
pub struct Import {
    /// The segments, without a `*` at the end.
    pub path: Vec<String>,
    /// The name in this module; `None` for `*` and `_`.
    pub name: Option<String>,
    pub is_glob: bool,
    /// Whether it has a visibility, so that other modules may use the name.
    pub is_reexport: bool,
    pub line: usize,
}

/// A path in code.
#[derive(Debug, Clone)]
pub struct Reference {
    pub path: Vec<String>,
    pub line: usize,
}
