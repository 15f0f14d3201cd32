//! TLS and logins: each wrong one has an error that names the cause.
use std::path::PathBuf;

use seckill_stock::config::TlsFiles;
use seckill_stock::{RedisConfig, StockClient};
use seckill_test_redis::{Certificates, RedisCluster, RedisServer, free_port};

use crate::common::{account_rules, new_sale};

/// Why no connection is possible.
async fn refused(config: &RedisConfig) -> String {
    let error = StockClient::connect_to(config).await.expect_err("refused").to_string();
    assert!(!error.contains("hunter2"), "{error}");
    error
}

async fn refused_url(url: &str) -> String {
    refused(&url.parse().expect("a URL")).await
}

fn files(ca: PathBuf, client: Option<(PathBuf, PathBuf)>) -> TlsFiles {
    TlsFiles { ca: Some(ca), client }
}

#[tokio::test]
async fn a_certificate_that_is_not_right_is_named() {
    let (certificates, others, port) = (Certificates::make(), Certificates::make(), free_port());
    let options = certificates.server_options(port);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = RedisServer::start_with(&options).await;
    let at = |host: &str, port: u16| format!("rediss://{host}:{port}").parse::<RedisConfig>().expect("a URL");
    let right = files(certificates.ca(), Some(certificates.client()));

    let config = at("localhost", port).with_tls_files(right.clone());
    let client = StockClient::connect_to(&config).await.expect("answers");
    assert!(client.probe(new_sale()).await.expect("answers").server.is_master);

    let wrong_ca = files(others.ca(), Some(certificates.client()));
    let error = refused(&at("localhost", port).with_tls_files(wrong_ca)).await;
    assert!(
        error.contains("not signed by a known CA") && error.contains("localhost"),
        "{error}"
    );
    let error = refused(&at("localhost", port)).await;
    assert!(error.contains("not signed by a known CA"), "{error}");

    let error = refused(&at("127.0.0.1", port).with_tls_files(right.clone())).await;
    assert!(
        error.contains("another host name") && error.contains("127.0.0.1"),
        "{error}"
    );

    let no_client = files(certificates.ca(), None);
    let error = refused(&at("localhost", port).with_tls_files(no_client)).await;
    assert!(error.contains("client certificate"), "{error}");

    let plain_port = server.address().port();
    let error = refused(&at("localhost", plain_port).with_tls_files(right.clone())).await;
    assert!(error.contains("without TLS on this port"), "{error}");

    let missing = files("/nowhere/ca.crt".into(), None);
    let error = refused(&at("localhost", port).with_tls_files(missing)).await;
    assert!(error.contains("/nowhere/ca.crt"), "{error}");

    let without_tls: RedisConfig = "redis://localhost".parse().expect("a URL");
    let error = refused(&without_tls.with_tls_files(right)).await;
    assert!(error.contains("rediss://"), "{error}");
}

#[tokio::test]
async fn nodes_of_a_cluster_are_reached_with_tls() {
    let certificates = Certificates::make();
    let ports = [free_port(), free_port(), free_port()];
    // They announce the name that is in the certificate. Redis 7.0 announces no other port without tls-cluster.
    let named = [
        "--tls-cluster",
        "yes",
        "--tls-replication",
        "yes",
        "--cluster-announce-hostname",
        "localhost",
        "--cluster-preferred-endpoint-type",
        "hostname",
    ];
    let _cluster = RedisCluster::start_each(0, |n| {
        let options = certificates.server_options(ports[n]).into_iter();
        options.chain(named.map(str::to_owned)).collect()
    })
    .await;
    let url = format!("rediss+cluster://localhost:{}", ports[0]);
    let config: RedisConfig = url.parse().expect("a URL");
    let config = config.with_tls_files(files(certificates.ca(), Some(certificates.client())));
    let client = StockClient::connect_to(&config).await.expect("answers");
    let sales: Vec<_> = (0..20).map(|_| new_sale()).collect();
    let probes = client.probe_all(&sales).await.expect("answers");
    assert!(probes.iter().all(Option::is_some), "{probes:?}");
}

#[tokio::test]
async fn a_wrong_login_is_named() {
    let server = RedisServer::start_with(&["--requirepass", "right"]).await;
    let address = server.address();
    let error = refused_url(&format!("redis://:hunter2@{address}")).await;
    assert!(
        error.contains("the password of user default is wrong") && error.contains(&address.to_string()),
        "{error}"
    );
    let error = refused_url(&format!("redis://seckill:hunter2@{address}")).await;
    assert!(error.contains("the password of user seckill is wrong"), "{error}");
    let error = refused_url(&format!("redis://{address}")).await;
    assert!(error.contains("asks for a password"), "{error}");
}

#[tokio::test]
async fn a_missing_right_is_named_before_a_sale_opens() {
    let server = RedisServer::start_with(&[&["--user"], &account_rules()[..]].concat()).await;
    let url = format!("redis://seckill:change-me@{}", server.address());
    let client = StockClient::connect(&url).await.expect("the account is enough");
    assert_eq!(client.settings().await.expect("answers").len(), 1);

    let () = server.command(&["ACL", "SETUSER", "seckill", "-info"]).await;
    let error = refused_url(&url).await;
    assert!(
        error.contains("grant +info to this user") && error.contains("seckill"),
        "{error}"
    );
    // The preflight of the operator finds it on an open connection.
    let error = client.settings().await.expect_err("refused").to_string();
    assert!(error.contains("grant +info to this user"), "{error}");

    let () = server.command(&["ACL", "SETUSER", "seckill", "+info", "-eval"]).await;
    let error = refused_url(&url).await;
    assert!(
        error.contains("seckill lacks a right") && error.contains("eval"),
        "{error}"
    );
}

#[tokio::test]
async fn a_service_that_refuses_info_in_scripts_is_not_supported() {
    let server = RedisServer::start_with(&["--rename-command", "INFO", "HIDDEN"]).await;
    let error = refused_url(&server.url()).await;
    assert!(
        error.contains("this service refuses INFO in scripts, so it is not supported"),
        "{error}"
    );
}
