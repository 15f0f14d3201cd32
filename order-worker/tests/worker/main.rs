//! Runs the worker as a process with a real Kafka, MySQL and Redis: SECKILL_TEST_KAFKA, SECKILL_TEST_MYSQL_URL (a user
//! that may create databases), SECKILL_TEST_REDIS_URL. Some tests start a Redis of their own:
//! SECKILL_TEST_REDIS_SERVER, the path of redis-server.
mod format;
mod harness;
mod proxy;
mod relay;
mod storing;
mod switchover;
