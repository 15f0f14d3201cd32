//! `/healthz`, `/readyz` and `/metrics`, on a separate port so that no ingress exposes them to buyers.
use crate::config::{AdminArgs, without_ipv6};
use crate::health::Health;
use crate::shutdown::Shutdown;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("SECKILL_ADMIN_LISTEN: can't listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// Listens, then serves in the background until the process ends. While the process drains after `shutdown`, it is
/// alive and not ready, and its metrics can still be read. Returns the address, which has the real port if port 0 was
/// requested.
pub async fn serve(
    args: AdminArgs,
    health: Health,
    registry: Registry,
    shutdown: Shutdown,
) -> Result<SocketAddr, AdminError> {
    let listen_error = |source| AdminError::Listen {
        address: args.admin_listen,
        source,
    };
    let bound = match TcpListener::bind(args.admin_listen).await {
        Err(error) => match without_ipv6(args.admin_listen, &error) {
            Some(address) => TcpListener::bind(address).await,
            None => Err(error),
        },
        bound => bound,
    };
    let listener = bound.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let router = router(health, registry, shutdown);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "admin server stopped");
        }
    });
    Ok(address)
}

#[derive(Clone)]
struct Admin {
    health: Health,
    registry: Arc<Registry>,
    shutdown: Shutdown,
}

fn router(health: Health, registry: Registry, shutdown: Shutdown) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Admin {
            health,
            registry: Arc::new(registry),
            shutdown,
        })
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    match admin.health.check() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.registry) {
        Ok(()) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt as _;

    async fn get_text(router: &Router, path: &str) -> (u16, String) {
        let answer = router
            .clone()
            .oneshot(Request::get(path).body(Body::empty()).unwrap())
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_names_the_gate_while_healthz_is_ok() {
        let health = Health::new();
        let gate = health.gate("mysql");
        gate.not_ready("connection refused");
        let router = router(health, Registry::default(), Shutdown::new());
        assert_eq!(get_text(&router, "/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(
            get_text(&router, "/readyz").await,
            (503, "mysql: connection refused\n".to_owned())
        );
        gate.ready();
        assert_eq!(get_text(&router, "/readyz").await, (200, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn readyz_fails_during_shutdown_and_healthz_does_not() {
        let health = Health::new();
        health.gate("mysql").ready();
        let shutdown = Shutdown::new();
        let router = router(health, Registry::default(), shutdown.clone());
        shutdown.cancel();
        assert_eq!(get_text(&router, "/readyz").await, (503, "shutting down\n".to_owned()));
        assert_eq!(get_text(&router, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let mut registry = Registry::default();
        let purchases: Counter = Counter::default();
        registry.register("purchases", "Purchases", purchases.clone());
        purchases.inc();
        let router = router(Health::new(), registry, Shutdown::new());
        let (status, text) = get_text(&router, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("purchases_total 1\n"), "{text}");
    }

    #[tokio::test]
    async fn a_port_in_use_names_the_variable() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let args = AdminArgs {
            admin_listen: taken.local_addr().unwrap(),
        };
        let error = serve(args, Health::new(), Registry::default(), Shutdown::new())
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("SECKILL_ADMIN_LISTEN: can't listen on 127.0.0.1:"),
            "{error}"
        );
    }
}
