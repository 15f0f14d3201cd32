//! Addresses with too many requests.
use seckill_api::rate_limit::RateLimitConfig;

use crate::client::Request;
use crate::harness::*;

#[tokio::test]
async fn an_address_gets_its_rate_and_others_are_not_affected() {
    let harness = Harness::with_rate_limits(RateLimitConfig {
        per_address: 1,
        trusted_proxies: 1,
        ..RateLimitConfig::default()
    })
    .await;
    // The proxy in front appends the last address; the client has written the first.
    let send = async |line: &str, spoofed: u32, address: &str| {
        let forwarded = format!("X-Forwarded-For: 198.51.100.{spoofed}, {address}");
        let headers = [forwarded.as_str(), "Origin: https://shop.example"];
        harness.send(Request::new(line, &headers, "")).await
    };
    let mut refused = Vec::new();
    for n in 0..30 {
        let response = send("GET /v1/sales", n, "203.0.113.9").await;
        if response.status != 200 {
            refused.push(response);
        }
    }
    // A burst of ten, and one more in each second.
    assert!((15..=20).contains(&refused.len()), "{refused:?}");
    for response in refused {
        let header = |name: &str| response.headers[name].to_str().expect("text");
        assert_eq!((response.status, &response.body["code"]), (429, &"rate_limited".into()));
        assert_eq!(header("retry-after"), "1");
        assert_eq!(header("ratelimit"), r#""address";r=0;t=1"#);
        assert_eq!(header("ratelimit-policy"), r#""address";q=10;w=10"#);
        assert_eq!(header("access-control-allow-origin"), "https://shop.example");
    }
    for (line, address, status) in [
        ("POST /v1/sales/shop/any/orders", "203.0.113.9", 429),
        ("GET /nowhere", "203.0.113.9", 429),
        ("GET /healthz", "203.0.113.9", 200),
        ("GET /", "203.0.113.9", 200),
        ("GET /v1/sales", "203.0.113.10", 200),
    ] {
        let response = send(line, 1, address).await;
        assert_eq!(response.status, status, "{line}: {response:?}");
    }
}
