//! Keys of an issuer, and the tokens that they sign.
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// ring does not generate RSA keys, and openssl takes a while.
static RSA: LazyLock<Arc<RsaKeyPair>> = LazyLock::new(|| Arc::new(new_rsa()));

fn new_rsa() -> RsaKeyPair {
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .stderr(Stdio::null())
        .output()
        .expect("openssl is installed");
    let key = PrivatePkcs8KeyDer::from_pem_slice(&made.stdout).expect("a key");
    RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("an RSA key")
}

/// The text of a file that should hold a key.
#[derive(Debug, thiserror::Error)]
#[error(
    "not the private key of an ES256 signature; expected a PEM file as by: openssl genpkey -algorithm EC -pkeyopt \
     ec_paramgen_curve:P-256"
)]
pub struct InvalidKey;

#[derive(Clone)]
pub struct Key {
    pub id: String,
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    Rsa(Arc<RsaKeyPair>),
    Ec(Arc<EcdsaKeyPair>),
    Ed(Arc<Ed25519KeyPair>),
}

impl Key {
    /// All have the same key pair.
    pub fn rsa(id: &str) -> Self {
        Key::new(id, Pair::Rsa(RSA.clone()))
    }

    pub fn ec(id: &str) -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("generated");
        let pair = EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).expect("a key");
        Key::new(id, Pair::Ec(Arc::new(pair)))
    }

    /// A new private key for ES256, as PEM.
    pub fn new_ec_pem() -> String {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("generated");
        let text = STANDARD.encode(key.as_ref());
        let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
        let lines = lines.collect::<Vec<_>>().join("\n");
        format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n")
    }

    /// A private key for ES256. Its id is its thumbprint (RFC 7638), so everyone who reads the file knows the id.
    pub fn ec_from_pem(pem: &str) -> Result<Self, InvalidKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| InvalidKey)?;
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair = EcdsaKeyPair::from_pkcs8(kind, der.secret_pkcs8_der(), &random).map_err(|_| InvalidKey)?;
        let key = Key::new("", Pair::Ec(Arc::new(pair)));
        Ok(key.renamed(&key.thumbprint()))
    }

    /// Of a key for ES256.
    fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let (crv, kty, x, y) = (&jwk["crv"], &jwk["kty"], &jwk["x"], &jwk["y"]);
        let members = format!(r#"{{"crv":{crv},"kty":{kty},"x":{x},"y":{y}}}"#);
        URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
    }

    pub fn ed(id: &str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("generated");
        Key::new(
            id,
            Pair::Ed(Arc::new(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key"))),
        )
    }

    fn new(id: &str, pair: Pair) -> Self {
        let id = id.to_owned();
        Key { id, pair }
    }

    /// The same key pair under another id.
    pub fn renamed(&self, id: &str) -> Self {
        Key::new(id, self.pair.clone())
    }

    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// The bytes of the public key, which everyone knows.
    pub fn public(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ec(pair) => pair.public_key().as_ref(),
            Pair::Ed(pair) => pair.public_key().as_ref(),
        }
    }

    pub fn jwk(&self) -> Value {
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = ring::signature::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encoded(&public.n), "e": encoded(&public.e)})
            }
            Pair::Ec(_) => {
                let (x, y) = self.public()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)})
            }
            Pair::Ed(_) => json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(self.public())}),
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The usual header of a token of this key.
    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"})
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        token(header, claims, |message| match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .expect("signed");
                signature
            }
            Pair::Ec(pair) => pair
                .sign(&SystemRandom::new(), message)
                .expect("signed")
                .as_ref()
                .to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }
}

/// A token with any header, claims and signature.
pub fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_from_a_file_is_the_same_key_each_time() {
        let pem = Key::new_ec_pem();
        let (first, again) = (
            Key::ec_from_pem(&pem).expect("a key"),
            Key::ec_from_pem(&pem).expect("a key"),
        );
        assert_eq!(first.jwk(), again.jwk());
        assert_ne!(
            first.jwk()["kid"],
            Key::ec_from_pem(&Key::new_ec_pem()).expect("a key").jwk()["kid"]
        );
        assert!(Key::ec_from_pem("no key").is_err());
        assert!(Key::ec_from_pem(&pem.replace("PRIVATE", "PUBLIC")).is_err());
    }

    #[test]
    fn openssl_writes_keys_that_can_be_read() {
        let made = Command::new("openssl")
            .args("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256".split(' '))
            .output()
            .expect("openssl is installed");
        let key = Key::ec_from_pem(&String::from_utf8_lossy(&made.stdout)).expect("a key");
        assert_eq!((key.algorithm(), key.id.len()), ("ES256", 43));
    }
}
