//! A sale that buyers buy from while something happens to the release or to the servers.
use anyhow::{Context, Result, ensure};
use seckill_e2e::{LoadReport, Release, Sale, buy_during, in_seconds};
use serde_json::Value;

use crate::sales::WAIT_LIMIT;

/// A sale that does not sell out while the scenario runs.
pub struct OpenSale<'a> {
    release: &'a Release,
    sale: Sale<'a>,
    manifest: Value,
    sold: usize,
}

impl<'a> OpenSale<'a> {
    pub fn open(release: &'a Release, name: &str) -> Result<Self> {
        let namespace = release.sales_namespace()?;
        let manifest = Sale::manifest(&release.class, &namespace, name, 1_000_000, -1, 3600);
        let sale = Sale::apply(&release.cluster, &manifest)?;
        sale.wait_for_phase("Open", WAIT_LIMIT)?;
        let sold = 0;
        Ok(OpenSale {
            release,
            sale,
            manifest,
            sold,
        })
    }

    pub fn buy_during(&mut self, what: &str, event: impl FnOnce() -> Result<()>) -> Result<LoadReport> {
        let path = format!("{}/{}", self.sale.namespace, self.sale.name);
        let report = buy_during(&self.release.api, &path, event).with_context(|| what.to_owned())?;
        println!("{what}: {report}");
        report.check(&self.release.api).with_context(|| what.to_owned())?;
        self.sold += report.order_numbers.len();
        Ok(report)
    }

    /// Ends the sale, and checks that the ledger has what the buyers were told and nothing else.
    pub fn settle(mut self) -> Result<()> {
        self.manifest["spec"]["endsAt"] = in_seconds(1).into();
        self.release.cluster.apply(&self.manifest)?;
        let status = self.sale.wait_for_phase("Settled", WAIT_LIMIT)?;
        ensure!(
            status["ledger"]["sold"] == self.sold,
            "buyers have {} orders: {status}",
            self.sold
        );
        Ok(())
    }
}
