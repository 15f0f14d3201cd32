//! A certificate for tests of HTTPS. The tests of seckill-load use it too.
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

/// A certificate that signs itself, made by openssl.
pub struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    pub fn of(host: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("seckill-certificate-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("created");
        let config = format!(
            "[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=extensions\n[name]\nCN={host}\n\
             [extensions]\nbasicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:{host}\n"
        );
        std::fs::write(folder.join("openssl.cnf"), config).expect("written");
        let made = std::process::Command::new("openssl")
            .args(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -config openssl.cnf -keyout key.pem -out ca.pem".split(' '),
            )
            .current_dir(&folder)
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Certificate { folder }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_file(self.folder.join("key.pem")).expect("a key");
        let certificate = CertificateDer::from_pem_file(self.ca_file()).expect("a certificate");
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("the key of the certificate");
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
