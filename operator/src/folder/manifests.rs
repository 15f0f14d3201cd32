//! Reads the manifests of a folder.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;

/// More is no manifest.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What one reading of the folder found.
#[derive(Debug, Default, PartialEq)]
pub struct Manifests {
    /// Each FlashSale with its file, in the order of the names.
    pub objects: Vec<(String, Value)>,
    /// By file.
    pub problems: BTreeMap<String, String>,
}

impl Manifests {
    /// The files `*.yaml`, `*.yml` and `*.json`, without hidden ones and subfolders.
    pub fn read(folder: &Path) -> Self {
        let mut manifests = Manifests::default();
        let names = match file_names(folder) {
            Ok(names) => names,
            Err(error) => {
                let problem = format!("failed to read the folder: {error}");
                manifests.problems.insert(folder.display().to_string(), problem);
                return manifests;
            }
        };
        for name in names {
            match read(&folder.join(&name)) {
                Ok(objects) => manifests
                    .objects
                    .extend(objects.into_iter().map(|object| (name.clone(), object))),
                Err(problem) => {
                    manifests.problems.insert(name, problem);
                }
            }
        }
        manifests
    }
}

fn file_names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_manifest = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if is_manifest && !name.starts_with('.') && !entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// All documents of a file. One wrong document makes the whole file wrong: it may have been written in part.
fn read(file: &Path) -> Result<Vec<Value>, String> {
    let length = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!(
            "it has {length} bytes; a manifest has at most {MAX_FILE_BYTES}"
        ));
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let object = Value::deserialize(document).map_err(|error| format!("it is not valid YAML: {error}"))?;
        match (&object, object["kind"].as_str()) {
            (Value::Null, _) => {}
            (_, Some("FlashSale")) => objects.push(object),
            (_, Some(kind)) => return Err(format!("it has a {kind}; this folder is for FlashSales only")),
            (_, None) => return Err("a document has no `kind`; write `kind: FlashSale`".to_owned()),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_as_a_whole() {
        let two = parse("---\nkind: FlashSale\nspec: {stock: 1}\n---\n---\nkind: FlashSale\n").expect("valid");
        assert_eq!(two.len(), 2);
        assert_eq!(two[0]["spec"]["stock"], 1);
        assert_eq!(parse("# nothing yet\n"), Ok(vec![]));
        for wrong in [
            "kind: FlashSale\nspec: {stock: 1",
            "kind: FlashSale\n---\nkind: ConfigMap",
            "spec: {}",
            "kind: FlashSale\n---\n- a",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
