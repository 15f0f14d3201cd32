//! Traces of single purchases, sent to an OpenTelemetry Collector as OTLP over HTTP. There is a span only for a purchase that
//! was chosen before anything of it was recorded, so all others cost a comparison.
//!
//! A trace that can't be sent is lost, and a line of the log says so: nothing waits for it.
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tokio::time::timeout;
use url::Url;

use crate::log_once::FailureLog;

pub use opentelemetry::trace::{SpanContext, SpanKind};

/// The header of requests and of records that names a span (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";
/// Time limit of one request to the collector.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer of the collector that is read.
const MAX_ANSWER_BYTES: usize = 65_536;

pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// It sends from the current Tokio runtime. `endpoint` is the whole URL, as [`TraceArgs`](crate::config::TraceArgs) has it;
    /// without one, nothing is traced.
    pub fn start(
        endpoint: Option<&Url>,
        program: &'static str,
        instance: String,
    ) -> Result<Option<Arc<Self>>, ExporterBuildError> {
        let Some(endpoint) = endpoint else {
            return Ok(None);
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Sender::new())
            .with_endpoint(endpoint.to_string())
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let resource = Resource::builder().with_attributes([
            KeyValue::new("service.name", program),
            KeyValue::new("service.namespace", "seckill"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            // The caller of `span` has decided already.
            .with_sampler(Sampler::AlwaysOn)
            .with_batch_exporter(exporter)
            .build();
        tracing::info!(%endpoint, "traces are sent");
        Ok(Some(Arc::new(Traces {
            tracer: provider.tracer("seckill"),
            provider,
        })))
    }

    /// A span that began at this time, and ends when it is dropped.
    pub fn span(&self, name: &'static str, kind: SpanKind, parent: Option<&SpanContext>, began: SystemTime) -> Span {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        let builder = self.tracer.span_builder(name).with_kind(kind).with_start_time(began);
        Span(Box::new(builder.start_with_context(&self.tracer, &context)))
    }

    /// Sends what was not sent yet.
    pub async fn end(&self) {
        let provider = self.provider.clone();
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(EXPORT_TIMEOUT)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// It ends when it is dropped. Boxed, because those that wait for something are part of futures, of which most have no span.
pub struct Span(Box<opentelemetry_sdk::trace::Span>);

impl Span {
    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(name, value));
    }
}

/// The value of the header `traceparent` that names a span.
pub fn header(span: &SpanContext) -> String {
    let flags = span.trace_flags().to_u8();
    format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())
}

/// The span that a header `traceparent` names, if that is sampled.
pub fn sampled(header: &str) -> Option<SpanContext> {
    let headers = HashMap::from([(TRACEPARENT.to_owned(), header.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    let span = context.span().span_context().clone();
    (span.is_valid() && span.is_sampled()).then_some(span)
}

/// Chooses the purchases that are traced.
pub struct Choice {
    one_in: u32,
    count: AtomicU32,
    /// The second of the clock in its upper half, and the callers of that second who were granted a trace in its lower half.
    granted: AtomicU64,
}

/// Callers who ask for a trace get this many a second: anybody can send the header.
const GRANTED_PER_SECOND: u64 = 10;

impl Choice {
    pub fn new(one_in: u32) -> Self {
        Choice {
            one_in: one_in.max(1),
            count: AtomicU32::new(0),
            granted: AtomicU64::new(0),
        }
    }

    /// Whether the next purchase is traced, and the span of its caller. `header` is the `traceparent` of the request.
    pub fn next(&self, header: Option<&str>) -> Option<Option<SpanContext>> {
        if let Some(caller) = header.and_then(sampled)
            && self.grant(SystemTime::now())
        {
            return Some(Some(caller));
        }
        let is_chosen = self.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in);
        is_chosen.then_some(None)
    }

    fn grant(&self, now: SystemTime) -> bool {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() << 32;
        let granted = self
            .granted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |granted| {
                let next = if granted >> 32 << 32 == second {
                    granted + 1
                } else {
                    second + 1
                };
                (next - second <= GRANTED_PER_SECOND).then_some(next)
            });
        granted.is_ok()
    }
}

/// Sends in the runtime: the exporter calls from a thread of its own.
struct Sender {
    runtime: Handle,
    client: Client<HttpConnector, Full<Bytes>>,
    failures: Mutex<FailureLog>,
}

impl Sender {
    fn new() -> Self {
        Sender {
            runtime: Handle::current(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            failures: Mutex::new(FailureLog::changes_and_every(60)),
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let send = async move {
            let response = client.request(request.map(Full::new)).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?;
            Ok::<_, HttpError>(Response::from_parts(parts, body.to_bytes()))
        };
        // The caller is a thread without a runtime, where a timer can't even be created.
        let send = async move { timeout(EXPORT_TIMEOUT, send).await };
        let sent = match self.runtime.spawn(send).await {
            Ok(Ok(sent)) => sent,
            Ok(Err(elapsed)) => Err(elapsed.into()),
            Err(stopped) => Err(stopped.into()),
        };
        let error = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector answered {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) if failures.failed(&error) => tracing::warn!(%error, "traces are lost"),
            Some(_) => {}
            None if failures.succeeded() > 0 => tracing::info!("traces are sent again"),
            None => {}
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_names_the_span_that_it_was_made_of() {
        let span = sampled(SAMPLED).unwrap();
        assert_eq!(header(&span), SAMPLED);
        for other in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "nonsense",
        ] {
            assert!(sampled(other).is_none(), "{other}");
        }
    }

    #[test]
    fn one_purchase_in_many_is_chosen() {
        let choice = Choice::new(100);
        let chosen = (0..1000).filter(|_| choice.next(None).is_some()).count();
        assert_eq!(chosen, 10);
        assert!(Choice::new(1).next(None).is_some_and(|caller| caller.is_none()));
    }

    #[test]
    fn callers_are_granted_few_traces_a_second() {
        let choice = Choice::new(u32::MAX);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let granted = |second| (0..100).filter(|_| choice.grant(at(second))).count() as u64;
        assert_eq!((granted(5), granted(6)), (GRANTED_PER_SECOND, GRANTED_PER_SECOND));
        let mut asked = Choice::new(u32::MAX).next(Some(SAMPLED)).unwrap();
        assert_eq!(asked.take().map(|caller| header(&caller)).as_deref(), Some(SAMPLED));
    }
}
