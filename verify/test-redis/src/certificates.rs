//! A CA of its own, made by openssl, with the certificates of a server and a client.
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFIGURATION: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = test
[ca]
basicConstraints = critical,CA:true
keyUsage = keyCertSign
[server]
basicConstraints = critical,CA:false
subjectAltName = DNS:localhost
[client]
basicConstraints = critical,CA:false
";

/// The files are deleted when it is dropped.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// The server is called localhost.
    pub fn make() -> Self {
        let folder = std::env::temp_dir().join(format!("seckill-test-ca-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).expect("a folder");
        let certificates = Certificates { folder };
        std::fs::write(certificates.file("openssl.cnf"), CONFIGURATION).expect("written");
        certificates.sign("ca", "");
        certificates.sign("server", " -CA ca.crt -CAkey ca.key");
        certificates.sign("client", " -CA ca.crt -CAkey ca.key");
        certificates
    }

    fn sign(&self, name: &str, by: &str) {
        let words = format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -config openssl.cnf -extensions {name} -keyout {name}.key -out \
             {name}.crt{by}"
        );
        let made = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(&self.folder)
            .output();
        let made = made.expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn ca(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// The certificate of the client, and its key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.file("client.crt"), self.file("client.key"))
    }

    /// The options of a server that also listens on this port with TLS, and asks for the certificate of a client.
    pub fn server_options(&self, port: u16) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let files = [
            ("--tls-cert-file", self.file("server.crt")),
            ("--tls-key-file", self.file("server.key")),
            ("--tls-ca-cert-file", self.ca()),
        ];
        let files = files
            .iter()
            .flat_map(|(option, file)| [(*option).to_owned(), text(file)]);
        ["--tls-port".to_owned(), port.to_string()]
            .into_iter()
            .chain(files)
            .collect()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
