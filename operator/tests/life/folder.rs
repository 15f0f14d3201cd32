//! FlashSales from manifests in a folder, without a cluster.
use std::fs;
use std::path::PathBuf;

use seckill_crds::{FlashSale, Phase};
use seckill_operator::folder::Folder;
use seckill_protocol::index::Decision;
use serde_json::{Value, json};

use crate::harness::Harness;

/// A folder that is removed at the end.
struct TestFolder(PathBuf);

impl TestFolder {
    fn create() -> Self {
        let path = std::env::temp_dir().join(format!("seckill-sales-{:08x}", rand::random::<u32>()));
        fs::create_dir(&path).expect("created");
        TestFolder(path)
    }

    fn write(&self, file: &str, manifest: &FlashSale) {
        let text = serde_yaml::to_string(manifest).expect("serializes");
        fs::write(self.0.join(file), text).expect("written");
    }

    fn status(&self, harness: &Harness, name: &str) -> Value {
        let file = format!(".seckill/status/{}/{name}.yaml", harness.namespace);
        let text = fs::read_to_string(self.0.join(file)).unwrap_or_default();
        serde_yaml::from_str(&text).unwrap_or_default()
    }

    async fn until_phase(&self, harness: &Harness, name: &str, phase: &str) {
        let what = format!("{name} is {phase}");
        harness
            .eventually(&what, async || self.status(harness, name)["phase"] == phase)
            .await;
    }

    fn problems(&self) -> String {
        fs::read_to_string(self.0.join(".seckill/problems.yaml")).unwrap_or_default()
    }

    async fn until_problem(&self, harness: &Harness, text: &str) {
        let what = format!("the problem is reported: {text}");
        harness.eventually(&what, async || self.problems().contains(text)).await;
    }

    fn condition(&self, harness: &Harness, name: &str, type_: &str) -> (String, String) {
        let status = self.status(harness, name);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == type_);
        let found = found.expect("the condition");
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn in_namespace(harness: &Harness, mut manifest: FlashSale) -> FlashSale {
    manifest.metadata.namespace = Some(harness.namespace.clone());
    manifest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_of_a_folder_opens_is_edited_and_settles() {
    let harness = Harness::new().await;
    let folder = TestFolder::create();
    let (operator, worker) = (harness.operator_of_folder(&folder.0), harness.worker());
    let mut manifest = in_namespace(&harness, harness.manifest("phones", -1, 3600, json!({})));
    folder.write("phones.yaml", &manifest);
    folder.until_phase(&harness, "phones", "Open").await;
    let pods = folder.condition(&harness, "phones", "WorkloadsScaled");
    assert_eq!(pods, ("True".to_owned(), "NotManaged".to_owned()));
    assert_eq!(harness.buy("phones", &["a", "b", "c"]).await, 3);

    manifest.spec.stock = 12;
    folder.write("phones.yaml", &manifest);
    harness
        .eventually("two units more are sold", async || {
            harness.sale("phones").await.offered == 12
        })
        .await;
    let buyers: Vec<String> = (0..20).map(|n| format!("next-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    harness
        .eventually("all units are sold", async || {
            harness.try_buy("phones", &buyers).await;
            harness.orders("phones").await == 12
        })
        .await;

    manifest.spec.suspend = true;
    folder.write("phones.yaml", &manifest);
    folder.until_phase(&harness, "phones", "Suspended").await;
    manifest.spec.suspend = false;
    manifest.spec.ends_at = harness.manifest("unused", 0, 2, json!({})).spec.ends_at;
    folder.write("phones.yaml", &manifest);
    folder.until_phase(&harness, "phones", "Settled").await;
    let status = folder.status(&harness, "phones");
    assert_eq!(
        (&status["ledger"]["total"], &status["ledger"]["sold"]),
        (&json!(12), &json!(12))
    );
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_or_wrong_manifest_changes_nothing() {
    let harness = Harness::new().await;
    let folder = TestFolder::create();
    let (operator, worker) = (harness.operator_of_folder(&folder.0), harness.worker());
    let manifest = in_namespace(&harness, harness.manifest("kept", -1, 3600, json!({})));
    folder.write("kept.yaml", &manifest);
    folder.until_phase(&harness, "kept", "Open").await;

    fs::write(folder.0.join("kept.yaml"), "kind: FlashSale\nspec: {stock: ").expect("written");
    folder.until_problem(&harness, "not valid YAML").await;
    let mut lowered = manifest.clone();
    lowered.spec.stock = 5;
    folder.write("kept.yaml", &lowered);
    folder.until_problem(&harness, "it can only rise").await;
    folder.write("kept.yaml", &manifest);
    folder.write("kept-twice.yaml", &manifest);
    folder.until_problem(&harness, "remove one of them").await;
    for file in ["kept.yaml", "kept-twice.yaml"] {
        fs::remove_file(folder.0.join(file)).expect("removed");
    }
    folder
        .until_problem(&harness, "no manifest of this FlashSale is found")
        .await;
    assert_eq!(harness.buy("kept", &["a"]).await, 1);

    // The next operator finds what was accepted, although no manifest is there.
    operator.stop().await;
    let operator = harness.operator_of_folder(&folder.0);
    let before = harness.sale("kept").await;
    harness.stock.drop_sale(before.id).await.expect("Redis");
    harness
        .eventually("the lost index is rebuilt", async || {
            harness.sale("kept").await.live_epoch > before.live_epoch
        })
        .await;
    let after = harness.sale("kept").await;
    assert_eq!((after.offered, after.closes_at), (before.offered, before.closes_at));
    let decisions = harness.try_buy("kept", &["a", "b"]).await;
    assert!(
        matches!(decisions[..], [Decision::AlreadyReserved(_), Decision::Reserved { .. }]),
        "{decisions:?}"
    );

    folder.write("kept.yaml", &manifest);
    harness
        .eventually("no problem is left", async || folder.problems().trim() == "{}")
        .await;
    assert_ne!(folder.status(&harness, "kept")["phase"], json!(Phase::Suspended));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[test]
fn a_folder_has_one_operator() {
    let folder = TestFolder::create();
    let first = Folder::open(&folder.0).expect("opened");
    let second = Folder::open(&folder.0).err().expect("refused").to_string();
    assert!(second.contains("another operator runs this folder"), "{second}");
    let identity = first.identity().expect("drawn");
    drop(first);
    let again = Folder::open(&folder.0).expect("opened");
    assert_eq!(again.identity().expect("kept"), identity);
    let missing = Folder::open(&folder.0.join("missing")).err().expect("refused");
    assert!(
        format!("{missing:#}").contains("create the folder first"),
        "{missing:#}"
    );
}
