//! `helm upgrade --install --wait` of a chart that contains a FlashSale. Helm waits by the rules of kstatus, as Flux does.
use std::path::{Path, PathBuf};
use std::process::Command;

use kube::ResourceExt as _;
use seckill_crds::{FlashSale, Phase};
use serde_json::json;

use crate::harness::Harness;

/// For waits that succeed. Only a failure takes as long.
const LONG: &str = "50s";

/// A chart with one FlashSale.
struct Chart {
    folder: PathBuf,
    name: String,
}

impl Chart {
    fn of(harness: &Harness, sale: &FlashSale) -> Self {
        let name = sale.name_any();
        let folder = std::env::temp_dir().join(format!("{}-{name}", harness.name));
        let chart = Chart { folder, name };
        chart.write(
            "Chart.yaml",
            &json!({"apiVersion": "v2", "name": chart.name, "version": "1.0.0"}),
        );
        chart.write_sale(sale);
        chart
    }

    fn write(&self, file: &str, content: &serde_json::Value) {
        let path = self.folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("created");
        std::fs::write(path, content.to_string()).expect("written");
    }

    fn write_sale(&self, sale: &FlashSale) {
        let mut manifest = serde_json::to_value(sale).expect("JSON");
        manifest.as_object_mut().expect("an object").remove("status");
        self.write("templates/sale.json", &manifest);
    }

    /// An error is what helm prints.
    async fn upgrade(&self, harness: &Harness, timeout: &str) -> Result<(), String> {
        let mut helm = Command::new(std::env::var_os("SECKILL_HELM").unwrap_or_else(|| "helm".into()));
        helm.args(["upgrade", "--install", "--wait", "--timeout", timeout]);
        helm.args(["--namespace", &harness.namespace, &self.name])
            .arg(&self.folder);
        let output = tokio::task::spawn_blocking(move || helm.output()).await.expect("runs");
        let output = output.expect("helm; run `cargo xtask test integration`");
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Chart {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_waits_for_no_sale_that_misses_nothing() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    for (name, starts_in, lasts, suspend, phase) in [
        ("scheduled", 3600, 60, false, Phase::Scheduled),
        ("suspended", 3600, 60, true, Phase::Suspended),
        ("open", -1, 3600, false, Phase::Open),
        ("stopped", -1, 3600, true, Phase::Suspended),
        ("settled", -100, 50, false, Phase::Settled),
    ] {
        let mut sale = harness.manifest(name, starts_in, lasts, json!({"suspend": suspend}));
        let chart = Chart::of(&harness, &sale);
        chart.upgrade(&harness, LONG).await.expect(name);
        harness.until_phase(name, phase).await;
        // Also in a later generation.
        sale.spec.cool_down_seconds = 1;
        chart.write_sale(&sale);
        chart.upgrade(&harness, LONG).await.expect(name);
        assert_eq!(harness.status(name).await.phase, Some(phase));
    }

    let mut sale = harness.manifest("sold-out", -1, 3600, json!({"stock": 1}));
    let chart = Chart::of(&harness, &sale);
    chart.upgrade(&harness, LONG).await.expect("open");
    assert_eq!(harness.buy("sold-out", &["a"]).await, 1);
    harness.until_phase("sold-out", Phase::SoldOut).await;
    sale.spec.cool_down_seconds = 1;
    chart.write_sale(&sale);
    chart.upgrade(&harness, LONG).await.expect("sold out");
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_fails_for_a_name_that_is_used() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("used", -1, 3600, json!({})).await;
    harness.until_phase("used", Phase::Open).await;
    assert_eq!(harness.buy("used", &["a"]).await, 1);
    harness.end_in("used", 0).await;
    harness.until_phase("used", Phase::Settled).await;
    harness.delete("used").await;
    let sale = harness.manifest("used", 3600, 60, json!({}));
    let failure = Chart::of(&harness, &sale).upgrade(&harness, LONG).await;
    let failure = failure.expect_err("the name is used");
    assert!(failure.contains("Failed"), "{failure}");
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_waits_for_an_object_that_no_operator_has_seen() {
    let harness = Harness::new().await;
    let sale = harness.manifest("unseen", 3600, 60, json!({}));
    let chart = Chart::of(&harness, &sale);
    let failure = chart.upgrade(&harness, "20s").await.expect_err("nobody has seen it");
    assert!(failure.contains("InProgress"), "{failure}");
    let (operator, worker) = (harness.operator(), harness.worker());
    chart.upgrade(&harness, LONG).await.expect("seen");
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
