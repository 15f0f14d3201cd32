//! The target of the load: plain HTTP, and by default only this machine.
use std::net::SocketAddr;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};

/// An invalid target or header.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    #[error("target {0:?} is not a URL; expected for example http://127.0.0.1:8080")]
    NotUrl(String),
    #[error("target {0:?}: only plain http:// is supported; use the ingress or Service behind TLS")]
    NotHttp(String),
    #[error("target {0:?}: a path or query is not allowed; expected for example http://127.0.0.1:8080")]
    Path(String),
    #[error("target {host}: failed to resolve the name: {error}")]
    Unresolved { host: String, error: std::io::Error },
    #[error("header {0:?} is invalid; expected \"Name: value\"")]
    Header(String),
}

/// A resolved address, and the headers of every request.
#[derive(Debug, Clone)]
pub struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) headers: http::HeaderMap,
    authority: Authority,
}

impl Target {
    /// Resolves the address. `headers` are `Name: value` lines. A `Host` header among them replaces the host of the
    /// address, for an ingress that routes by name.
    pub async fn resolve(url: &str, headers: &[String]) -> Result<Self, InvalidTarget> {
        let uri: Uri = url.parse().map_err(|_| InvalidTarget::NotUrl(url.into()))?;
        let authority = uri
            .authority()
            .cloned()
            .ok_or_else(|| InvalidTarget::NotUrl(url.into()))?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(InvalidTarget::NotHttp(url.into()));
        }
        if !matches!(uri.path_and_query().map(|p| p.as_str()), None | Some("/")) {
            return Err(InvalidTarget::Path(url.into()));
        }
        let unresolved = |error| InvalidTarget::Unresolved {
            host: authority.to_string(),
            error,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let address = tokio::net::lookup_host((host, authority.port_u16().unwrap_or(80)))
            .await
            .map_err(unresolved)?
            .next()
            .ok_or_else(|| unresolved(std::io::Error::other("the name has no address")))?;
        Ok(Target {
            address,
            headers: header_map(&authority, headers)?,
            authority,
        })
    }

    /// Whether the target is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

fn header_map(authority: &Authority, lines: &[String]) -> Result<http::HeaderMap, InvalidTarget> {
    let invalid = |line: &str| InvalidTarget::Header(line.into());
    let mut map = http::HeaderMap::new();
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| invalid(authority.as_str()))?;
    map.insert(http::header::HOST, host);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(line))?;
        let name: http::HeaderName = name.trim().parse().map_err(|_| invalid(line))?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| invalid(line))?;
        map.insert(name, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_target_is_plain_http_without_a_path() {
        for bad in [
            "",
            "127.0.0.1",
            "https://127.0.0.1",
            "http://127.0.0.1/v1",
            "http://127.0.0.1/?a",
        ] {
            assert!(Target::resolve(bad, &[]).await.is_err(), "{bad:?}");
        }
        for good in ["http://127.0.0.1", "http://127.0.0.1:8080/", "http://[::1]:80"] {
            let target = Target::resolve(good, &[]).await.expect(good);
            assert!(target.is_loopback(), "{good}");
        }
    }

    #[tokio::test]
    async fn another_machine_is_not_loopback() {
        let target = Target::resolve("http://192.0.2.1:80", &[]).await.expect("an address");
        assert!(!target.is_loopback());
    }

    #[tokio::test]
    async fn a_host_header_replaces_the_host_of_the_address() {
        let headers = ["Host: shop.example".to_string()];
        let target = Target::resolve("http://127.0.0.1:8080", &headers).await.expect("valid");
        assert_eq!(target.headers["host"], "shop.example");
        assert!(Target::resolve("http://127.0.0.1", &["Host".into()]).await.is_err());
    }
}
