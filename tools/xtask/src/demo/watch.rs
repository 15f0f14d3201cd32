//! Follows the sales by `kubectl get --watch`, or in the operator's folder.
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::flash_sales::{FlashSales, statuses};
use super::screen::Screen;
use super::tool::Tool;

/// How often the statuses in a folder are read.
const FOLDER_INTERVAL: Duration = Duration::from_millis(50);

/// The history of one sale.
#[derive(Debug, Clone, Default)]
pub struct SaleHistory {
    /// The phases, in order.
    pub phases: Vec<String>,
    pub status: Value,
}

impl SaleHistory {
    pub fn phase(&self) -> &str {
        self.phases.last().map_or("", String::as_str)
    }

    /// The conditions that are not as they should be, with their messages. They explain why a sale does not proceed.
    pub fn problems(&self) -> String {
        let conditions = self.status["conditions"].as_array().cloned().unwrap_or_default();
        let problems: Vec<_> = conditions
            .iter()
            .filter(|c| c["status"] != normal_status(text(c, "type")))
            .map(|c| format!("{}={} {}", text(c, "type"), text(c, "status"), text(c, "message")))
            .collect();
        problems.join("; ")
    }
}

fn normal_status(condition: &str) -> &'static str {
    match condition {
        "Reconciling" | "Stalled" => "False",
        _ => "True",
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

type Sales = BTreeMap<String, SaleHistory>;

/// The watch of one namespace. It ends when this is dropped.
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    sales: Mutex<Sales>,
    changed: Condvar,
    ended: AtomicBool,
    /// None without a cluster, and after the watch has ended.
    kubectl: Mutex<Option<Child>>,
}

impl Watch {
    pub fn start(flash_sales: &FlashSales, namespace: &str, screen: &Screen) -> Result<Self> {
        match flash_sales {
            FlashSales::Cluster(kubectl) => Watch::of_cluster(kubectl, namespace, screen),
            FlashSales::Folder(folder) => Ok(Watch::of_folder(folder, namespace, screen)),
        }
    }

    fn of_folder(folder: &Path, namespace: &str, screen: &Screen) -> Self {
        let shared = Arc::new(Shared::new(None));
        let (thread_shared, screen) = (Arc::clone(&shared), screen.clone());
        let (folder, namespace) = (folder.to_owned(), namespace.to_owned());
        thread::spawn(move || {
            while !thread_shared.ended.load(Ordering::Relaxed) {
                for (name, status) in statuses(&folder, &namespace) {
                    thread_shared.record(name, status, &screen);
                }
                thread::sleep(FOLDER_INTERVAL);
            }
        });
        Watch { shared }
    }

    fn of_cluster(kubectl: &Tool, namespace: &str, screen: &Screen) -> Result<Self> {
        let watch = move |kubectl: &Tool, namespace: &str| {
            kubectl
                .command(&["get", "flashsales", "-n", namespace, "--watch", "-o", "json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .context("kubectl get --watch")
        };
        let child = watch(kubectl, namespace)?;
        let shared = Arc::new(Shared::new(Some(child)));
        let (thread_shared, screen) = (Arc::clone(&shared), screen.clone());
        let (kubectl, namespace) = (kubectl.clone(), namespace.to_string());
        thread::spawn(move || {
            while let Some(stdout) = thread_shared.stdout() {
                let objects = serde_json::Deserializer::from_reader(stdout).into_iter::<Value>();
                for object in objects.map_while(Result::ok) {
                    let name = text(&object["metadata"], "name").to_owned();
                    thread_shared.record(name, object["status"].clone(), &screen);
                }
                // The server ends a watch from time to time. Start another one unless this watch was dropped.
                thread::sleep(Duration::from_millis(200));
                thread_shared.restart(|| watch(&kubectl, &namespace));
            }
        });
        Ok(Watch { shared })
    }

    /// The phase of a sale; empty while the operator has not seen it.
    pub fn phase(&self, name: &str) -> String {
        let sales = lock(&self.shared.sales);
        sales
            .get(name)
            .map_or(String::new(), |history| history.phase().to_owned())
    }

    /// Waits until `done` is true for the sale.
    pub fn wait_for(
        &self,
        name: &str,
        what: &str,
        timeout: Duration,
        done: impl Fn(&SaleHistory) -> bool,
    ) -> Result<SaleHistory> {
        let deadline = Instant::now() + timeout;
        let mut sales = lock(&self.shared.sales);
        loop {
            let history = sales.get(name).cloned().unwrap_or_default();
            if done(&history) {
                return Ok(history);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) else {
                bail!(
                    "{name}: waited {timeout:?} for {what}; phases: {:?}; {}",
                    history.phases,
                    history.problems()
                );
            };
            sales = match self.shared.changed.wait_timeout(sales, left) {
                Ok((sales, _)) => sales,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(mut child) = lock(&self.shared.kubectl).take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Shared {
    fn new(kubectl: Option<Child>) -> Self {
        Shared {
            sales: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            kubectl: Mutex::new(kubectl),
        }
    }

    fn stdout(&self) -> Option<std::process::ChildStdout> {
        lock(&self.kubectl).as_mut()?.stdout.take()
    }

    fn restart(&self, start: impl FnOnce() -> Result<Child>) {
        let mut kubectl = lock(&self.kubectl);
        if let Some(child) = kubectl.as_mut() {
            _ = child.wait();
            *kubectl = start().ok();
        }
    }

    fn record(&self, name: String, status: Value, screen: &Screen) {
        let mut sales = lock(&self.sales);
        let history = sales.entry(name.clone()).or_default();
        history.status = status;
        let phase = text(&history.status, "phase").to_string();
        if !phase.is_empty() && history.phase() != phase {
            let remaining = &history.status["ledger"]["remaining"];
            let units = remaining
                .as_i64()
                .map(|n| format!(", {n} units left"))
                .unwrap_or_default();
            screen.say(format!("{name}: {phase}{units}"));
            history.phases.push(phase);
        }
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
