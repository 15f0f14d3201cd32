//! Bounds on what a client can send, hold and wait for.
use std::time::Duration;

use seckill_protocol::Quantity;

pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// A body of at most [`MAX_BODY_BYTES`] that takes longer is delayed on purpose.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// More units than this in one order are a typing error or an attack.
pub const MAX_QUANTITY: Quantity = 1000;

/// A token with many claims has some 2 KiB.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Valid tokens of one issuer that are not verified again: some 10 MB.
pub const MAX_CACHED_TOKENS: usize = 50_000;

/// A longer request line or longer headers get status 431.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// From the first byte of a request to the end of its headers, and from the connection to its first request.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Default for a connection between two requests. It is longer than the idle time-out of usual proxies (Envoy: one hour),
/// so that the proxy closes the connection. Otherwise the proxy may send a request on a connection that is being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3_900);
/// For a client to read an answer that does not fit into the buffers of its connection.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Default for the time after SIGTERM in which new requests are accepted.
pub const DRAIN: Duration = Duration::from_secs(3);
/// Beyond it, connections that wait for a request are closed.
pub const MAX_CONNECTIONS: usize = 20_000;

/// Time limit for every answer. The steps of a request have shorter limits, except the wait in a batch's queue.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The old demo's routes give up earlier, so that the answer has the form that the old client can read.
pub const LEGACY_PURCHASE_TIMEOUT: Duration = Duration::from_secs(8);

/// Addresses, and buyers, whose requests are counted: some 4 MB each.
pub const MAX_RATE_LIMIT_BUCKETS: usize = 200_000;

/// Further purchases get `overloaded` at once, which costs almost nothing.
pub const MAX_CONCURRENT_PURCHASES: usize = 16 * 1024;
/// Requests with the same key that wait for the first one. A client has no reason to send more.
pub const MAX_WAITING_PER_KEY: usize = 32;
/// Further queries of the ledger would only wait for a connection of the pool.
pub const MAX_CONCURRENT_LOOKUPS: usize = 128;
/// Requests after the end of one sale that wait for the ledger. Each query takes up to 128 of them.
pub const MAX_WAITING_LOOKUPS: usize = 4 * 1024;
/// Keys of the orders of sales that are over, so that all other keys are answered without the ledger: 16 MB.
pub const MAX_KEPT_KEYS: usize = 2 * 1024 * 1024;
/// Samples of Redis taken at the same time for one list of sales.
pub const MAX_CONCURRENT_SAMPLES: usize = 16;
