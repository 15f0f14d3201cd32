//! Two CAs, and what they have signed: the TLS of the servers, beside their ports without.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::command::output;

/// `ca.crt`, `server.crt`, `server.key`, `server.pem` (both), `client.crt`, `client.key`; `other-ca.crt` has signed nothing.
/// `next-ca.crt` has signed `next-server.*`, by which a test replaces those of the servers.
#[derive(Debug, Clone)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// The certificate of the servers is for this address only.
    pub fn create(state: &Path, address: &str) -> Result<Self> {
        let certificates = Certificates(state.join("tls"));
        if certificates.0.exists() {
            let newest = certificates.file("next-server.pem");
            ensure!(
                newest.exists(),
                "an older version has created the certificates: run `cargo xtask down` first"
            );
            return Ok(certificates);
        }
        // Created under another name, so that an interrupted creation is not used.
        let partial = Certificates(state.join("tls-partial"));
        if partial.0.exists() {
            fs::remove_dir_all(&partial.0)?;
        }
        fs::create_dir_all(&partial.0)?;
        partial.authority("ca", "Seckill test CA")?;
        partial.authority("other-ca", "another CA")?;
        partial.authority("next-ca", "Seckill next test CA")?;
        for (ca, server) in [("ca", "server"), ("next-ca", "next-server")] {
            partial.sign(ca, server, "servers", &format!("subjectAltName=IP:{address}"))?;
            let pair = ["key", "crt"].map(|kind| fs::read_to_string(partial.file(&format!("{server}.{kind}"))));
            let [key, certificate] = pair;
            fs::write(partial.file(&format!("{server}.pem")), key? + &certificate?)?;
        }
        partial.sign("ca", "client", "client", "extendedKeyUsage=clientAuth")?;
        fs::rename(&partial.0, &certificates.0)?;
        Ok(certificates)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn authority(&self, name: &str, subject: &str) -> Result<()> {
        let mut request = self.request(name, subject);
        request
            .args(["-x509", "-days", "3650", "-out"])
            .arg(self.file(&format!("{name}.crt")));
        output(&mut request).map(drop)
    }

    fn sign(&self, ca: &str, name: &str, subject: &str, extension: &str) -> Result<()> {
        let request_file = self.file(&format!("{name}.csr"));
        let mut request = self.request(name, subject);
        request.args(["-addext", extension, "-out"]).arg(&request_file);
        output(&mut request)?;
        let mut sign = Command::new("openssl");
        sign.args(["x509", "-req", "-days", "3650", "-copy_extensions", "copy", "-in"])
            .arg(&request_file);
        sign.arg("-CA")
            .arg(self.file(&format!("{ca}.crt")))
            .arg("-CAkey")
            .arg(self.file(&format!("{ca}.key")));
        sign.arg("-out").arg(self.file(&format!("{name}.crt")));
        output(&mut sign)?;
        Ok(fs::remove_file(request_file)?)
    }

    fn request(&self, name: &str, subject: &str) -> Command {
        let mut request = Command::new("openssl");
        request
            .args([
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-noenc",
                "-keyout",
            ])
            .arg(self.file(&format!("{name}.key")))
            .args(["-subj", &format!("/CN={subject}")]);
        request
    }
}
