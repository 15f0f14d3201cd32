//! The Kubernetes API servers: of the run's own cluster, and of another one that uses the same databases.
use std::path::Path;

use anyhow::{Context as _, Result};
use kube::Client;

use super::{Harness, wait_until};
use crate::flash_sales;

impl Harness {
    /// Starts etcd and the API server unless they run.
    pub async fn restart_cluster(&mut self) -> Result<()> {
        self.etcd.start()?;
        self.api_server.start()?;
        self.wait_for_cluster().await
    }

    pub async fn wait_for_cluster(&self) -> Result<()> {
        wait_for_api_server(&self.setup.clusters[0].kubeconfig).await
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.setup.clusters[0].kubeconfig
    }

    /// Starts the other cluster, which has no FlashSales, and its operator. [`Harness::repair`] stops both.
    pub async fn start_other_cluster(&mut self, namespace: &str) -> Result<()> {
        let kubeconfig = self.setup.clusters[1].kubeconfig.clone();
        self.other_cluster.api_server.start()?;
        wait_for_api_server(&kubeconfig).await?;
        flash_sales::prepare_cluster(&flash_sales::client(&kubeconfig).await?, namespace).await?;
        self.other_cluster.operator.start()
    }

    pub fn stop_other_cluster(&mut self) -> Result<()> {
        self.other_cluster.operator.kill()?;
        self.other_cluster.api_server.kill()
    }
}

async fn wait_for_api_server(kubeconfig: &Path) -> Result<()> {
    wait_until("the API server of Kubernetes", async || {
        let kube: Client = flash_sales::client(kubeconfig).await?;
        let ready = http::Request::get("/readyz").body(Vec::new())?;
        kube.request_text(ready).await.context("/readyz")?;
        Ok(())
    })
    .await
}
