//! Reads the sales of `examples/demo.yaml`, moves their times to the next minutes, and makes what names them new.
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::Deserialize;
use serde_yaml::Value;

/// A sale before it is applied.
#[derive(Debug, Clone)]
pub struct Planned {
    pub name: String,
    pub units: u64,
    pub starts_at: Timestamp,
    /// The manifest, as YAML.
    pub manifest: String,
}

/// The times of a sale.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
}

/// What the demo gives to a sale of the example.
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub class: &'a str,
    /// The id of the item, if the example has one.
    pub item_id: u64,
    pub window: Window,
}

/// Finds the sale `name` in the documents of `text`, and replaces its name, namespace, class, times and item's id.
pub fn plan(text: &str, name: &str, new: Replacement) -> Result<Planned> {
    let window = new.window;
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut sale = Value::deserialize(document).context("examples/demo.yaml")?;
        if sale["metadata"]["name"].as_str() != Some(name) {
            continue;
        }
        let units = sale["spec"]["stock"].as_u64();
        let units = units.with_context(|| format!("examples/demo.yaml: {name}: spec.stock is not a number"))?;
        sale["metadata"]["name"] = new.name.into();
        sale["metadata"]["namespace"] = new.namespace.into();
        sale["spec"]["className"] = new.class.into();
        if let Some(id) = sale["spec"]["item"].get_mut("id") {
            *id = new.item_id.into();
        }
        sale["spec"]["startsAt"] = whole_seconds(window.starts_at).into();
        sale["spec"]["endsAt"] = whole_seconds(window.ends_at).into();
        return Ok(Planned {
            name: new.name.into(),
            units,
            starts_at: window.starts_at,
            manifest: serde_yaml::to_string(&sale)?,
        });
    }
    bail!("examples/demo.yaml has no sale {name:?}")
}

fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads a time from a status.
pub fn time(status: &serde_json::Value, field: &str) -> Result<Timestamp> {
    let text = status[field]
        .as_str()
        .with_context(|| format!("status.{field} is missing"))?;
    text.parse().with_context(|| format!("status.{field} is {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
# two
metadata: {name: a}
spec: {stock: 5, item: {name: A}}
---
metadata: {name: b}
spec: {stock: 7, item: {name: B, id: 1}}
";

    fn new(name: &str) -> Replacement<'_> {
        let window = Window {
            starts_at: "2030-01-01T10:00:00Z".parse().expect("a time"),
            ends_at: "2030-01-01T10:01:00Z".parse().expect("a time"),
        };
        Replacement {
            name,
            namespace: "n",
            class: "c",
            item_id: 9,
            window,
        }
    }

    #[test]
    fn only_names_class_times_and_item_id_are_replaced() {
        let planned = plan(TEXT, "b", new("b-2")).expect("the sale exists");
        assert_eq!((planned.name.as_str(), planned.units), ("b-2", 7));
        let yaml: Value = serde_yaml::from_str(&planned.manifest).expect("YAML");
        assert_eq!(yaml["spec"]["startsAt"].as_str(), Some("2030-01-01T10:00:00Z"));
        assert_eq!(yaml["spec"]["endsAt"].as_str(), Some("2030-01-01T10:01:00Z"));
        assert_eq!(yaml["metadata"]["namespace"].as_str(), Some("n"));
        assert_eq!(yaml["spec"]["className"].as_str(), Some("c"));
        assert_eq!(yaml["spec"]["item"]["name"].as_str(), Some("B"));
        assert_eq!(yaml["spec"]["item"]["id"].as_u64(), Some(9));
        let planned = plan(TEXT, "a", new("a")).expect("the sale exists");
        assert!(!planned.manifest.contains("id:"), "{}", planned.manifest);
    }

    #[test]
    fn unknown_sale_is_an_error() {
        assert!(plan(TEXT, "c", new("c")).is_err());
    }
}
