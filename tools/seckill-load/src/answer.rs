//! Parsing of answers, for each of the two interfaces.
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::{Deserialize, Serialize};

use crate::plan::Route;

/// The final answer to a buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerKind {
    Won,
    SoldOut,
    NotStarted,
    Ended,
    /// The buyer has as many units as one buyer may have.
    LimitReached,
    /// Any other answer. A sample of each is kept.
    Other,
    /// No answer tells the result of the purchase.
    Unanswered,
}

/// Buyers by their final answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub won: u64,
    pub sold_out: u64,
    pub not_started: u64,
    pub ended: u64,
    pub limit_reached: u64,
    pub other: u64,
    pub unanswered: u64,
}

/// Without the zeros.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (self.won, "won"),
            (self.sold_out, "sold out"),
            (self.not_started, "not started"),
            (self.ended, "ended"),
            (self.limit_reached, "limit reached"),
            (self.other, "other"),
            (self.unanswered, "unanswered"),
        ];
        let present = named.iter().filter(|(count, _)| *count > 0);
        let present: Vec<_> = present.map(|(count, name)| format!("{count} {name}")).collect();
        f.write_str(&present.join(", "))
    }
}

impl Counts {
    pub(crate) fn add(&mut self, kind: AnswerKind) {
        *match kind {
            AnswerKind::Won => &mut self.won,
            AnswerKind::SoldOut => &mut self.sold_out,
            AnswerKind::NotStarted => &mut self.not_started,
            AnswerKind::Ended => &mut self.ended,
            AnswerKind::LimitReached => &mut self.limit_reached,
            AnswerKind::Other => &mut self.other,
            AnswerKind::Unanswered => &mut self.unanswered,
        } += 1;
    }

    /// Buyers with a final answer.
    pub fn answered(&self) -> u64 {
        self.won + self.sold_out + self.not_started + self.ended + self.limit_reached + self.other
    }

    /// Buyers who have a final answer or gave up.
    pub fn finished(&self) -> u64 {
        self.answered() + self.unanswered
    }
}

/// An answer, and what the buyer does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedAnswer {
    Won {
        order_no: String,
    },
    /// Not won. The text is for a sample.
    Lost(AnswerKind, String),
    /// The buyer retries with the same key. If it gives up instead, it counts as `kind`.
    Retry {
        after: Option<Duration>,
        kind: AnswerKind,
        reason: String,
    },
}

