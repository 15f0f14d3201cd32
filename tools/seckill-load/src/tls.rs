//! TLS to a target: which certificates are trusted, and the handshake.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error as TlsError, RootCertStore, crypto};

/// Why no TLS connection can be made.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTls {
    #[error("--ca-file {}: {error}; expected a PEM file with the certificate of the CA", .path.display())]
    CaFile { path: PathBuf, error: PemError },
    #[error("--ca-file {}: no usable certificate; expected a PEM file with the certificate of the CA", .0.display())]
    NoCertificate(PathBuf),
    #[error("this machine has no trusted certificates ({0}); give the CA of the target by --ca-file")]
    NoRoots(String),
    #[error("{0:?} is not a name that a certificate can have")]
    Name(String),
    #[error(transparent)]
    Config(#[from] TlsError),
}

/// The name that the certificate must have, and the certificates that are trusted.
#[derive(Clone)]
pub(crate) struct Tls {
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

impl Tls {
    /// Trusts only the certificates of `ca_file`, or those of the system if there is none.
    pub fn new(host: &str, ca_file: Option<&Path>) -> Result<Self, InvalidTls> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| InvalidTls::Name(host.into()))?;
        let roots = match ca_file {
            Some(path) => roots_of_file(path)?,
            None => roots_of_system()?,
        };
        // Named, because a process can link more than one provider.
        let mut config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Tls { name, connector })
    }

    pub async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// Whether the certificate of the server was refused. Then each further connection fails too.
pub(crate) fn refuses_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<TlsError>());
    matches!(inner, Some(TlsError::InvalidCertificate(_)))
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, InvalidTls> {
    let in_file = |error| InvalidTls::CaFile {
        path: path.into(),
        error,
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(in_file)?.collect();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.map_err(in_file)?);
    match added {
        0 => Err(InvalidTls::NoCertificate(path.into())),
        _ => Ok(roots),
    }
}

fn roots_of_system() -> Result<RootCertStore, InvalidTls> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match added {
        0 => Err(InvalidTls::NoRoots(
            found
                .errors
                .first()
                .map_or_else(|| "none found".into(), ToString::to_string),
        )),
        _ => Ok(roots),
    }
}
