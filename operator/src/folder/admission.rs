//! What the API server does with a manifest before it accepts it: types, defaults, and the rules of the CRD.
use anyhow::Context as _;
use jsonschema::Validator as Types;
use kube_cel::{CompiledSchema, Validator as Rules, apply_defaults, compile_schema};
use seckill_planner::SaleKey;
use seckill_service::config::ObjectName;
use serde_json::{Map, Value, json};

const API_VERSION: &str = "seckill.dev/v1alpha1";
/// Of a FlashSale without one.
pub const DEFAULT_NAMESPACE: &str = "default";

pub struct Admission {
    schema: Value,
    types: Types,
    compiled: CompiledSchema,
    rules: Rules,
}

impl Admission {
    pub fn new() -> anyhow::Result<Self> {
        let crd = seckill_crds::crd();
        let version = crd.spec.versions.into_iter().next().context("the CRD has no version")?;
        let schema = version.schema.and_then(|schema| schema.open_api_v3_schema);
        let mut schema = serde_json::to_value(schema.context("the CRD has no schema")?)?;
        // The operator writes it, so a manifest has none.
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("status");
        }
        let compiled = compile_schema(&schema);
        let mut closed = schema.clone();
        close(&mut closed["properties"]["spec"]);
        let types = jsonschema::options()
            .should_validate_formats(true)
            .build(&closed)
            .context("the schema of the CRD")?;
        Ok(Admission {
            schema,
            types,
            compiled,
            rules: Rules::new(),
        })
    }

    /// The FlashSale of a manifest with its defaults, or why it is refused. `known` is the accepted one of this name.
    pub fn admit(&self, manifest: &Value, known: Option<&Value>) -> Result<Value, String> {
        if manifest["apiVersion"] != API_VERSION {
            return Err(format!("apiVersion: it must be {API_VERSION}"));
        }
        let metadata = &manifest["metadata"];
        let key = key(manifest)?;
        let mut object = json!({
            "apiVersion": API_VERSION,
            "kind": "FlashSale",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "spec": without_nulls(&manifest["spec"]),
        });
        for field in ["labels", "annotations"] {
            if let Value::Object(map) = &metadata[field] {
                if let Some((name, _)) = map.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("metadata.{field}.{name}: it must be a text"));
                }
                object["metadata"][field] = Value::Object(map.clone());
            }
        }
        let object = apply_defaults(&self.schema, &object);
        let wrong: Vec<String> = self.types.iter_errors(&object).map(|error| describe(&error)).collect();
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        let wrong = self.rules.validate_compiled(&self.compiled, &object, known);
        match wrong.is_empty() {
            true => Ok(object),
            false => Err(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }
}

/// The name of the FlashSale of a manifest.
pub fn key(manifest: &Value) -> Result<SaleKey, String> {
    let metadata = &manifest["metadata"];
    let valid = |field: &str, value: Option<&str>| {
        let value = value.ok_or_else(|| format!("metadata.{field} is missing"))?;
        let name: ObjectName = value.parse().map_err(|why| format!("metadata.{field}: {why}"))?;
        Ok::<_, String>(name.0)
    };
    let namespace = match &metadata["namespace"] {
        Value::Null => Some(DEFAULT_NAMESPACE),
        namespace => namespace.as_str(),
    };
    Ok(SaleKey::new(
        valid("namespace", namespace)?,
        valid("name", metadata["name"].as_str())?,
    ))
}

/// Refuses unknown fields, as kubectl does.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// A field that is null counts as missing.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let set = fields.iter().filter(|(_, value)| !value.is_null());
            let set: Map<String, Value> = set.map(|(name, value)| (name.clone(), without_nulls(value))).collect();
            Value::Object(set)
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn describe(error: &jsonschema::ValidationError<'_>) -> String {
    let path = error.instance_path().to_string().replace('/', ".");
    format!("{}: {error}", path.trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Value {
        json!({
            "apiVersion": API_VERSION,
            "kind": "FlashSale",
            "metadata": {"name": "phones", "namespace": "shop"},
            "spec": {
                "item": {"sku": "p-1", "name": "A phone", "price": "500.00", "currency": "EUR"},
                "stock": 10,
                "startsAt": "2030-01-01T10:00:00Z",
                "endsAt": "2030-01-01T11:00:00Z",
            },
        })
    }

    fn refusal(change: impl FnOnce(&mut Value), known: Option<&Value>) -> String {
        let mut changed = manifest();
        change(&mut changed);
        let admitted = Admission::new().expect("the CRD").admit(&changed, known);
        admitted.expect_err("a refusal")
    }

    #[test]
    fn defaults_are_those_of_the_crd() {
        let admitted = Admission::new()
            .expect("the CRD")
            .admit(&manifest(), None)
            .expect("accepted");
        assert_eq!(admitted["spec"]["className"], "default");
        assert!(admitted["spec"]["leadTimeSeconds"].is_u64(), "{admitted}");
        let sale: seckill_crds::FlashSale = serde_json::from_value(admitted).expect("a FlashSale");
        assert_eq!(sale.spec.stock, 10);
    }

    #[test]
    fn the_refusal_names_the_field() {
        for (named, change) in [
            ("spec.stock", (|m| m["spec"]["stock"] = 0.into()) as fn(&mut Value)),
            ("spec.stock", |m| m["spec"]["stock"] = "ten".into()),
            ("spec.item", |m| m["spec"]["item"]["price"] = "cheap".into()),
            ("spec.startsAt", |m| m["spec"]["startsAt"] = "tomorrow".into()),
            ("endsAt", |m| m["spec"]["endsAt"] = "2030-01-01T09:00:00Z".into()),
            ("stok", |m| m["spec"]["stok"] = 5.into()),
            ("stock", |m| m["spec"]["stock"] = Value::Null),
            ("metadata.name", |m| m["metadata"]["name"] = "../phones".into()),
            ("metadata.namespace", |m| m["metadata"]["namespace"] = "a/b".into()),
            ("metadata.name", |m| m["metadata"] = json!({})),
            ("metadata.labels", |m| m["metadata"]["labels"] = json!({"a": 1})),
            ("apiVersion", |m| m["apiVersion"] = "seckill.dev/v2".into()),
        ] {
            let refusal = refusal(change, None);
            assert!(refusal.contains(named), "{named}: {refusal}");
        }
    }

    #[test]
    fn edits_follow_the_rules_of_the_crd() {
        let admission = Admission::new().expect("the CRD");
        let mut known = admission.admit(&manifest(), None).expect("accepted");
        let lower = |m: &mut Value| m["spec"]["stock"] = 9.into();
        let mut lowered = manifest();
        lower(&mut lowered);
        assert!(admission.admit(&lowered, Some(&known)).is_ok());
        known["status"] = json!({"preheatedAt": "2030-01-01T09:59:00Z", "phase": "Open"});
        let refused = refusal(lower, Some(&known));
        assert!(refused.contains("it can only rise"), "{refused}");
        let refused = refusal(|m| m["spec"]["className"] = "other".into(), Some(&known));
        assert!(!refused.is_empty());
        let mut raised = manifest();
        raised["spec"]["stock"] = 12.into();
        raised["spec"]["suspend"] = true.into();
        assert!(admission.admit(&raised, Some(&known)).is_ok());
    }
}
