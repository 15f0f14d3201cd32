//! The result of a run.
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::answer::{AnswerKind, Counts};
use crate::buyer::BuyerResult;
use crate::latency::{Bucket, Histograms, Latency};

const MAX_SAMPLES: usize = 20;

/// The outcome of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub buyers: u64,
    pub answered: u64,
    #[serde(flatten)]
    pub counts: Counts,
    /// Requests that were sent again.
    pub retries: u64,
    pub connections: u64,
    pub peak_in_flight: u64,
    pub started_at: Timestamp,
    /// When the last buyer got its final answer or gave up.
    pub last_answer_at: Timestamp,
    pub took_s: f64,
    pub latency: Latency,
    /// Buyers by the time from their scheduled arrival to the answer.
    pub latencies: Vec<Bucket>,
    /// The final answers over time.
    pub timeline: Vec<Slice>,
    /// Unexpected answers and missing answers, each with the number of buyers.
    pub samples: Vec<Sample>,
    /// In the order of the answers.
    #[serde(skip)]
    pub wins: Vec<Win>,
}

/// An order that a buyer was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Win {
    pub order_no: String,
    /// The number of the buyer, from 0.
    pub buyer: usize,
    /// When the answer came.
    pub at: Instant,
}

/// The final answers in one slice of the run. A slice is [`SLICE_LENGTH`] long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// Start of the slice, from the start of the run.
    pub from_ms: u64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// The length of a [`Slice`].
pub const SLICE_LENGTH: Duration = Duration::from_millis(100);

/// One answer, and the number of buyers with a similar one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    pub said: String,
    pub buyers: u64,
}

/// Collects the outcome during the run.
pub(crate) struct Tally {
    pub counts: Counts,
    retries: u64,
    histograms: Histograms,
    /// Since the last call of [`Tally::recent`].
    recent: Histograms,
    timeline: Vec<Slice>,
    /// By status and `code`, so that bodies that differ only in a time or an id are one sample.
    samples: HashMap<String, Sample>,
    wins: Vec<Win>,
}

impl Tally {
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Tally {
            counts: Counts::default(),
            retries: 0,
            histograms: Histograms::new()?,
            recent: Histograms::new()?,
            timeline: Vec::new(),
            samples: HashMap::new(),
            wins: Vec::new(),
        })
    }

    /// `at` is the time since the start of the run.
    pub fn add(&mut self, result: BuyerResult, at: Duration) {
        self.counts.add(result.kind);
        let slice = (at.as_millis() / SLICE_LENGTH.as_millis()) as usize;
        while self.timeline.len() <= slice {
            let from_ms = self.timeline.len() as u64 * SLICE_LENGTH.as_millis() as u64;
            let counts = Counts::default();
            self.timeline.push(Slice { from_ms, counts });
        }
        self.timeline[slice].counts.add(result.kind);
        self.retries += u64::from(result.retries);
        self.wins.extend(result.order_no.map(|order_no| Win {
            order_no,
            buyer: result.number,
            at: result.answered_at,
        }));
        if result.kind != AnswerKind::Unanswered {
            self.histograms.record(result.from_send, result.from_schedule);
            self.recent.record(result.from_send, result.from_schedule);
        }
        if let (AnswerKind::Other | AnswerKind::Unanswered, Some(said)) = (result.kind, result.said) {
            self.sample(said);
        }
    }

    /// The latencies since the last call.
    pub fn recent(&mut self) -> Latency {
        let latency = self.recent.summary();
        self.recent.reset();
        latency
    }

    /// Adds a buyer whose task failed.
    pub fn add_failed(&mut self, reason: String) {
        self.counts.add(AnswerKind::Unanswered);
        self.sample(reason);
    }

    fn sample(&mut self, said: String) {
        let has_room = self.samples.len() < MAX_SAMPLES;
        let key = sample_key(&said);
        if let Some(sample) = self.samples.get_mut(&key) {
            sample.buyers += 1;
        } else if has_room {
            self.samples.insert(key, Sample { said, buyers: 1 });
        }
    }

    pub fn finish(&mut self, totals: RunTotals) -> Outcome {
        let mut samples: Vec<_> = self.samples.drain().map(|(_, sample)| sample).collect();
        samples.sort_by(|a, b| b.buyers.cmp(&a.buyers).then_with(|| a.said.cmp(&b.said)));
        Outcome {
            buyers: self.counts.finished(),
            answered: self.counts.answered(),
            counts: self.counts,
            retries: self.retries,
            connections: totals.connections,
            peak_in_flight: totals.peak_in_flight,
            started_at: totals.started_at,
            last_answer_at: totals.last_answer_at,
            took_s: totals.took.as_secs_f64(),
            latency: self.histograms.summary(),
            latencies: self.histograms.distribution(),
            timeline: std::mem::take(&mut self.timeline),
            samples,
            wins: std::mem::take(&mut self.wins),
        }
    }
}

/// Numbers of the run that the answers do not contain.
pub(crate) struct RunTotals {
    pub connections: u64,
    pub peak_in_flight: u64,
    pub started_at: Timestamp,
    pub last_answer_at: Timestamp,
    pub took: Duration,
}

fn sample_key(said: &str) -> String {
    let status = said.split(' ').next().unwrap_or_default();
    let body = said.find('{').map(|at| &said[at..]).unwrap_or_default();
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(body) if body["code"].is_string() => format!("{status} {}", body["code"]),
        _ => said.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(kind: AnswerKind, said: &str) -> BuyerResult {
        BuyerResult {
            number: 0,
            kind,
            order_no: None,
            said: Some(said.into()),
            answered_at: Instant::now(),
            from_send: Duration::from_millis(1),
            from_schedule: Duration::from_millis(1),
            retries: 1,
        }
    }

    #[test]
    fn unexpected_answers_are_sampled_by_code() {
        let mut tally = Tally::new().expect("valid bounds");
        let at = Duration::from_millis(250);
        tally.add(
            result(AnswerKind::Other, r#"503 {"code":"not_ready","instance":"1"}"#),
            at,
        );
        tally.add(
            result(AnswerKind::Other, r#"503 {"code":"not_ready","instance":"2"}"#),
            at,
        );
        tally.add(result(AnswerKind::Unanswered, "no connection: refused"), at);
        tally.add(
            result(AnswerKind::SoldOut, r#"409 {"code":"sold_out"}"#),
            Duration::ZERO,
        );
        let now = Timestamp::UNIX_EPOCH;
        let outcome = tally.finish(RunTotals {
            connections: 1,
            peak_in_flight: 1,
            started_at: now,
            last_answer_at: now,
            took: Duration::ZERO,
        });
        assert_eq!((outcome.buyers, outcome.answered, outcome.retries), (4, 3, 4));
        let finished: Vec<_> = outcome.timeline.iter().map(|slice| slice.counts.finished()).collect();
        assert_eq!(finished, [1, 0, 3]);
        assert_eq!(outcome.timeline[2].from_ms, 200);
        assert_eq!(outcome.samples.len(), 2);
        assert_eq!(outcome.samples[0].buyers, 2);
    }

    #[test]
    fn the_number_of_samples_is_bounded() {
        let mut tally = Tally::new().expect("valid bounds");
        for i in 0..1000 {
            tally.add(result(AnswerKind::Other, &format!("500 oops {i}")), Duration::ZERO);
        }
        assert_eq!(tally.samples.len(), MAX_SAMPLES);
    }
}
