//! Files for TLS to a server. Their paths are arguments; what they hold is checked when the program starts.
use std::fs;
use std::path::PathBuf;

use super::Expected;

/// A file with at least one certificate, for clap.
pub fn certificate_file(path: &str) -> Result<PathBuf, Expected> {
    pem_file(
        path,
        "CERTIFICATE",
        "a file with certificates in PEM (-----BEGIN CERTIFICATE-----)",
    )
}

/// A file with a private key, for clap.
pub fn key_file(path: &str) -> Result<PathBuf, Expected> {
    pem_file(
        path,
        "PRIVATE KEY",
        "a file with a private key in PEM, without a password (-----BEGIN PRIVATE KEY-----)",
    )
}

/// The error never shows what is in the file.
fn pem_file(path: &str, label: &str, what: &str) -> Result<PathBuf, Expected> {
    let text = fs::read(path).map_err(|error| Expected::new(format!("{what}; reading {path} failed: {error}")))?;
    let text = String::from_utf8_lossy(&text);
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"));
    if !text.lines().any(begins) {
        return Err(Expected::new(format!("{what}; {path} has none")));
    }
    if label == "PRIVATE KEY" && text.contains("ENCRYPTED") {
        return Err(Expected::new(format!("{what}; the key in {path} is encrypted")));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_right_kind_are_accepted() {
        let folder = std::env::temp_dir().join(format!("seckill-pem-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let certificate = file(
            "ca.crt",
            "text\n-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n",
        );
        let key = file(
            "tls.key",
            "-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----\n",
        );
        let encrypted = file("enc.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nhunter2\n");
        assert_eq!(certificate_file(&certificate), Ok(certificate.clone().into()));
        assert_eq!(key_file(&key), Ok(key.clone().into()));
        for (refused, why) in [
            (certificate_file(&key), "has none"),
            (key_file(&certificate), "has none"),
            (key_file(&encrypted), "is encrypted"),
            (certificate_file("/no/such/file"), "No such file"),
        ] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(why) && !refused.contains("hunter2"), "{refused}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
