//! The token of a request (RFC 6750), from its headers only.
use http::{HeaderMap, header};

use crate::limits::MAX_TOKEN_BYTES;
use crate::problem::Problem;

const SCHEME: &str = "Bearer";

pub fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut sent = headers.get_all(header::AUTHORIZATION).into_iter();
    let value = match (sent.next(), sent.next()) {
        (None, _) => return Err(Problem::TokenMissing),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(Problem::TokenMalformed("there are several Authorization headers")),
    };
    let value = value.to_str().unwrap_or_default();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case(SCHEME) || token.is_empty() {
        return Err(Problem::TokenMalformed("the Authorization header has another form"));
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Problem::TokenMalformed("the token is longer than 8 KiB"));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        token(&headers).map(str::to_owned).map_err(|problem| problem.code())
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "] {
            assert_eq!(token_of(&[value]).as_deref(), Ok("a.b.c"), "{value}");
        }
    }

    #[test]
    fn a_request_has_exactly_one_bounded_token() {
        assert_eq!(token_of(&[]), Err("token_missing"));
        let longest = "x".repeat(MAX_TOKEN_BYTES);
        assert_eq!(token_of(&[&format!("Bearer {longest}")]), Ok(longest.clone()));
        let too_long = format!("Bearer {longest}x");
        for values in [
            &["Bearer a.b.c", "Bearer a.b.c"][..],
            &["Basic YTpi"],
            &["a.b.c"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer \u{e9}"],
            &[""],
            &[&too_long],
        ] {
            assert_eq!(token_of(values), Err("token_malformed"), "{values:?}");
        }
    }
}
