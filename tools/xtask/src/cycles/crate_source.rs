//! Reads the modules of a crate.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::{Attribute, Expr, ExprLit, Item, Lit, Meta};

use super::module::{Module, ModuleId};
use super::scan;

/// All modules of one target, without test modules.
#[derive(Debug, Default)]
pub struct CrateSource {
    pub modules: Vec<Module>,
    /// The module of each `#[macro_export]` macro, whose path starts at the root.
    pub exported_macros: BTreeMap<String, ModuleId>,
}

/// Reads a file; `None` if it does not exist.
type ReadFile<'a> = &'a dyn Fn(&Path) -> Option<String>;

impl CrateSource {
    pub fn read(root: &Path, read_file: ReadFile) -> Result<Self> {
        let mut source = CrateSource::default();
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        let items = parse(root, read_file)?;
        source.add_module(
            Module {
                file: root.to_owned(),
                ..Module::default()
            },
            items,
            &folder,
            read_file,
        )?;
        Ok(source)
    }

    /// `folder` is where the files of its child modules are.
    fn add_module(&mut self, module: Module, items: Vec<Item>, folder: &Path, read_file: ReadFile) -> Result<ModuleId> {
        let id = self.modules.len();
        let (path, file) = (module.path.clone(), module.file.clone());
        self.modules.push(module);
        let mut children = Vec::new();
        for item in items {
            if scan::attributes(&item).iter().any(scan::is_test_only) {
                continue;
            }
            if let Item::Mod(child) = item {
                children.push(child);
                continue;
            }
            if let Item::Macro(definition) = &item
                && let Some(name) = &definition.ident
                && definition.attrs.iter().any(|a| a.path().is_ident("macro_export"))
            {
                self.exported_macros.insert(name.to_string(), id);
            }
            scan::item(&item, &mut self.modules[id]);
        }
        for child in children {
            let name = child.ident.to_string();
            if name == "tests" {
                continue;
            }
            let child_folder = folder.join(&name);
            let mut child_module = Module {
                path: path.iter().cloned().chain([name.clone()]).collect(),
                file: file.clone(),
                parent: Some(id),
                ..Module::default()
            };
            let child_id = match child.content {
                Some((_, items)) => self.add_module(child_module, items, &child_folder, read_file)?,
                None => {
                    let (file, items_folder) = module_file(&child.attrs, folder, &file, &name, read_file)
                        .with_context(|| format!("no file of module {}", child_module.name()))?;
                    let items = parse(&file, read_file)?;
                    child_module.file = file;
                    self.add_module(child_module, items, &items_folder, read_file)?
                }
            };
            self.modules[id].children.insert(name, child_id);
        }
        Ok(id)
    }
}

fn parse(file: &Path, read_file: ReadFile) -> Result<Vec<Item>> {
    let text = read_file(file).with_context(|| format!("failed to read {}", file.display()))?;
    let parsed = syn::parse_file(&text).with_context(|| format!("failed to parse {}", file.display()))?;
    Ok(parsed.items)
}

/// The file of a module, and the folder of its child modules.
fn module_file(
    attributes: &[Attribute],
    folder: &Path,
    declared_in: &Path,
    name: &str,
    read_file: ReadFile,
) -> Option<(PathBuf, PathBuf)> {
    if let Some(path) = attributes.iter().find_map(path_attribute) {
        let file = declared_in.parent()?.join(path);
        let folder = file.parent()?.to_owned();
        return Some((file, folder));
    }
    let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
    let file = candidates.into_iter().find(|file| read_file(file).is_some())?;
    Some((file, folder.join(name)))
}

/// The value of `#[path = "..."]`.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}
