//! Pages of other origins in a real browser, Chromium. It sends preflight requests and hides what is not exposed.
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Html;
use axum::routing::{get, post};
use seckill_ledger::Sale;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::*;

/// A browser needs seconds to start on a busy machine.
const BROWSER_TIMEOUT: Duration = Duration::from_secs(120);

/// A web server with one page. The page reports what it saw.
struct Shop {
    origin: String,
    reports: mpsc::UnboundedReceiver<Value>,
}

impl Shop {
    async fn start() -> Shop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let origin = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, reports) = mpsc::unbounded_channel();
        let report = async |State(sender): State<mpsc::UnboundedSender<Value>>, body: String| {
            // The test that waited for it may have failed.
            let _ = sender.send(serde_json::from_str(&body).expect("the page sends JSON"));
        };
        let router = Router::new()
            .route("/", get(async || Html(include_str!("shop.html"))))
            .route("/report", post(report))
            .with_state(sender);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Shop { origin, reports }
    }

    /// Opens the page in a browser, and waits for its report.
    async fn visit(&mut self, harness: &Harness, sale: &Sale, upcoming: &Sale, key: &str) -> Value {
        let api = format!("http://{}", harness.v1);
        let query = format!("api={api}&sale={}&upcoming={}&key={key}", path(sale), path(upcoming));
        let _browser = Browser::open(&format!("{}/?{query}", self.origin));
        let report = tokio::time::timeout(BROWSER_TIMEOUT, self.reports.recv()).await;
        report.expect("the page reports in time").expect("the shop is up")
    }
}

/// Ends when it is dropped.
struct Browser {
    process: Child,
    profile: PathBuf,
}

impl Browser {
    fn open(url: &str) -> Browser {
        let profile = std::env::temp_dir().join(format!("seckill-test-browser-{:016x}", rand::random::<u64>()));
        let process = Command::new("chromium")
            // Root can't use Chromium's sandbox. The only pages are those of this test.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium is installed; run `cargo xtask test extended`");
        Browser { process, profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it, and may still write into the profile. Nothing can be done about a failure here.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn a_page_of_a_listed_origin_buys_in_a_browser() {
    let mut shop = Shop::start().await;
    let harness = Harness::with_origins(&format!("https://shop.example,{}", shop.origin)).await;
    let (sale, upcoming) = (harness.sell(5, open()).await, harness.sell(5, not_open_yet()).await);
    let key = key();
    let visit = shop.visit(&harness, &sale, &upcoming, &key);
    let report = harness.while_storing(visit).await;
    assert_eq!(report["error"], Value::Null, "{report:#}");

    let bought = &report["bought"];
    assert_eq!(bought["status"], 201, "{report:#}");
    assert_eq!(bought["body"]["quantity"], 2, "{report:#}");
    let order_no = bought["body"]["order_no"].as_str().expect("an order number");
    assert_eq!(bought["headers"]["location"], format!("/v1/orders/{order_no}"));
    for answer in ["again", "order", "cancelled"] {
        assert_eq!(report[answer]["body"]["order_no"], order_no, "{answer}: {report:#}");
    }
    assert_eq!(report["early"]["status"], 409, "{report:#}");
    assert_eq!(report["early"]["body"]["code"], "not_started", "{report:#}");
    assert!(report["early"]["headers"]["retry-after"].is_string(), "{report:#}");
    assert_eq!(report["unchanged"]["status"], 304, "{report:#}");
    assert!(report["shown"]["headers"]["server-time"].is_string(), "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn a_page_of_another_origin_buys_nothing_in_a_browser() {
    let mut shop = Shop::start().await;
    let harness = Harness::with_origins("https://shop.example").await;
    let (sale, upcoming) = (harness.sell(5, open()).await, harness.sell(5, not_open_yet()).await);
    let key = key();
    let report = shop.visit(&harness, &sale, &upcoming, &key).await;
    assert_eq!(report["error"], "TypeError: Failed to fetch", "{report:#}");
    assert_eq!(report["bought"], Value::Null, "{report:#}");
    // The browser did not even send the purchase.
    harness.earlier(&sale, &key).await.is(404, "request_unknown");
    assert_eq!(harness.get(&path(&sale)).await.body["remaining"], 5);
}
