//! The sales as `kubectl get --watch` tells of them.
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::screen::Screen;
use super::tool::Tool;

/// What was seen of one sale.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Each phase, in the order in which it came.
    pub phases: Vec<String>,
    pub status: Value,
}

impl Seen {
    pub fn phase(&self) -> &str {
        self.phases.last().map_or("", String::as_str)
    }

    /// The conditions that are not true, with what they say: why a sale doesn't get on.
    pub fn complaints(&self) -> String {
        let conditions = self.status["conditions"].as_array().cloned().unwrap_or_default();
        let said: Vec<_> = conditions
            .iter()
            .filter(|c| c["status"] != "True")
            .map(|c| format!("{}={} {}", text(c, "type"), text(c, "status"), text(c, "message")))
            .collect();
        said.join("; ")
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

type Sales = BTreeMap<String, Seen>;

/// The watch of one namespace; it ends when this is dropped.
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    sales: Mutex<Sales>,
    changed: Condvar,
    /// None once the watch is over.
    kubectl: Mutex<Option<Child>>,
}

impl Watch {
    pub fn start(kubectl: &Tool, namespace: &str, screen: &Screen) -> Result<Self> {
        let watch = move |kubectl: &Tool, namespace: &str| {
            kubectl
                .command(&["get", "flashsales", "-n", namespace, "--watch", "-o", "json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .context("kubectl get --watch")
        };
        let child = watch(kubectl, namespace)?;
        let shared = Arc::new(Shared {
            sales: Mutex::default(),
            changed: Condvar::new(),
            kubectl: Mutex::new(Some(child)),
        });
        let (of_thread, screen) = (Arc::clone(&shared), screen.clone());
        let (kubectl, namespace) = (kubectl.clone(), namespace.to_string());
        thread::spawn(move || {
            while let Some(stdout) = of_thread.stdout() {
                let objects = serde_json::Deserializer::from_reader(stdout).into_iter::<Value>();
                for object in objects.map_while(Result::ok) {
                    of_thread.note(&object, &screen);
                }
                // The server ends a watch now and then: begin another, unless it was we who ended it.
                thread::sleep(Duration::from_millis(200));
                of_thread.again(|| watch(&kubectl, &namespace));
            }
        });
        Ok(Watch { shared })
    }

    /// Waits until `done` holds of the sale.
    pub fn wait_for(&self, name: &str, what: &str, timeout: Duration, done: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let deadline = Instant::now() + timeout;
        let mut sales = lock(&self.shared.sales);
        loop {
            let seen = sales.get(name).cloned().unwrap_or_default();
            if done(&seen) {
                return Ok(seen);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) else {
                bail!(
                    "{name}: waited {timeout:?} for {what}; it went through {:?}; {}",
                    seen.phases,
                    seen.complaints()
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
        if let Some(mut child) = lock(&self.shared.kubectl).take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Shared {
    fn stdout(&self) -> Option<std::process::ChildStdout> {
        lock(&self.kubectl).as_mut()?.stdout.take()
    }

    fn again(&self, start: impl FnOnce() -> Result<Child>) {
        let mut kubectl = lock(&self.kubectl);
        if let Some(ended) = kubectl.as_mut() {
            _ = ended.wait();
            *kubectl = start().ok();
        }
    }

    fn note(&self, object: &Value, screen: &Screen) {
        let name = text(&object["metadata"], "name").to_string();
        let mut sales = lock(&self.sales);
        let seen = sales.entry(name.clone()).or_default();
        seen.status = object["status"].clone();
        let phase = text(&seen.status, "phase").to_string();
        if !phase.is_empty() && seen.phase() != phase {
            let remaining = &seen.status["ledger"]["remaining"];
            let units = remaining
                .as_i64()
                .map(|n| format!(", {n} units left"))
                .unwrap_or_default();
            screen.say(format!("{name}: {phase}{units}"));
            seen.phases.push(phase);
        }
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
