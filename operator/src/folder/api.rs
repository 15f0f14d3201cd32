//! The API of Kubernetes, as far as the operator uses it: FlashSales, the Lease, and events. Whatever else is asked for does not
//! exist.
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use seckill_planner::SaleKey;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::Service;

use super::store::Store;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Without a value in the request.
const WATCH_SECONDS: u64 = 30;

/// The client's view of the folder.
pub fn service(
    store: Arc<Store>,
) -> impl Service<Request<Body>, Response = Answer, Error = kube::Error, Future: Send> + Clone + Send + 'static {
    let leases = Arc::new(Leases::default());
    tower::service_fn(move |request| {
        let (store, leases) = (store.clone(), leases.clone());
        async move { Ok(answer(&store, &leases, request).await) }
    })
}

async fn answer(store: &Arc<Store>, leases: &Leases, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    let body: Value = match body.collect_bytes().await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
        Err(error) => return failure(StatusCode::BAD_REQUEST, "BadRequest", "", &error.to_string()),
    };
    let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    let query = head.uri.query().unwrap_or_default();
    match (&head.method, &path[..]) {
        (&Method::GET, ["apis", "seckill.dev", _, "flashsales"]) => list_or_watch(store, None, query),
        (&Method::GET, ["apis", "seckill.dev", _, "namespaces", namespace, "flashsales"]) => {
            list_or_watch(store, Some(namespace), query)
        }
        (&Method::GET, ["apis", "seckill.dev", _, "namespaces", namespace, "flashsales", name]) => {
            found(name, store.get(&SaleKey::new(*namespace, *name)))
        }
        (
            &Method::PATCH,
            [
                "apis",
                "seckill.dev",
                _,
                "namespaces",
                namespace,
                "flashsales",
                name,
                "status",
            ],
        ) => patch_status(store, &SaleKey::new(*namespace, *name), body),
        (method, ["apis", "coordination.k8s.io", _, "namespaces", _, "leases", rest @ ..]) => {
            leases.answer(method, rest.first().copied(), body)
        }
        (&Method::POST | &Method::PATCH, ["apis", "events.k8s.io", _, "namespaces", _, "events", ..]) => {
            log_event(&body);
            json_answer(StatusCode::OK, &body)
        }
        (&Method::GET, ["api", "v1", "namespaces", name]) => {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            json_answer(StatusCode::OK, &namespace)
        }
        _ => failure(StatusCode::NOT_FOUND, "NotFound", "", "a folder has no such resource"),
    }
}

/// A JSON patch, of which only the status counts.
fn patch_status(store: &Store, key: &SaleKey, patch: Value) -> Answer {
    let Some(mut object) = store.get(key) else {
        return found(&key.name, None);
    };
    let patched = serde_json::from_value(patch)
        .map_err(|error| error.to_string())
        .and_then(|patch: json_patch::Patch| json_patch::patch(&mut object, &patch).map_err(|error| error.to_string()));
    if let Err(error) = patched {
        return failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", &key.name, &error);
    }
    match store.set_status(key, &object["status"]) {
        Ok(object) => found(&key.name, object),
        Err(error) => failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            &key.name,
            &format!("failed to write the status into the folder: {error}"),
        ),
    }
}

/// Without a cluster, events are lines of the log.
fn log_event(event: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let regarding = &event["regarding"];
    let of = format!("{}/{}", text(&regarding["namespace"]), text(&regarding["name"]));
    let (reason, note) = (text(&event["reason"]), text(&event["note"]));
    match event["type"] == "Warning" {
        true => tracing::warn!(of, reason, note, "event"),
        false => tracing::info!(of, reason, note, "event"),
    }
}

fn list_or_watch(store: &Arc<Store>, namespace: Option<&str>, query: &str) -> Answer {
    let parameter = |name: &str| {
        let mut parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
        parameters.find_map(|(key, value)| (key == name).then_some(value))
    };
    if parameter("watch") != Some("true") {
        let (objects, version) = store.changed_after(0);
        let items: Vec<Value> = objects.into_iter().filter(|object| is_in(object, namespace)).collect();
        let list = json!({
            "apiVersion": "seckill.dev/v1alpha1",
            "kind": "FlashSaleList",
            "metadata": {"resourceVersion": version.to_string()},
            "items": items,
        });
        return json_answer(StatusCode::OK, &list);
    }
    let number = |name: &str| parameter(name).and_then(|value| value.parse::<u64>().ok());
    let seconds = number("timeoutSeconds").unwrap_or(WATCH_SECONDS);
    watch(
        store.clone(),
        namespace.map(str::to_owned),
        number("resourceVersion").unwrap_or_default(),
        Instant::now() + Duration::from_secs(seconds),
    )
}

/// A stream of what changes after a version. Nothing is ever deleted.
fn watch(store: Arc<Store>, namespace: Option<String>, after: u64, until: Instant) -> Answer {
    let changes = store.subscribe();
    let events = futures::stream::unfold((after, changes), move |(after, mut changes)| {
        let (store, namespace) = (store.clone(), namespace.clone());
        async move {
            loop {
                let (objects, version) = {
                    changes.mark_unchanged();
                    store.changed_after(after)
                };
                let objects = objects.iter().filter(|object| is_in(object, namespace.as_deref()));
                let lines: String = objects
                    .map(|object| format!("{}\n", json!({"type": "MODIFIED", "object": object})))
                    .collect();
                if !lines.is_empty() {
                    return Some((Bytes::from(lines), (version, changes)));
                }
                tokio::time::timeout_at(until, changes.changed()).await.ok()?.ok()?;
            }
        }
    });
    let frames = events.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn is_in(object: &Value, namespace: Option<&str>) -> bool {
    namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
}

/// The Leases of this process: the lock of the folder keeps others away.
#[derive(Default)]
struct Leases(Mutex<HashMap<String, Value>>);

impl Leases {
    fn answer(&self, method: &Method, name: Option<&str>, mut lease: Value) -> Answer {
        // Single insertions: a panic elsewhere leaves it whole.
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name
            .or_else(|| lease["metadata"]["name"].as_str())
            .unwrap_or_default()
            .to_owned();
        let known = leases.get(&name);
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match *method {
            Method::GET => return found(&name, known.cloned()),
            Method::POST if known.is_none() => {}
            Method::PUT if known.is_some_and(|known| version(known) == version(&lease)) => {}
            _ => return failure(StatusCode::CONFLICT, "Conflict", &name, "the Lease has changed"),
        }
        let next = known
            .and_then(|known| version(known).as_str()?.parse::<u64>().ok())
            .unwrap_or_default()
            + 1;
        lease["metadata"]["resourceVersion"] = next.to_string().into();
        leases.insert(name, lease.clone());
        json_answer(StatusCode::OK, &lease)
    }
}

fn found(name: &str, object: Option<Value>) -> Answer {
    match object {
        Some(object) => json_answer(StatusCode::OK, &object),
        None => failure(StatusCode::NOT_FOUND, "NotFound", name, &format!("{name} not found")),
    }
}

/// As Kubernetes describes a failure.
fn failure(status: StatusCode, reason: &str, name: &str, message: &str) -> Answer {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": status.as_u16(),
        "reason": reason,
        "message": message,
        "details": {"name": name},
    });
    json_answer(status, &body)
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response
}
