//! Purchases that are traced: a span from the request to the answer, with the decision of the index and the read-back below it.
//! The record of the order carries the span to order-worker, which adds the transaction that stores the order.
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::StatusCode;
use seckill_protocol::{Batch, KeyHash, SaleId};
use seckill_service::traces::{Choice, Span, SpanContext, SpanKind, TRACEPARENT, Traces, header};

/// By what a purchase is found while it is in progress.
type PurchaseKey = (SaleId, KeyHash);

/// The purchases in progress that are traced. There are few, and mostly none.
#[derive(Default)]
pub struct TracedPurchases {
    /// None: nothing is traced.
    traces: Option<(Arc<Traces>, Choice)>,
    in_progress: Mutex<HashMap<PurchaseKey, SpanContext>>,
    count: AtomicUsize,
}

impl TracedPurchases {
    pub fn new(traces: Arc<Traces>, one_in: u32) -> Self {
        TracedPurchases {
            traces: Some((traces, Choice::new(one_in))),
            ..TracedPurchases::default()
        }
    }

    /// Whether any purchase can be traced.
    pub fn is_on(&self) -> bool {
        self.traces.is_some()
    }

    /// Begins the span of a purchase if it is chosen. `caller` is the traceparent of the request.
    pub fn begin(
        &self,
        key: PurchaseKey,
        sale: impl FnOnce() -> String,
        caller: Option<&str>,
    ) -> Option<TracedPurchase<'_>> {
        let (traces, choice) = self.traces.as_ref()?;
        let caller = choice.next(caller)?;
        let mut span = traces.span("buy", SpanKind::Server, caller.as_ref(), SystemTime::now());
        span.set("http.request.method", "POST");
        span.set("http.route", "/v1/sales/{namespace}/{name}/orders");
        span.set("seckill.sale", sale());
        // Of requests with one key, the first has its span in the record.
        let mut in_progress = self.lock();
        let is_first = !in_progress.contains_key(&key);
        if is_first {
            in_progress.insert(key, span.context().clone());
            self.count.store(in_progress.len(), Ordering::Relaxed);
        }
        drop(in_progress);
        Some(TracedPurchase {
            all: self,
            key: is_first.then_some(key),
            span,
        })
    }

    /// A part of a purchase that begins now. None if the purchase is not traced.
    pub fn part(&self, purchase: Option<&SpanContext>, name: &'static str) -> Option<Span> {
        let (traces, _) = self.traces.as_ref()?;
        Some(traces.span(name, SpanKind::Internal, Some(purchase?), SystemTime::now()))
    }

    /// The headers of the record of a batch: the spans of its traced purchases.
    pub fn headers(&self, batch: &Batch) -> Vec<(&'static str, String)> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let in_progress = self.lock();
        let spans = batch
            .orders
            .iter()
            .filter_map(|order| in_progress.get(&(batch.sale, order.key)));
        spans.map(|span| (TRACEPARENT, header(span))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PurchaseKey, SpanContext>> {
        self.in_progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A purchase that is traced, until it is dropped.
pub struct TracedPurchase<'a> {
    all: &'a TracedPurchases,
    /// Its key among the purchases in progress.
    key: Option<PurchaseKey>,
    span: Span,
}

impl TracedPurchase<'_> {
    pub fn context(&self) -> &SpanContext {
        self.span.context()
    }

    /// `code` is that of the problem, if the answer is one.
    pub fn answered(&mut self, status: StatusCode, code: Option<&'static str>) {
        self.span.set("http.response.status_code", i64::from(status.as_u16()));
        if let Some(code) = code {
            self.span.set("error.type", code);
        }
    }
}

impl Drop for TracedPurchase<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else {
            return;
        };
        let mut in_progress = self.all.lock();
        in_progress.remove(&key);
        self.all.count.store(in_progress.len(), Ordering::Relaxed);
    }
}
