//! What an answer says, for each of the two interfaces.
use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::{Deserialize, Serialize};

use crate::plan::Route;

/// What a buyer was told at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Won,
    SoldOut,
    NotStarted,
    Ended,
    /// An answer of another kind; a sample of each is kept.
    Other,
    /// No answer that says what became of the purchase.
    Unanswered,
}

/// Buyers by what they were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub won: u64,
    pub sold_out: u64,
    pub not_started: u64,
    pub ended: u64,
    pub other: u64,
    pub unanswered: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind) {
        *match kind {
            Kind::Won => &mut self.won,
            Kind::SoldOut => &mut self.sold_out,
            Kind::NotStarted => &mut self.not_started,
            Kind::Ended => &mut self.ended,
            Kind::Other => &mut self.other,
            Kind::Unanswered => &mut self.unanswered,
        } += 1;
    }

    /// Buyers who know where they stand.
    pub fn answered(&self) -> u64 {
        self.won + self.sold_out + self.not_started + self.ended + self.other
    }

    pub fn settled(&self) -> u64 {
        self.answered() + self.unanswered
    }
}

/// What one answer means to the buyer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Won {
        order_no: String,
    },
    /// Not won; the text is what a sample shows.
    Lost(Kind, String),
    /// Ask again, with the same key. `kind` is what the buyer counts as if it gives up.
    Again {
        after: Option<Duration>,
        kind: Kind,
        why: String,
    },
}

/// Reads an answer.
pub(crate) fn meaning(route: &Route, status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Meaning {
    let said = || sample(status, body);
    match route {
        Route::V1 { .. } => {
            let answer: V1Answer = serde_json::from_slice(body).unwrap_or_default();
            let again = |kind| Meaning::Again {
                after: retry_after(headers),
                kind,
                why: said(),
            };
            match (status.as_u16(), answer.code.as_deref()) {
                // The order exists or not, nobody knows yet: the buyer has no answer.
                (202, _) | (409, Some("in_progress")) | (503, Some("outcome_unknown")) => again(Kind::Unanswered),
                // An answer, though no useful one: nothing was bought.
                (408 | 429, _) | (503, Some(_)) => again(Kind::Other),
                (200..300, _) => match answer.order_no {
                    Some(order_no) if !order_no.is_empty() => Meaning::Won { order_no },
                    _ => Meaning::Lost(Kind::Other, said()),
                },
                (409, Some("sold_out")) => Meaning::Lost(Kind::SoldOut, said()),
                (409, Some("not_started")) => Meaning::Lost(Kind::NotStarted, said()),
                (410, Some("ended")) => Meaning::Lost(Kind::Ended, said()),
                // A fault, or a gateway that lost its upstream: the purchase may have happened. The key makes it safe to
                // ask.
                (500 | 502..=504, _) => again(Kind::Unanswered),
                _ => Meaning::Lost(Kind::Other, said()),
            }
        }
        Route::Legacy { .. } => {
            let answer: LegacyAnswer = serde_json::from_slice(body).unwrap_or_default();
            let code = answer.status.and_then(|s| s.code).or(answer.code);
            match (status.is_success(), code.as_deref(), answer.order_id) {
                (true, Some("10000"), Some(order_no)) if !order_no.is_empty() => Meaning::Won { order_no },
                (_, Some("42002"), _) => Meaning::Lost(Kind::SoldOut, said()),
                _ => Meaning::Lost(Kind::Other, said()),
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

/// Seconds only: nobody who answers a purchase sends a date.
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

    fn v1(status: u16, body: &str) -> Meaning {
        let route = Route::v1("shop/phones", 1).expect("valid");
        let status = StatusCode::from_u16(status).expect("valid");
        meaning(&route, status, &http::HeaderMap::new(), body.as_bytes())
    }

    fn legacy(status: u16, body: &str) -> Meaning {
        let status = StatusCode::from_u16(status).expect("valid");
        let headers = http::HeaderMap::new();
        meaning(&Route::Legacy { item_id: 1 }, status, &headers, body.as_bytes())
    }

    fn kind(meaning: &Meaning) -> Kind {
        match meaning {
            Meaning::Won { .. } => Kind::Won,
            Meaning::Lost(kind, _) | Meaning::Again { kind, .. } => *kind,
        }
    }

    #[test]
    fn each_answer_of_the_v1_route_has_its_kind() {
        let final_answers = [
            (201, r#"{"order_no":"1ABC","status":"processing"}"#, Kind::Won),
            (409, r#"{"code":"sold_out"}"#, Kind::SoldOut),
            (409, r#"{"code":"not_started"}"#, Kind::NotStarted),
            (410, r#"{"code":"ended"}"#, Kind::Ended),
            (409, r#"{"code":"limit_reached"}"#, Kind::Other),
            (400, "no JSON", Kind::Other),
            (201, "{}", Kind::Other),
            (404, r#"{"code":"sale_unknown"}"#, Kind::Other),
        ];
        for (status, body, wanted) in final_answers {
            let meaning = v1(status, body);
            assert_eq!(kind(&meaning), wanted, "{status} {body}");
            assert!(!matches!(meaning, Meaning::Again { .. }), "{status} {body}");
        }
    }

    #[test]
    fn a_fault_is_asked_again_and_is_never_sold_out() {
        let again = [
            (202, "", Kind::Unanswered),
            (409, r#"{"code":"in_progress"}"#, Kind::Unanswered),
            (429, "", Kind::Other),
            (503, r#"{"code":"sold_out"}"#, Kind::Other),
            (503, r#"{"code":"outcome_unknown"}"#, Kind::Unanswered),
            (500, r#"{"code":"internal"}"#, Kind::Unanswered),
            (503, "upstream reset", Kind::Unanswered),
            (502, "bad gateway", Kind::Unanswered),
        ];
        for (status, body, wanted) in again {
            let meaning = v1(status, body);
            assert!(matches!(meaning, Meaning::Again { .. }), "{status}");
            assert_eq!(kind(&meaning), wanted, "{status}");
        }
    }

    #[test]
    fn the_old_demo_s_answers_have_their_kinds() {
        let won = legacy(200, r#"{"status":{"code":"10000","message":"ok"},"order_id":"1ABC"}"#);
        assert_eq!(
            won,
            Meaning::Won {
                order_no: "1ABC".into()
            }
        );
        assert_eq!(
            kind(&legacy(400, r#"{"code":"42002","message":"out of stock"}"#)),
            Kind::SoldOut
        );
        assert_eq!(kind(&legacy(400, r#"{"status":{"code":"42002"}}"#)), Kind::SoldOut);
        assert_eq!(kind(&legacy(400, r#"{"code":"42003"}"#)), Kind::Other);
        assert_eq!(kind(&legacy(500, "oops")), Kind::Other);
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
