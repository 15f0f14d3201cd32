//! A client of the API server whose calls all end.
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;

/// A call without an answer failed after this time. Otherwise a client waits for minutes or for ever: kube retries by itself
/// when the API server is busy, after longer and longer pauses, and tells nobody.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
const EXPIRED: &[u8] = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the version to watch from has expired","reason":"Expired","code":410}}
"#;

/// A client of the same API server with a time limit for each call.
pub fn with_timeouts(kube: &Client) -> Client {
    let (namespace, kube) = (kube.default_namespace().to_owned(), kube.clone());
    let service = tower::service_fn(move |request| {
        let kube = kube.clone();
        async move { call(&kube, request).await.map_err(Box::new) }
    });
    Client::new(service, namespace)
}

async fn call(kube: &Client, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let response = async {
        let response = kube.send(request).await?;
        if is_watch && response.status() != StatusCode::GONE {
            return Ok(response);
        }
        if is_watch {
            // kube's watcher understands this only as an event of the stream. As a response it would ask for the same
            // version for ever.
            return Ok(Response::new(Body::from(EXPIRED.to_vec())));
        }
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, Body::from(body.collect_bytes().await?)))
    };
    match tokio::time::timeout(CALL_TIMEOUT, response).await {
        Ok(response) => response,
        Err(_) => Err(kube::Error::Service(
            format!("no response within {CALL_TIMEOUT:?}").into(),
        )),
    }
}
