//! Checks every answer that a test gets against the OpenAPI document.
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use http::HeaderMap;
use jsonschema::Validator;
use serde_json::Value;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(seckill_api::routes::openapi_document()).expect("the document is JSON"));

/// By operation, status and content type.
static VALIDATORS: LazyLock<Mutex<HashMap<String, &'static Validator>>> = LazyLock::new(Mutex::default);

/// `line` is the method and the path of the request. A request without a documented operation has no contract, and no
/// answer that the HTTP library gives by itself has a content type.
pub fn check(line: &str, status: u16, headers: &HeaderMap, body: &Value) {
    let Some((method, path)) = line.split_once(' ') else {
        return;
    };
    let method = method.to_ascii_lowercase();
    let Some(template) = template_of(path).filter(|template| DOCUMENT["paths"][template][&method].is_object()) else {
        return;
    };
    // No operation took the request: its path has an empty part, or it came to the port of the old routes.
    if body["code"] == "route_unknown" {
        return;
    }
    let Some(content_type) = headers.get("content-type").filter(|_| status != 304) else {
        return;
    };
    let content_type = content_type.to_str().expect("ASCII");
    let documented = &DOCUMENT["paths"][&template][&method]["responses"][status.to_string()];
    let content = &documented["content"][content_type];
    assert!(
        content.is_object(),
        "{line}: {status} {content_type} is not documented: {body}"
    );
    let key = format!("{method} {template} {status} {content_type}");
    let errors: Vec<String> = validator(key, &content["schema"])
        .iter_errors(body)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{line}: {errors:?}: {body}");
}

fn template_of(path: &str) -> Option<String> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    let templates = DOCUMENT["paths"].as_object().expect("the document has paths").keys();
    let matches = |template: &&String| {
        let template: Vec<&str> = template.split('/').collect();
        template.len() == parts.len()
            && template
                .iter()
                .zip(&parts)
                .all(|(t, part)| t.starts_with('{') || t == part)
    };
    templates.into_iter().find(matches).cloned()
}

fn validator(key: String, schema: &Value) -> &'static Validator {
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    validators.entry(key).or_insert_with(|| {
        let mut schema = schema.clone();
        schema["components"] = DOCUMENT["components"].clone();
        Box::leak(Box::new(jsonschema::validator_for(&schema).expect("a valid schema")))
    })
}
