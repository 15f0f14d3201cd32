//! The accepted FlashSales with their statuses. Each is in two files: `accepted/NAMESPACE/NAME.yaml` and
//! `status/NAMESPACE/NAME.yaml`, which are replaced as a whole.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;
use seckill_planner::SaleKey;
use serde_json::{Value, json};
use tokio::sync::watch;

pub struct Store {
    state: PathBuf,
    objects: Mutex<Objects>,
    /// The newest version of any FlashSale.
    version: watch::Sender<u64>,
}

type Objects = BTreeMap<SaleKey, Versioned>;

/// A FlashSale, and the version of its last change.
#[derive(Clone)]
struct Versioned {
    version: u64,
    object: Value,
}

impl Store {
    /// Settled sales whose manifests are gone are kept too: their statuses are the record.
    pub fn load(state: &Path) -> anyhow::Result<Self> {
        let mut objects = Objects::new();
        for file in files(&state.join("accepted")).context("failed to list the accepted FlashSales")? {
            let mut object = read(&file)?;
            let key = super::admission::key(&object).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
            let status = file_of(state, "status", &key);
            object["status"] = match status.exists() {
                true => read(&status)?,
                false => unobserved(),
            };
            let version = objects.len() as u64 + 1;
            objects.insert(key, Versioned { version, object });
        }
        let version = watch::Sender::new(objects.len() as u64);
        Ok(Store {
            state: state.to_owned(),
            objects: Mutex::new(objects),
            version,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        // Single insertions: a panic elsewhere leaves it whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &SaleKey) -> Option<Value> {
        self.lock().get(key).map(Versioned::shown)
    }

    /// The FlashSales that changed after this version, and the newest version.
    pub fn changed_after(&self, version: u64) -> (Vec<Value>, u64) {
        let objects = self.lock();
        let changed = objects.values().filter(|object| object.version > version);
        (changed.map(Versioned::shown).collect(), *self.version.borrow())
    }

    /// Wakes when something has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub fn unsettled_keys(&self) -> Vec<SaleKey> {
        let objects = self.lock();
        let unsettled = objects
            .iter()
            .filter(|(_, of)| of.object["status"]["phase"] != "Settled");
        unsettled.map(|(key, _)| key.clone()).collect()
    }

    /// Accepts a FlashSale, or a change of it. False: nothing has changed.
    pub fn accept(&self, key: &SaleKey, admitted: &Value) -> io::Result<bool> {
        let mut objects = self.lock();
        let known = objects.get(key).map(|known| &known.object);
        let mut object = admitted.clone();
        let metadata = &mut object["metadata"];
        match known {
            None => {
                metadata["uid"] = format!("{:032x}", rand::random::<u128>()).into();
                metadata["generation"] = 1.into();
                metadata["creationTimestamp"] = second(Timestamp::now()).into();
                object["status"] = unobserved();
            }
            Some(known) => {
                for field in ["uid", "creationTimestamp", "generation"] {
                    metadata[field] = known["metadata"][field].clone();
                }
                if known["spec"] != admitted["spec"] {
                    let generation = known["metadata"]["generation"].as_u64().unwrap_or_default();
                    metadata["generation"] = (generation + 1).into();
                }
                object["status"] = known["status"].clone();
            }
        }
        if known == Some(&object) {
            return Ok(false);
        }
        let mut kept = object.clone();
        kept.as_object_mut().map(|fields| fields.remove("status"));
        self.write("accepted", key, &kept)?;
        self.insert(&mut objects, key, object);
        Ok(true)
    }

    /// `None`: there is no such FlashSale.
    pub fn set_status(&self, key: &SaleKey, status: &Value) -> io::Result<Option<Value>> {
        let mut objects = self.lock();
        let Some(known) = objects.get(key) else {
            return Ok(None);
        };
        if known.object["status"] == *status {
            return Ok(Some(known.shown()));
        }
        let mut object = known.object.clone();
        object["status"] = status.clone();
        self.write("status", key, status)?;
        self.insert(&mut objects, key, object);
        Ok(objects.get(key).map(Versioned::shown))
    }

    fn write(&self, kind: &str, key: &SaleKey, value: &Value) -> io::Result<()> {
        let text = serde_yaml::to_string(value).map_err(io::Error::other)?;
        replace(&file_of(&self.state, kind, key), &text)
    }

    fn insert(&self, objects: &mut Objects, key: &SaleKey, object: Value) {
        let version = *self.version.borrow() + 1;
        objects.insert(key.clone(), Versioned { version, object });
        self.version.send_replace(version);
    }
}

impl Versioned {
    fn shown(&self) -> Value {
        let mut object = self.object.clone();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object
    }
}

/// As the CRD has it before the operator has looked.
fn unobserved() -> Value {
    json!({"observedGeneration": -1})
}

/// Without a fraction, as Kubernetes writes times.
fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn file_of(state: &Path, kind: &str, key: &SaleKey) -> PathBuf {
    state.join(kind).join(&key.namespace).join(format!("{}.yaml", key.name))
}

/// The files in the subfolders of a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !folder.exists() {
        return Ok(files);
    }
    for namespace in fs::read_dir(folder)? {
        for file in fs::read_dir(namespace?.path())? {
            let file = file?.path();
            // What a killed operator left beside.
            if file.extension().is_some_and(|extension| extension == "yaml") {
                files.push(file);
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let what = || format!("{}: restore the file, or delete it", file.display());
    let text = fs::read_to_string(file).with_context(what)?;
    serde_yaml::from_str(&text).with_context(what)
}

/// Writes a file in one step: a reader sees the old or the new text, also after a crash.
pub fn replace(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let beside = file.with_extension("new");
    let mut new = File::create(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&beside, file)?;
    File::open(folder)?.sync_all()
}
