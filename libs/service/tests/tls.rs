//! TLS to real MySQL and Kafka: what is verified, and what a person is told. `cargo xtask` starts the servers, and sets the
//! variables.
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use seckill_ledger::Format;
use seckill_order_log::{LogConfig, ensure_topic};
use seckill_service::config::{KafkaArgs, MysqlArgs};
use seckill_service::connect;
use seckill_service::health::Health;
use seckill_service::shutdown::Shutdown;
use tokio::net::{TcpListener, TcpStream};

/// Far longer than any step takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run `cargo xtask test integration`"))
}

fn file(name: &str) -> String {
    format!("{}/{name}", variable("SECKILL_TEST_CERTIFICATES"))
}

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    mysql: MysqlArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
}

/// Arguments for both servers; a later flag replaces an earlier one.
fn args(flags: &[(&str, &str)]) -> Args {
    let url = mysql_url();
    let brokers = variable("SECKILL_TEST_KAFKA");
    let mut all = vec![("--mysql-url", url.as_str()), ("--kafka-brokers", &brokers)];
    for flag in flags {
        all.retain(|(name, _)| *name != flag.0);
        all.push(*flag);
    }
    let words = all.iter().flat_map(|(name, value)| [*name, *value]);
    Args::try_parse_from(["program"].into_iter().chain(words)).expect("valid arguments")
}

fn mysql_url() -> String {
    variable("SECKILL_TEST_MYSQL_URL")
}

/// Connects once; the error is what `/readyz` shows.
async fn connect_mysql(args: &Args) -> Result<(), String> {
    let (health, shutdown) = (Health::new(), Shutdown::new());
    let gate = health.gate("mysql");
    let connecting = connect::ledger(&args.mysql, Format::FIRST, 1, &gate, &shutdown);
    first_result(connecting, &health).await
}

async fn connect_kafka(args: &Args) -> Result<(), String> {
    let (health, shutdown) = (Health::new(), Shutdown::new());
    let gate = health.gate("kafka");
    let config = connect::log_config(&args.kafka);
    let connecting = connect::order_log(&config, &gate, &shutdown);
    first_result(connecting, &health).await
}

/// Until it is connected, or until its first failure.
async fn first_result<T>(connecting: impl Future<Output = Option<T>>, health: &Health) -> Result<(), String> {
    let failed = async {
        loop {
            let reason = health.check().err().map(|reason| reason.0).unwrap_or_default();
            if reason.contains("(attempt 1)") {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        connected = connecting => connected.map(drop).ok_or_else(|| "shut down".to_owned()),
        reason = failed => Err(reason),
        () = tokio::time::sleep(WAIT_TIMEOUT) => Err("timed out".to_owned()),
    }
}

/// Another address of the server: the certificate is not for it.
async fn alias_of(server: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let alias = listener.local_addr().expect("bound");
    let server = server.to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(server).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    alias
}

async fn refused(result: impl Future<Output = Result<(), String>>, words: &[&str]) {
    let reason = result.await.expect_err("refused");
    for word in words {
        assert!(
            reason.to_lowercase().contains(&word.to_lowercase()),
            "{word:?} is not in: {reason}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_is_verified_by_ca_and_host_name() {
    seckill_ledger::migrate(&mysql_url()).await.expect("migrated");
    let (ca, other) = (file("ca.crt"), file("other-ca.crt"));
    connect_mysql(&args(&[("--mysql-ca-file", &ca)]))
        .await
        .expect("connected");
    let (cert, key) = (file("client.crt"), file("client.key"));
    let pair = [
        ("--mysql-ca-file", ca.as_str()),
        ("--mysql-cert-file", &cert),
        ("--mysql-key-file", &key),
    ];
    connect_mysql(&args(&pair)).await.expect("connected");

    refused(connect_mysql(&args(&[("--mysql-ca-file", &other)])), &["certificate"]).await;
    let url = mysql_url();
    let (_, address) = url.rsplit_once('@').expect("a user");
    let (address, _) = address.split_once('/').expect("a database");
    let alias = url.replace(address, &alias_of(address).await.to_string());
    let flags = [("--mysql-url", alias.as_str()), ("--mysql-ca-file", &ca)];
    refused(connect_mysql(&args(&flags)), &["certificate", "name"]).await;
    // The same address without verification.
    connect_mysql(&args(&[("--mysql-url", &alias)]))
        .await
        .expect("connected");
    let wrong = url.replace("root:", "root:not-");
    let flags = [("--mysql-url", wrong.as_str()), ("--mysql-ca-file", &ca)];
    refused(connect_mysql(&args(&flags)), &["Access denied"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_is_verified_by_ca_and_host_name_and_asks_for_a_client_certificate() {
    let topic = new_topic().await;
    let brokers = variable("SECKILL_TEST_KAFKA_TLS");
    let (ca, other) = (file("ca.crt"), file("other-ca.crt"));
    let (cert, key) = (file("client.crt"), file("client.key"));
    let pair = |brokers: &str, ca: &str| {
        args(&[
            ("--kafka-topic", &topic),
            ("--kafka-brokers", brokers),
            ("--kafka-ca-file", ca),
            ("--kafka-cert-file", &cert),
            ("--kafka-key-file", &key),
        ])
    };
    // The certificate is accepted; its user has no rights.
    refused(
        connect_kafka(&pair(&brokers, &ca)),
        &["authorization", "examples/kafka-acls.sh"],
    )
    .await;
    refused(connect_kafka(&pair(&brokers, &other)), &["certificate", "verif"]).await;
    let alias = alias_of(&brokers).await.to_string();
    refused(connect_kafka(&pair(&alias, &ca)), &["certificate", "verif"]).await;
    let without = args(&[
        ("--kafka-topic", topic.as_str()),
        ("--kafka-brokers", &brokers),
        ("--kafka-ca-file", &ca),
    ]);
    refused(connect_kafka(&without), &["no connection", "SSL"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_names_a_wrong_password_and_a_missing_right() {
    let topic = new_topic().await;
    let (ca, brokers) = (file("ca.crt"), variable("SECKILL_TEST_KAFKA_LOGIN"));
    let with = |password: &str| {
        let login = format!("sasl.mechanism=SCRAM-SHA-512,sasl.username=seckill,sasl.password={password}");
        args(&[
            ("--kafka-topic", &topic),
            ("--kafka-brokers", &brokers),
            ("--kafka-ca-file", &ca),
            ("--kafka-properties", &login),
        ])
    };
    refused(connect_kafka(&with("wrong")), &["no connection", "authentication"]).await;
    refused(
        connect_kafka(&with("seckill")),
        &["authorization", "examples/kafka-acls.sh"],
    )
    .await;
}

/// By the listener without TLS, whose user may do everything.
async fn new_topic() -> String {
    let topic = format!("seckill-tls-{:016x}", rand::random::<u64>());
    let config = LogConfig {
        brokers: variable("SECKILL_TEST_KAFKA"),
        topic: topic.clone(),
        properties: Vec::new(),
    };
    ensure_topic(&config, 1, 1, 1).await.expect("a topic");
    topic
}
