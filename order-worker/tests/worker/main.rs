//! The worker as a process, between a real Kafka, MySQL and Redis: SECKILL_TEST_KAFKA, SECKILL_TEST_MYSQL_URL (a user
//! that may create databases), SECKILL_TEST_REDIS_URL.
mod bed;
mod cut;
mod relay;
mod storing;
