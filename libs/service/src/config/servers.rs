use super::kafka::KafkaArgs;
use super::mysql::MysqlArgs;
use super::redis::RedisArgs;

/// The three servers of a sale's units.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub mysql: MysqlArgs,
}
