#![allow(clippy::unwrap_used, reason = "a test may panic")]
use clap::Parser;
use seckill_service::args::{Refused, parse_from};
use seckill_service::config::{
    AdminArgs, Brokers, Expected, KafkaArgs, KafkaProperties, LogFormat, MysqlArgs, MysqlUrl, RedisArgs, RedisUrl,
    TelemetryArgs, Topic,
};
use std::fmt::Debug;
use std::str::FromStr;

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    telemetry: TelemetryArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    mysql: MysqlArgs,
    /// How many
    #[arg(long, value_name = "7")]
    count: Option<u8>,
}

const GOOD: [&str; 7] = [
    "program",
    "--redis-url",
    "redis://:hunter2@redis:6379",
    "--kafka-brokers",
    "kafka-0:9092,kafka-1:9092",
    "--mysql-url",
    "mysql://user:hunter2@mysql:3306/seckill",
];

fn with(words: &[&'static str]) -> Result<Program, Refused> {
    parse_from(GOOD.iter().chain(words).copied())
}

fn refused<T: FromStr<Err = Expected> + Debug>(text: &str) -> String {
    T::from_str(text).unwrap_err().to_string()
}

#[test]
fn required_arguments_are_enough() {
    let program = with(&[]).unwrap();
    assert_eq!(program.telemetry.log.as_str(), "info");
    assert_eq!(program.telemetry.log_format, LogFormat::Json);
    assert_eq!(program.admin.admin_listen.to_string(), "0.0.0.0:9090");
    assert_eq!(program.redis.redis_url.to_string(), "redis://:***@redis:6379");
    assert_eq!(program.kafka.kafka_brokers.as_str(), "kafka-0:9092,kafka-1:9092");
    assert_eq!(program.kafka.kafka_topic.as_str(), "seckill-orders");
    assert!(program.kafka.kafka_properties.expose().is_empty());
    assert_eq!(
        program.mysql.expose().as_str(),
        "mysql://user:hunter2@mysql:3306/seckill"
    );
}

#[test]
fn secrets_are_not_shown() {
    let program = with(&[
        "--kafka-properties",
        "security.protocol=SASL_SSL,sasl.username=me,sasl.password=hunter2",
    ])
    .unwrap();
    let shown = format!("{program:?} {} {}", program.redis.redis_url, program.mysql.mysql_url);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("redis://:***@redis:6379"), "{shown}");
    assert!(shown.contains("mysql://user:***@mysql:3306/seckill"), "{shown}");
    assert!(shown.contains("sasl.password"), "{shown}");
}

#[test]
fn missing_arguments_are_named_with_examples() {
    let refused = parse_from::<Program>(["program", "--redis-url", "redis://redis"]).unwrap_err();
    let text = refused.to_string();
    assert_eq!(refused.exit_code(), 2);
    assert!(
        text.contains("SECKILL_KAFKA_BROKERS=kafka-0:9092,kafka-1:9092"),
        "{text}"
    );
    assert!(
        text.contains("SECKILL_MYSQL_URL=mysql://user:password@mysql:3306/seckill"),
        "{text}"
    );
    assert!(text.contains("which holds the ledger"), "{text}");
    assert!(!text.contains("REDIS"), "{text}");
}

#[test]
fn an_invalid_value_is_named_with_an_example() {
    let refused = with(&["--admin-listen", "9090"]).unwrap_err();
    let text = refused.to_string();
    assert_eq!(refused.exit_code(), 2);
    assert!(
        text.contains("invalid value for SECKILL_ADMIN_LISTEN (or --admin-listen)"),
        "{text}"
    );
    assert!(text.contains("found:    \"9090\""), "{text}");
    assert!(text.contains("expected: an IP address and a port"), "{text}");
    assert!(text.contains("example:  SECKILL_ADMIN_LISTEN=0.0.0.0:9090"), "{text}");
}

#[test]
fn an_invalid_choice_names_the_choices() {
    let text = with(&["--log-format", "xml"]).unwrap_err().to_string();
    assert!(text.contains("invalid value for SECKILL_LOG_FORMAT"), "{text}");
    assert!(text.contains("expected: one of json, text"), "{text}");
}

#[test]
fn an_argument_without_a_variable_is_named_by_its_flag() {
    let text = with(&["--count", "300"]).unwrap_err().to_string();
    assert!(
        text.contains("invalid value for --count") && text.contains("example:  --count 7"),
        "{text}"
    );
}

#[test]
fn an_invalid_secret_is_not_repeated() {
    for words in [
        ["--kafka-properties", "sasl.password=a,hunter2"],
        ["--kafka-properties", "acks=hunter2"],
        ["--kafka-properties", "HUNTER=hunter2"],
    ] {
        let text = with(&words).unwrap_err().to_string();
        assert!(
            text.contains("SECKILL_KAFKA_PROPERTIES") && !text.contains("hunter2"),
            "{text}"
        );
    }
    let refused = parse_from::<Program>(["program", "--redis-url", "http://:hunter2@redis"]).unwrap_err();
    assert!(!refused.to_string().contains("hunter2"), "{refused}");
}