pub(crate) fn parse(route: &Route, status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> ParsedAnswer {
    let text = || sample(status, body);
    match route {
        Route::V1 { .. } => {
            let answer: V1Answer = serde_json::from_slice(body).unwrap_or_default();
            let retry = |kind| ParsedAnswer::Retry {
                after: retry_after(headers),
                kind,
                reason: text(),
            };
            match (status.as_u16(), answer.code.as_deref()) {
                // It is not known yet whether the order exists: the buyer has no answer.
                (202, _) | (409, Some("in_progress")) | (503, Some("outcome_unknown")) => retry(AnswerKind::Unanswered),
                // An answer: nothing was bought.
                (408 | 429, _) | (503, Some(_)) => retry(AnswerKind::Other),
                (200..300, _) => match answer.order_no {
                    Some(order_no) if !order_no.is_empty() => ParsedAnswer::Won { order_no },
                    _ => ParsedAnswer::Lost(AnswerKind::Other, text()),
                },
                (409, Some("sold_out")) => ParsedAnswer::Lost(AnswerKind::SoldOut, text()),
                (409, Some("not_started")) => ParsedAnswer::Lost(AnswerKind::NotStarted, text()),
                (410, Some("ended")) => ParsedAnswer::Lost(AnswerKind::Ended, text()),
                (409, Some("limit_reached")) => ParsedAnswer::Lost(AnswerKind::LimitReached, text()),
                // A fault, or a gateway that lost its upstream: the purchase may have happened. The key makes a retry safe.
                (500 | 502..=504, _) => retry(AnswerKind::Unanswered),
                _ => ParsedAnswer::Lost(AnswerKind::Other, text()),
            }
        }
        Route::Legacy { .. } => {
            let answer: LegacyAnswer = serde_json::from_slice(body).unwrap_or_default();
            let code = answer.status.and_then(|s| s.code).or(answer.code);
            match (status.is_success(), code.as_deref(), answer.order_id) {
                (true, Some("10000"), Some(order_no)) if !order_no.is_empty() => ParsedAnswer::Won { order_no },
                (_, Some("42002"), _) => ParsedAnswer::Lost(AnswerKind::SoldOut, text()),
                _ => ParsedAnswer::Lost(AnswerKind::Other, text()),
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct V1Answer {
    order_no: Option<String>,
    code: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LegacyAnswer {
    status: Option<LegacyStatus>,
    code: Option<String>,
    order_id: Option<String>,
}

#[derive(Deserialize)]
struct LegacyStatus {
    code: Option<String>,
}

/// In seconds only: no server sends a date in the answer to a purchase.
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The status and the beginning of the body, on one line.
fn sample(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(400)]);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{} {line}", status.as_u16()).trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(status: u16, body: &str) -> ParsedAnswer {
        let route = Route::v1("shop/phones", 1).expect("valid");
        let status = StatusCode::from_u16(status).expect("valid");
        parse(&route, status, &http::HeaderMap::new(), body.as_bytes())
    }

    fn legacy(status: u16, body: &str) -> ParsedAnswer {
        let status = StatusCode::from_u16(status).expect("valid");
        let headers = http::HeaderMap::new();
        parse(&Route::Legacy { item_id: 1 }, status, &headers, body.as_bytes())
    }

    fn kind(answer: &ParsedAnswer) -> AnswerKind {
        match answer {
            ParsedAnswer::Won { .. } => AnswerKind::Won,
            ParsedAnswer::Lost(kind, _) | ParsedAnswer::Retry { kind, .. } => *kind,
        }
    }

    #[test]
    fn each_v1_answer_has_its_kind() {
        let final_answers = [
            (201, r#"{"order_no":"1ABC","status":"processing"}"#, AnswerKind::Won),
            (409, r#"{"code":"sold_out"}"#, AnswerKind::SoldOut),
            (409, r#"{"code":"not_started"}"#, AnswerKind::NotStarted),
            (410, r#"{"code":"ended"}"#, AnswerKind::Ended),
            (409, r#"{"code":"limit_reached"}"#, AnswerKind::LimitReached),
            (401, r#"{"code":"token_expired"}"#, AnswerKind::Other),
            (400, "no JSON", AnswerKind::Other),
            (201, "{}", AnswerKind::Other),
            (404, r#"{"code":"sale_unknown"}"#, AnswerKind::Other),
        ];
        for (status, body, wanted) in final_answers {
            let answer = v1(status, body);
            assert_eq!(kind(&answer), wanted, "{status} {body}");
            assert!(!matches!(answer, ParsedAnswer::Retry { .. }), "{status} {body}");
        }
    }

    #[test]
    fn a_fault_is_retried_and_is_never_sold_out() {
        let retried = [
            (202, "", AnswerKind::Unanswered),
            (409, r#"{"code":"in_progress"}"#, AnswerKind::Unanswered),
            (429, "", AnswerKind::Other),
            (503, r#"{"code":"sold_out"}"#, AnswerKind::Other),
            (503, r#"{"code":"outcome_unknown"}"#, AnswerKind::Unanswered),
            (500, r#"{"code":"internal"}"#, AnswerKind::Unanswered),
            (503, "upstream reset", AnswerKind::Unanswered),
            (502, "bad gateway", AnswerKind::Unanswered),
        ];
        for (status, body, wanted) in retried {
            let answer = v1(status, body);
            assert!(matches!(answer, ParsedAnswer::Retry { .. }), "{status}");
            assert_eq!(kind(&answer), wanted, "{status}");
        }
    }

    #[test]
    fn each_legacy_answer_has_its_kind() {
        let won = legacy(200, r#"{"status":{"code":"10000","message":"ok"},"order_id":"1ABC"}"#);
        assert_eq!(
            won,
            ParsedAnswer::Won {
                order_no: "1ABC".into()
            }
        );
        assert_eq!(
            kind(&legacy(400, r#"{"code":"42002","message":"out of stock"}"#)),
            AnswerKind::SoldOut
        );
        assert_eq!(
            kind(&legacy(400, r#"{"status":{"code":"42002"}}"#)),
            AnswerKind::SoldOut
        );
        assert_eq!(kind(&legacy(400, r#"{"code":"42003"}"#)), AnswerKind::Other);
        assert_eq!(kind(&legacy(500, "oops")), AnswerKind::Other);
    }

    #[test]
    fn a_sample_is_one_bounded_line() {
        let status = StatusCode::BAD_REQUEST;
        assert_eq!(sample(status, b"{\n  \"a\": 1\n}"), "400 { \"a\": 1 }");
        assert!(sample(status, &[b'x'; 10_000]).len() < 500);
        assert_eq!(sample(status, b""), "400");
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert(RETRY_AFTER, http::HeaderValue::from_static("2"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(2)));
        headers.insert(RETRY_AFTER, http::HeaderValue::from_static("soon"));
        assert_eq!(retry_after(&headers), None);
    }
}
