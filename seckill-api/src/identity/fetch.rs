//! Fetches the key set of an issuer over HTTP. No redirects, no proxies, and bounds on the time and the size of an answer.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, Error as TlsError, RootCertStore, crypto};

use super::config::{InvalidIssuers, IssuerConfig};

/// For all requests of one fetch together.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no complete answer within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
    #[error("GET {uri}: {error}")]
    Connection { uri: Uri, error: String },
    #[error("GET {uri}: status {status}; expected 200, redirects are not followed")]
    Status { uri: Uri, status: StatusCode },
    #[error("GET {0}: the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong(Uri),
    #[error("the discovery document has no `issuer` and `jwks_uri`: {0}")]
    Discovery(serde_json::Error),
    #[error(
        "the discovery document is of the issuer {found:?}, not {expected:?}: set the url of the issuer to this text"
    )]
    OtherIssuer { found: String, expected: String },
    #[error("the discovery document has the jwks_uri {0:?}; expected an absolute URL with the scheme of the issuer")]
    KeysUri(String),
}

pub struct KeyFetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    source: Source,
}

/// Where the address of the key set comes from.
enum Source {
    Configured(Uri),
    Discovery { document: Uri, issuer: String },
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl KeyFetcher {
    pub fn new(issuer: &IssuerConfig) -> Result<Self, InvalidIssuers> {
        let source = match &issuer.jwks_url {
            Some(url) => Source::Configured(uri(issuer, "jwksUrl", url)?),
            None => Source::Discovery {
                document: uri(
                    issuer,
                    "url",
                    &(issuer.url.trim_end_matches('/').to_owned() + DISCOVERY_PATH),
                )?,
                issuer: issuer.url.clone(),
            },
        };
        let fetcher = KeyFetcher {
            client: client(issuer, source.has_tls())?,
            source,
        };
        if !fetcher.source.has_tls() {
            let name = &issuer.name;
            tracing::warn!(
                issuer = name,
                "keys are fetched without TLS: anyone who controls the network can forge tokens"
            );
        }
        Ok(fetcher)
    }

    /// The key set, as it was published.
    pub async fn fetch(&self) -> Result<Bytes, FetchError> {
        let fetched = async {
            match &self.source {
                Source::Configured(keys) => self.get(keys).await,
                Source::Discovery { document, issuer } => {
                    let keys = self.discover(document, issuer).await?;
                    self.get(&keys).await
                }
            }
        };
        timeout(FETCH_TIMEOUT, fetched)
            .await
            .unwrap_or(Err(FetchError::Timeout))
    }

    async fn discover(&self, document: &Uri, issuer: &str) -> Result<Uri, FetchError> {
        let answer = self.get(document).await?;
        let found: Discovery = serde_json::from_slice(&answer).map_err(FetchError::Discovery)?;
        if found.issuer != issuer {
            return Err(FetchError::OtherIssuer {
                found: found.issuer,
                expected: issuer.to_owned(),
            });
        }
        let keys = found.jwks_uri.parse::<Uri>().ok();
        // Not from https to http, where everyone on the way could replace the keys.
        let keys = keys.filter(|keys| keys.authority().is_some() && keys.scheme() == document.scheme());
        keys.ok_or(FetchError::KeysUri(found.jwks_uri))
    }

    async fn get(&self, uri: &Uri) -> Result<Bytes, FetchError> {
        let failed = |error: String| FetchError::Connection {
            uri: uri.clone(),
            error,
        };
        let request = Request::get(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("seckill-api/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| failed(error.to_string()))?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| failed(with_causes(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status {
                uri: uri.clone(),
                status: answer.status(),
            });
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        match body.collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLong(uri.clone())),
            Err(error) => Err(failed(with_causes(error.as_ref()))),
        }
    }
}

impl Source {
    fn has_tls(&self) -> bool {
        let (Source::Configured(uri) | Source::Discovery { document: uri, .. }) = self;
        uri.scheme_str() == Some("https")
    }
}

fn uri(issuer: &IssuerConfig, field: &'static str, text: &str) -> Result<Uri, InvalidIssuers> {
    text.parse().map_err(|_| InvalidIssuers::Url {
        issuer: issuer.name.clone(),
        field,
        value: text.to_owned(),
        example: "https://login.example.com/realms/shop",
    })
}

/// The error of the client does not show its cause.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Keeps no connections: the next fetch is minutes away.
fn client(
    issuer: &IssuerConfig,
    has_tls: bool,
) -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, InvalidIssuers> {
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls(issuer, has_tls)?);
    let connector = match has_tls {
        true => connector.https_only(),
        false => connector.https_or_http(),
    };
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector.enable_http1().build());
    Ok(client)
}

fn tls(issuer: &IssuerConfig, has_tls: bool) -> Result<ClientConfig, InvalidIssuers> {
    let roots = match &issuer.ca_file {
        Some(path) => roots_of_file(issuer, path)?,
        None if has_tls => roots_of_system(issuer)?,
        None => RootCertStore::empty(),
    };
    // Named, because a process can link more than one provider.
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error: TlsError| InvalidIssuers::NoRoots {
            issuer: issuer.name.clone(),
            problem: error.to_string(),
        })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn roots_of_file(issuer: &IssuerConfig, path: &Path) -> Result<RootCertStore, InvalidIssuers> {
    let refused = |problem: String| InvalidIssuers::CaFile {
        issuer: issuer.name.clone(),
        path: path.into(),
        problem,
    };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| refused(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(refused("no usable certificate".to_owned())),
        _ => Ok(roots),
    }
}

fn roots_of_system(issuer: &IssuerConfig) -> Result<RootCertStore, InvalidIssuers> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(found.certs) {
        (0, _) => Err(InvalidIssuers::NoRoots {
            issuer: issuer.name.clone(),
            problem: found
                .errors
                .first()
                .map_or("none found".to_owned(), ToString::to_string),
        }),
        _ => Ok(roots),
    }
}
