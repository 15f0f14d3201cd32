//! A traced purchase is one trace: from the request, through the decision of the index and the log, to the row in MySQL. The
//! collector is this process.
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use seckill_e2e::{PurchaseResult, Release, Sale, Scenario, new_key, wait_until};

use crate::sales::WAIT_LIMIT;

pub const SCENARIOS: &[Scenario] = &[(
    "a_traced_purchase_is_one_trace_from_request_to_row",
    a_purchase_is_one_trace,
)];

fn a_purchase_is_one_trace(release: &Release) -> Result<()> {
    let collector = Collector::start()?;
    let endpoint = format!("traces.endpoint={}", collector.url);
    release.upgrade(&["--set", &endpoint, "--set", "traces.oneIn=1"])?;
    release.wait_until_reachable()?;
    let namespace = release.sales_namespace()?;
    let sale = Sale::apply(
        &release.cluster,
        &Sale::manifest(&release.class, &namespace, "traced", 5, -1, 600),
    )?;
    sale.wait_for_phase("Open", WAIT_LIMIT)?;
    let answer = release.api.buy(&format!("{namespace}/traced"), &new_key())?;
    ensure!(answer.result() == PurchaseResult::Won, "{answer:?}");

    let spans = wait_until("the spans of the purchase", WAIT_LIMIT, || {
        let spans = collector.spans();
        let named = |name: &str| spans.iter().any(|span| span.name == name);
        Ok((named("buy") && named("store")).then_some(spans))
    })?;
    let span = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.with_context(|| format!("no span {name}: {spans:?}"))
    };
    let buy = span("buy")?;
    ensure!(buy.program == "seckill-api" && buy.parent.is_empty(), "{buy:?}");
    ensure!(buy.attributes["http.response.status_code"] == "201", "{buy:?}");
    ensure!(
        buy.attributes["seckill.sale"] == format!("{namespace}/traced"),
        "{buy:?}"
    );
    for (name, program) in [
        ("reserve", "seckill-api"),
        ("read back", "seckill-api"),
        ("store", "order-worker"),
    ] {
        let part = span(name)?;
        ensure!(
            part.trace == buy.trace && part.parent == buy.id,
            "not in one trace: {buy:?}, {part:?}"
        );
        ensure!(
            part.program == program && part.began >= buy.began && part.ended >= part.began,
            "{part:?}"
        );
    }
    // The number is what an anonymous buyer looks the order up by.
    let number = answer.body["order_no"].as_str().unwrap_or_default();
    ensure!(!format!("{spans:?}").contains(number), "the order number is in a trace");
    release.upgrade(&[]).map(drop)
}

#[derive(Debug, Clone)]
struct Span {
    program: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    began: u64,
    ended: u64,
    attributes: HashMap<String, String>,
}

/// Takes OTLP over HTTP.
struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    fn start() -> Result<Self> {
        let address = std::env::var("SECKILL_NODE_ADDRESS").context("SECKILL_NODE_ADDRESS")?;
        let listener = TcpListener::bind((address, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&requests);
        // Until the test program ends.
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let collected = Arc::clone(&collected);
                thread::spawn(move || collect(&connection, &collected));
            }
        });
        Ok(Collector { url, requests })
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let of_programs = requests.iter().flat_map(|request| &request.resource_spans);
        let mut spans = Vec::new();
        for of_program in of_programs {
            let resource = of_program.resource.iter().flat_map(|resource| &resource.attributes);
            let program = texts(resource).remove("service.name").unwrap_or_default();
            for span in of_program.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Span {
                    program: program.clone(),
                    name: span.name.clone(),
                    trace: span.trace_id.clone(),
                    id: span.span_id.clone(),
                    parent: span.parent_span_id.clone(),
                    began: span.start_time_unix_nano,
                    ended: span.end_time_unix_nano,
                    attributes: texts(&span.attributes),
                });
            }
        }
        spans
    }
}

fn texts<'a>(
    attributes: impl IntoIterator<Item = &'a opentelemetry_proto::tonic::common::v1::KeyValue>,
) -> HashMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes.into_iter().filter_map(|attribute| {
        let value = attribute.value.as_ref()?.value.as_ref()?;
        Some((attribute.key.clone(), text(value)))
    });
    pairs.collect()
}

/// Answers the requests of one connection, until it is closed.
fn collect(connection: &TcpStream, collected: &Mutex<Vec<ExportTraceServiceRequest>>) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    let mut writer = connection;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim().to_lowercase().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().ok()?,
                Some(_) => {}
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let request = ExportTraceServiceRequest::decode(body.as_slice()).ok()?;
        collected.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        writer.write_all(head.as_bytes()).ok()?;
    }
}
