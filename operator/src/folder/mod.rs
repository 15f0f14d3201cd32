//! FlashSales from manifests in a folder, without a cluster: `operator run --sales DIR`. For evaluation and for a single host; it
//! is not highly available.
//!
//! The rest of the operator does not know the difference. The folder is behind the client of Kubernetes: `api` answers the few
//! requests that the operator sends.
//!
//! - `manifests`: reads the folder
//! - `admission`: what the API server does with a manifest: types, defaults, and the rules of the CRD
//! - `store`: the accepted FlashSales and their statuses, in `DIR/.seckill`
//! - `api`: the API of Kubernetes, as far as the operator uses it
//! - `lock`: one operator for each folder
//!
//! No file ends a sale. Editors and git delete files and create them again, and a folder that is not mounted is empty. So a
//! manifest that is missing, unreadable or wrong changes nothing: it is reported in the log and in
//! `DIR/.seckill/problems.yaml`, and the sale continues as it was accepted. It ends by `endsAt`, or stops by `suspend`.
mod admission;
mod api;
mod lock;
mod manifests;
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::Client;
use seckill_planner::SaleKey;

use crate::args::ClusterIdentity;
use admission::{Admission, DEFAULT_NAMESPACE};
use lock::Lock;
use manifests::Manifests;
use store::Store;

/// What the operator keeps, beside the manifests.
const STATE: &str = ".seckill";
/// How often the folder is read. A file counts once two reads in a row have found the same.
const READ_INTERVAL: Duration = Duration::from_millis(500);

/// A folder of manifests that this operator runs.
pub struct Folder {
    path: PathBuf,
    store: Arc<Store>,
    admission: Admission,
    /// What was reported last, by file or FlashSale.
    problems: BTreeMap<String, String>,
    _lock: Lock,
}

impl Folder {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let path = path
            .canonicalize()
            .with_context(|| format!("--sales {}: create the folder first", path.display()))?;
        ensure!(path.is_dir(), "--sales {}: it is not a folder", path.display());
        let state = path.join(STATE);
        fs::create_dir_all(&state).with_context(|| format!("failed to create {}", state.display()))?;
        let lock = Lock::acquire(&state)?;
        Ok(Folder {
            store: Arc::new(Store::load(&state)?),
            admission: Admission::new()?,
            problems: BTreeMap::new(),
            path,
            _lock: lock,
        })
    }

    /// The identity in the ledger, if none is configured: drawn once, and kept in the folder.
    pub fn identity(&self) -> anyhow::Result<ClusterIdentity> {
        let file = self.path.join(STATE).join("identity");
        let identity = match fs::read_to_string(&file) {
            Ok(identity) => identity,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let drawn = format!("folder-{:016x}", rand::random::<u64>());
                store::replace(&file, &drawn).with_context(|| format!("failed to write {}", file.display()))?;
                drawn
            }
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", file.display())),
        };
        let parsed = identity.trim().parse::<ClusterIdentity>();
        parsed.with_context(|| format!("{} was changed", file.display()))
    }

    pub fn client(&self) -> Client {
        Client::new(api::service(self.store.clone()), DEFAULT_NAMESPACE)
    }

    /// Follows the manifests until it is dropped.
    pub async fn follow(mut self) {
        let mut ticks = tokio::time::interval(READ_INTERVAL);
        let mut last = Manifests::default();
        loop {
            ticks.tick().await;
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || Manifests::read(&path)).await;
            let manifests = read.unwrap_or_default();
            if manifests == last {
                self.apply(&manifests);
            }
            last = manifests;
        }
    }

    fn apply(&mut self, manifests: &Manifests) {
        let mut problems = manifests.problems.clone();
        let mut found: BTreeMap<SaleKey, &str> = BTreeMap::new();
        for (file, manifest) in &manifests.objects {
            match self.accept(manifest, file, &mut found) {
                Ok(()) => {}
                Err(problem) => {
                    let so_far = problems.entry(file.clone()).or_default();
                    if !so_far.is_empty() {
                        so_far.push('\n');
                    }
                    so_far.push_str(&problem);
                }
            }
        }
        for key in self.store.unsettled_keys() {
            if !found.contains_key(&key) {
                let problem = "no manifest of this FlashSale is found; its sale goes on as accepted, until endsAt";
                problems.insert(key.to_string(), problem.to_owned());
            }
        }
        self.report(problems);
    }

    fn accept<'a>(
        &self,
        manifest: &serde_json::Value,
        file: &'a str,
        found: &mut BTreeMap<SaleKey, &'a str>,
    ) -> Result<(), String> {
        let key = admission::key(manifest)?;
        if let Some(other) = found.get(&key) {
            return Err(format!("{key} is in {other} too, which counts; remove one of them"));
        }
        // Also a manifest that is refused is found.
        found.insert(key.clone(), file);
        let known = self.store.get(&key);
        let admitted = self.admission.admit(manifest, known.as_ref());
        let admitted = admitted.map_err(|problem| format!("{key} is refused: {problem}"))?;
        let accepted = self.store.accept(&key, &admitted);
        if accepted.map_err(|error| format!("{key} can't be accepted: failed to write {STATE}: {error}"))? {
            tracing::info!(sale = %key, file, "accepted a manifest");
        }
        Ok(())
    }

    /// Each problem once in the log, and all of them in a file.
    fn report(&mut self, problems: BTreeMap<String, String>) {
        if problems == self.problems {
            return;
        }
        for (of, problem) in &problems {
            if self.problems.get(of) != Some(problem) {
                tracing::warn!(of, problem, "a manifest changes nothing");
            }
        }
        for of in self.problems.keys().filter(|of| !problems.contains_key(*of)) {
            tracing::info!(of, "the manifest is right again");
        }
        let written = serde_yaml::to_string(&problems).map_err(std::io::Error::other);
        let file = self.path.join(STATE).join("problems.yaml");
        if let Err(error) = written.and_then(|text| store::replace(&file, &text)) {
            tracing::warn!(%error, "failed to write {}", file.display());
        }
        self.problems = problems;
    }
}
