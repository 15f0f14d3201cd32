//! What a scenario needs of an issuer.
use anyhow::Result;

/// An issuer of tokens, and its buyers, who are numbered.
pub trait Issuer: Send + Sync {
    /// The claim `iss`.
    fn url(&self) -> &str;

    /// A new token for the shop.
    fn token(&self, buyer: usize) -> Result<String>;

    /// A new token for another application of the same issuer.
    fn token_of_other_audience(&self, buyer: usize) -> Result<String>;

    /// Later tokens have another key. Tokens of the keys before stay valid.
    fn rotate_keys(&self) -> Result<()>;

    /// It answers nothing until it is started again.
    fn stop(&self) -> Result<()>;

    fn start(&self) -> Result<()>;

    /// A private key of its tokens, as PEM, if it is known.
    fn key_pem(&self) -> Option<&str> {
        None
    }
}

/// Buyers are numbered from 0 to less than this.
pub const BUYERS: usize = 24;
