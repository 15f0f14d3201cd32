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

/// What the attempt to connect has to come to.
#[derive(Clone, Copy)]
enum Expected<'a> {
    Connected,
    /// The reason that `/readyz` shows has these words. An attempt can also fail for another reason, and is made again.
    Refused(&'a [&'a str]),
}
use Expected::{Connected, Refused};

async fn check_mysql(args: &Args, expected: Expected<'_>) {
    let (health, shutdown) = (Health::new(), Shutdown::new());
    let gate = health.gate("mysql");
    let connecting = connect::ledger(&args.mysql, Format::FIRST, 1, &gate, &shutdown);
    check(connecting, &health, expected).await;
}

async fn check_kafka(args: &Args, expected: Expected<'_>) {
    let (health, shutdown) = (Health::new(), Shutdown::new());
    let gate = health.gate("kafka");
    let config = connect::log_config(&args.kafka);
    let connecting = connect::order_log(&config, &gate, &shutdown);
    check(connecting, &health, expected).await;
}

async fn check<T>(connecting: impl Future<Output = Option<T>>, health: &Health, expected: Expected<'_>) {
    let reason = || {
        health
            .check()
            .err()
            .map(|reason| reason.0.to_lowercase())
            .unwrap_or_default()
    };
    let refused = async {
        let Refused(words) = expected else {
            return std::future::pending().await;
        };
        while !words.iter().all(|word| reason().contains(&word.to_lowercase())) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        connected = connecting => {
            let as_expected = matches!(expected, Connected) && connected.is_some();
            assert!(as_expected, "connected");
        }
        () = refused => {}
        () = tokio::time::sleep(WAIT_TIMEOUT) => panic!("timed out; the last reason: {}", reason()),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_is_verified_by_ca_and_host_name() {
    seckill_ledger::migrate(&mysql_url()).await.expect("migrated");
    let (ca, other) = (file("ca.crt"), file("other-ca.crt"));
    check_mysql(&args(&[("--mysql-ca-file", &ca)]), Connected).await;
    let (cert, key) = (file("client.crt"), file("client.key"));
    let pair = [
        ("--mysql-ca-file", ca.as_str()),
        ("--mysql-cert-file", &cert),
        ("--mysql-key-file", &key),
    ];
    check_mysql(&args(&pair), Connected).await;

    check_mysql(&args(&[("--mysql-ca-file", &other)]), Refused(&["certificate"])).await;
    let url = mysql_url();
    let (_, address) = url.rsplit_once('@').expect("a user");
    let (address, _) = address.split_once('/').expect("a database");
    let alias = url.replace(address, &alias_of(address).await.to_string());
    let flags = [("--mysql-url", alias.as_str()), ("--mysql-ca-file", &ca)];
    check_mysql(&args(&flags), Refused(&["certificate", "name"])).await;
    // The same address without verification.
    check_mysql(&args(&[("--mysql-url", &alias)]), Connected).await;
    let wrong = url.replace("root:", "root:not-");
    let flags = [("--mysql-url", wrong.as_str()), ("--mysql-ca-file", &ca)];
    check_mysql(&args(&flags), Refused(&["Access denied"])).await;
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
    check_kafka(
        &pair(&brokers, &ca),
        Refused(&["authorization", "examples/kafka-acls.sh"]),
    )
    .await;
    check_kafka(&pair(&brokers, &other), Refused(&["certificate", "verif"])).await;
    let alias = alias_of(&brokers).await.to_string();
    check_kafka(&pair(&alias, &ca), Refused(&["certificate", "verif"])).await;
    let without = args(&[
        ("--kafka-topic", topic.as_str()),
        ("--kafka-brokers", &brokers),
        ("--kafka-ca-file", &ca),
    ]);
    check_kafka(&without, Refused(&["no connection", "SSL"])).await;
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
    check_kafka(&with("wrong"), Refused(&["no connection", "authentication"])).await;
    check_kafka(&with("seckill"), Refused(&["authorization", "examples/kafka-acls.sh"])).await;
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
