//! Which pages of other origins may call the API from a browser (CORS).
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::idempotency_key::IDEMPOTENCY_KEY;
use crate::rate_limit::{RATE_LIMIT, RATE_LIMIT_POLICY};

/// How long a browser may keep the answer to a preflight request. Chromium keeps it for two hours at most.
const MAX_AGE: Duration = Duration::from_secs(7200);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    Any,
    Listed(Vec<HeaderValue>),
}

impl FromStr for CorsOrigins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(CorsOrigins::Any);
        }
        let origins = text.split(',').map(|origin| origin.trim());
        origins
            .map(parse_origin)
            .collect::<Result<_, _>>()
            .map(CorsOrigins::Listed)
    }
}

/// A browser sends scheme, host and port only, in lower case, and no default port.
fn parse_origin(origin: &str) -> Result<HeaderValue, String> {
    let expected = || format!("{origin:?} is no origin: expected scheme and host, such as https://shop.example, or *");
    let host = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"))
        .ok_or_else(expected)?;
    let is_part_of_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._:[]".contains(c);
    if host.is_empty() || !host.chars().all(is_part_of_host) {
        return Err(expected());
    }
    HeaderValue::from_str(origin).map_err(|_| expected())
}

impl CorsOrigins {
    pub fn layer(self) -> CorsLayer {
        let origin = match self {
            CorsOrigins::Any => AllowOrigin::from(Any),
            CorsOrigins::Listed(origins) => AllowOrigin::list(origins),
        };
        CorsLayer::new()
            .allow_origin(origin)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                header::IF_NONE_MATCH,
                IDEMPOTENCY_KEY,
            ])
            .expose_headers([
                header::LOCATION,
                header::RETRY_AFTER,
                header::ETAG,
                header::WWW_AUTHENTICATE,
                HeaderName::from_static("server-time"),
                RATE_LIMIT,
                RATE_LIMIT_POLICY,
            ])
            .max_age(MAX_AGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!("*".parse(), Ok(CorsOrigins::Any));
        let listed = "https://shop.example, http://localhost:3000,https://[::1]:8443";
        let Ok(CorsOrigins::Listed(origins)) = listed.parse() else {
            panic!("{listed}")
        };
        assert_eq!(
            origins,
            ["https://shop.example", "http://localhost:3000", "https://[::1]:8443"]
        );
        for bad in [
            "",
            "shop.example",
            "https://",
            "https://shop.example/",
            "https://Shop.example",
            "https://*.example",
            "https://shop.example,",
            "*,https://shop.example",
            "ftp://shop.example",
        ] {
            let error = bad.parse::<CorsOrigins>().expect_err(bad);
            assert!(error.contains("https://shop.example, or *"), "{error}");
        }
    }
}