#[test]
fn help_exits_with_0_and_shows_examples() {
    let refused = with(&["--help"]).unwrap_err();
    assert_eq!(refused.exit_code(), 0);
    assert!(refused.to_string().contains("SECKILL_REDIS_URL"), "{refused}");
}

#[test]
fn an_unknown_flag_exits_with_2() {
    assert_eq!(with(&["--colour"]).unwrap_err().exit_code(), 2);
}

#[test]
fn redis_urls() {
    for good in [
        "redis://redis",
        "redis://redis:6379/3",
        "rediss://user:p%23ss@redis.example:6380",
        "redis://[::1]:6379",
        "redis://10.0.0.1",
        "redis+sentinel://user:password@a:26379,b/shop/1",
        "rediss+cluster://a,b:7000",
    ] {
        assert!(RedisUrl::from_str(good).is_ok(), "{good}");
    }
    for (bad, why) in [
        ("", "scheme is missing"),
        ("redis:6379", "scheme is missing"),
        ("http://redis", "the scheme is redis or rediss"),
        ("rediss://redis#insecure", "refused"),
        ("redis://", "host"),
        ("redis://redis:70000", "invalid port"),
        ("redis://redis:0", "port is a number"),
        ("redis://:p#ss@redis:6379", "percent-encode"),
        ("redis://redis/stock", "the database is a number"),
        ("redis+unix:///run/redis.sock", "the scheme is"),
    ] {
        let text = refused::<RedisUrl>(bad);
        assert!(text.contains("redis://") && text.contains(why), "{bad}: {text}");
    }
}

#[test]
fn mysql_urls() {
    assert!(MysqlUrl::from_str("mysql://user:p%40ss@mysql/seckill?ssl-mode=REQUIRED").is_ok());
    for (bad, why) in [
        ("mysql://mysql/seckill", "user is missing"),
        ("mysql://user@mysql", "database is one word"),
        ("mysql://user@mysql/", "database is one word"),
        ("mysql://user@mysql/a/b", "database is one word"),
        ("postgres://user@mysql/seckill", "the scheme is mysql"),
        ("mysql://user:p/ss@mysql/seckill", "percent-encode"),
    ] {
        let text = refused::<MysqlUrl>(bad);
        assert!(
            text.contains("mysql://user:password@host[:port]/database") && text.contains(why),
            "{bad}: {text}"
        );
    }
}

#[test]
fn kafka_brokers() {
    assert_eq!(Brokers::from_str("kafka:9092").unwrap().as_str(), "kafka:9092");
    assert_eq!(Brokers::from_str("a:1, [::1]:2").unwrap().as_str(), "a:1,[::1]:2");
    for (bad, why) in [
        ("", "port is missing"),
        ("kafka", "port is missing"),
        ("kafka:", "from 1 to 65535"),
        ("kafka:0", "from 1 to 65535"),
        ("kafka:9092,", "port is missing"),
        (":9092", "a host is"),
        ("kafka://kafka:9092", "a host is"),
        ("::1:9092", "a host is"),
    ] {
        let text = refused::<Brokers>(bad);
        assert!(text.contains("host:port") && text.contains(why), "{bad}: {text}");
    }
}

#[test]
fn kafka_topics() {
    assert!(Topic::from_str("seckill-orders.v1_2").is_ok());
    for bad in ["", ".", "..", "orders/1", "orders 1", &"x".repeat(250)] {
        assert!(refused::<Topic>(bad).contains("1 to 249"), "{bad}");
    }
}

#[test]
fn kafka_properties_are_split_at_commas_and_line_ends() {
    let properties =
        KafkaProperties::from_str("security.protocol=SASL_SSL,\n sasl.password=a\\,b=c\\\\d\\e\nlinger.ms=0\n")
            .unwrap();
    let expected = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.password", "a,b=c\\d\\e"),
        ("linger.ms", "0"),
    ];
    assert_eq!(
        properties.expose(),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn kafka_properties_of_the_protocol_are_refused() {
    for name in [
        "acks",
        "enable.idempotence",
        "enable.auto.commit",
        "isolation.level",
        "bootstrap.servers",
        "group.id",
        "auto.offset.reset",
        "partitioner",
        "transactional.id",
    ] {
        let text = refused::<KafkaProperties>(&format!("security.protocol=PLAINTEXT,{name}=1"));
        assert!(text.starts_with(&format!("{name} can't be set: ")), "{text}");
    }
    assert_eq!(
        refused::<KafkaProperties>("a.b=1,a.b=2"),
        "each name once; part 2 repeats one (write a comma inside a value as \\,)"
    );
    assert!(refused::<KafkaProperties>("=1").contains("invalid name in part 1"));
}
