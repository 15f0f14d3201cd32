//! The verification of bearer tokens, with real keys and an issuer over HTTP in this process. It needs no other servers.
mod bad_tokens;
mod certificate;
mod fetching;
mod good_tokens;
mod harness;
mod rotation;
