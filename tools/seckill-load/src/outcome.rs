//! What a run found.
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::answer::{Counts, Kind};
use crate::buyer::Settled;
use crate::latency::{Bucket, Histograms, Latency};

/// Different answers that are kept as samples.
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
    /// When the last buyer was settled.
    pub last_answer_at: Timestamp,
    pub took_s: f64,
    pub latency: Latency,
    /// Buyers by the time from their scheduled arrival to the answer.
    pub latencies: Vec<Bucket>,
    /// What the buyers heard, by when.
    pub timeline: Vec<Slice>,
    /// Answers of kinds that need a look, and why buyers went unanswered; how often each.
    pub samples: Vec<Sample>,
    /// In the order in which the buyers heard of them.
    #[serde(skip)]
    pub order_numbers: Vec<String>,
}

/// The buyers who heard in a stretch of the run, each [`SLICE`] long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// From the start of the run to the slice's.
    pub from_ms: u64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// How long a [`Slice`] is.
pub const SLICE: Duration = Duration::from_millis(100);

/// One answer, and how many buyers had one of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    pub said: String,
    pub buyers: u64,
}

/// The outcome as it grows.
pub(crate) struct Tally {
    pub counts: Counts,
    retries: u64,
    histograms: Histograms,
    timeline: Vec<Slice>,
    /// By status and `code` only, so that bodies that differ in a time or an id are one sample.
    samples: HashMap<String, Sample>,
    order_numbers: Vec<String>,
}

impl Tally {
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Tally {
            counts: Counts::default(),
            retries: 0,
            histograms: Histograms::new()?,
            timeline: Vec::new(),
            samples: HashMap::new(),
            order_numbers: Vec::new(),
        })
    }

    /// `at`: since the start of the run.
    pub fn add(&mut self, settled: Settled, at: Duration) {
        self.counts.add(settled.kind);
        let slice = (at.as_millis() / SLICE.as_millis()) as usize;
        while self.timeline.len() <= slice {
            let from_ms = self.timeline.len() as u64 * SLICE.as_millis() as u64;
            let counts = Counts::default();
            self.timeline.push(Slice { from_ms, counts });
        }
        self.timeline[slice].counts.add(settled.kind);
        self.retries += u64::from(settled.retries);
        self.order_numbers.extend(settled.order_no);
        if settled.kind != Kind::Unanswered {
            self.histograms.record(settled.from_send, settled.from_schedule);
        }
        if let (Kind::Other | Kind::Unanswered, Some(said)) = (settled.kind, settled.said) {
            self.sample(said);
        }
    }

    /// A buyer that never came back.
    pub fn add_lost(&mut self, why: String) {
        self.counts.add(Kind::Unanswered);
        self.sample(why);
    }

    fn sample(&mut self, said: String) {
        let room = self.samples.len() < MAX_SAMPLES;
        let gist = gist(&said);
        if let Some(sample) = self.samples.get_mut(&gist) {
            sample.buyers += 1;
        } else if room {
            self.samples.insert(gist, Sample { said, buyers: 1 });
        }
    }

    pub fn finish(&mut self, facts: Facts) -> Outcome {
        let mut samples: Vec<_> = self.samples.drain().map(|(_, sample)| sample).collect();
        samples.sort_by(|a, b| b.buyers.cmp(&a.buyers).then_with(|| a.said.cmp(&b.said)));
        Outcome {
            buyers: self.counts.settled(),
            answered: self.counts.answered(),
            counts: self.counts,
            retries: self.retries,
            connections: facts.connections,
            peak_in_flight: facts.peak_in_flight,
            started_at: facts.started_at,
            last_answer_at: facts.last_answer_at,
            took_s: facts.took.as_secs_f64(),
            latency: self.histograms.summary(),
            latencies: self.histograms.distribution(),
            timeline: std::mem::take(&mut self.timeline),
            samples,
            order_numbers: std::mem::take(&mut self.order_numbers),
        }
    }
}

/// What the run knows beside the buyers' answers.
pub(crate) struct Facts {
    pub connections: u64,
    pub peak_in_flight: u64,
    pub started_at: Timestamp,
    pub last_answer_at: Timestamp,
    pub took: Duration,
}

fn gist(said: &str) -> String {
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

    fn settled(kind: Kind, said: &str) -> Settled {
        Settled {
            kind,
            order_no: None,
            said: Some(said.into()),
            from_send: Duration::from_millis(1),
            from_schedule: Duration::from_millis(1),
            retries: 1,
        }
    }

    #[test]
    fn answers_that_need_a_look_are_sampled_by_their_code() {
        let mut tally = Tally::new().expect("valid bounds");
        let at = Duration::from_millis(250);
        tally.add(settled(Kind::Other, r#"503 {"code":"not_ready","instance":"1"}"#), at);
        tally.add(settled(Kind::Other, r#"503 {"code":"not_ready","instance":"2"}"#), at);
        tally.add(settled(Kind::Unanswered, "no connection: refused"), at);
        tally.add(settled(Kind::SoldOut, r#"409 {"code":"sold_out"}"#), Duration::ZERO);
        let now = Timestamp::UNIX_EPOCH;
        let outcome = tally.finish(Facts {
            connections: 1,
            peak_in_flight: 1,
            started_at: now,
            last_answer_at: now,
            took: Duration::ZERO,
        });
        assert_eq!((outcome.buyers, outcome.answered, outcome.retries), (4, 3, 4));
        let told: Vec<_> = outcome.timeline.iter().map(|slice| slice.counts.settled()).collect();
        assert_eq!(told, [1, 0, 3]);
        assert_eq!(outcome.timeline[2].from_ms, 200);
        assert_eq!(outcome.samples.len(), 2);
        assert_eq!(outcome.samples[0].buyers, 2);
    }

    #[test]
    fn samples_are_bounded_in_number() {
        let mut tally = Tally::new().expect("valid bounds");
        for i in 0..1000 {
            tally.add(settled(Kind::Other, &format!("500 oops {i}")), Duration::ZERO);
        }
        assert_eq!(tally.samples.len(), MAX_SAMPLES);
    }
}
