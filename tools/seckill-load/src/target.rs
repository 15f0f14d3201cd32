//! The target of the load: HTTP or HTTPS, and by default only this machine.
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls::{InvalidTls, Tls, refuses_certificate};

/// How long the check of the certificate before a run may take.
const CERTIFICATE_CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// An invalid target or header.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    #[error("target {0:?} is not a URL; expected for example http://127.0.0.1:8080")]
    NotUrl(String),
    #[error("target {0:?}: expected http:// or https://, for example http://127.0.0.1:8080")]
    NotHttp(String),
    #[error("target {0:?}: --ca-file needs https://, because plain HTTP has no certificate")]
    CaWithoutTls(String),
    #[error("target {0}: {1}")]
    Tls(String, InvalidTls),
    #[error(
        "target {target}: its certificate is not trusted: {error}; give the CA that signed it by --ca-file, and use a \
         name of the certificate in the URL or as --header \"Host: NAME\""
    )]
    Certificate { target: String, error: std::io::Error },
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
    pub(crate) tls: Option<Tls>,
    authority: Authority,
}

impl Target {
    /// Resolves the address. `headers` are `Name: value` lines. A `Host` header among them replaces the host of the
    /// address, for an ingress that routes by name. With https, the system's certificates are trusted.
    pub async fn resolve(url: &str, headers: &[String]) -> Result<Self, InvalidTarget> {
        Self::resolve_with_ca(url, headers, None).await
    }

    /// Like [`Target::resolve`], but with https only certificates that a CA of this PEM file signed are trusted.
    pub async fn resolve_with_ca(url: &str, headers: &[String], ca_file: Option<&Path>) -> Result<Self, InvalidTarget> {
        let uri: Uri = url.parse().map_err(|_| InvalidTarget::NotUrl(url.into()))?;
        let authority = uri
            .authority()
            .cloned()
            .ok_or_else(|| InvalidTarget::NotUrl(url.into()))?;
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        if !https && uri.scheme() != Some(&Scheme::HTTP) {
            return Err(InvalidTarget::NotHttp(url.into()));
        }
        if !https && ca_file.is_some() {
            return Err(InvalidTarget::CaWithoutTls(url.into()));
        }
        if !matches!(uri.path_and_query().map(|p| p.as_str()), None | Some("/")) {
            return Err(InvalidTarget::Path(url.into()));
        }
        let unresolved = |error| InvalidTarget::Unresolved {
            host: authority.to_string(),
            error,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let default_port = if https { 443 } else { 80 };
        let address = tokio::net::lookup_host((host, authority.port_u16().unwrap_or(default_port)))
            .await
            .map_err(unresolved)?
            .next()
            .ok_or_else(|| unresolved(std::io::Error::other("the name has no address")))?;
        let headers = header_map(&authority, headers)?;
        let tls = match https {
            true => Some(tls_of(url, &headers, ca_file)?),
            false => None,
        };
        Ok(Target {
            address,
            headers,
            tls,
            authority,
        })
    }

    /// Fails if the server has a certificate that is not trusted. What else can fail is left to the run.
    pub async fn check_certificate(&self) -> Result<(), InvalidTarget> {
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        let connect = async { tls.handshake(TcpStream::connect(self.address).await?).await };
        match timeout(CERTIFICATE_CHECK_TIMEOUT, connect).await {
            Ok(Err(error)) if refuses_certificate(&error) => Err(InvalidTarget::Certificate {
                target: self.to_string(),
                error,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the target is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// The certificate must have the name of the Host header, by which an ingress chooses it.
fn tls_of(url: &str, headers: &http::HeaderMap, ca_file: Option<&Path>) -> Result<Tls, InvalidTarget> {
    let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let authority: Option<Authority> = host.and_then(|host| host.parse().ok());
    let Some(authority) = authority else {
        return Err(InvalidTarget::Header(format!("Host: {}", host.unwrap_or_default())));
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    Tls::new(name, ca_file).map_err(|error| InvalidTarget::Tls(url.into(), error))
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
    async fn a_target_is_http_without_a_path() {
        for bad in [
            "",
            "127.0.0.1",
            "ftp://127.0.0.1",
            "https://127.0.0.1/v1",
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
    async fn a_ca_file_needs_https_and_a_certificate() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        for (url, said) in [
            ("http://127.0.0.1", "needs https"),
            ("https://127.0.0.1", "expected a PEM file"),
        ] {
            let error = Target::resolve_with_ca(url, &[], Some(&file)).await.expect_err(url);
            assert!(error.to_string().contains(said), "{error}");
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
