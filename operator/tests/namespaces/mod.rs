//! The namespaces of a test.
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::DeleteParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

/// Deletes the namespaces of a test when it is dropped, also if the test has failed.
pub struct OwnedNamespaces(pub Arc<Mutex<Vec<String>>>);

impl OwnedNamespaces {
    pub fn of(name: &str) -> Self {
        OwnedNamespaces(Arc::new(Mutex::new(vec![name.to_owned()])))
    }
}

impl Drop for OwnedNamespaces {
    fn drop(&mut self) {
        let names = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // [`Drop`] can't wait for a future, and the runtime of the test stands still meanwhile.
        let deleted = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(delete(&names));
        })
        .join();
        // A second panic would abort all tests of the process.
        if !std::thread::panicking() {
            deleted.expect("the namespaces are deleted");
        }
    }
}

async fn delete(names: &[String]) {
    let path = std::env::var("SECKILL_TEST_KUBECONFIG").expect("SECKILL_TEST_KUBECONFIG");
    let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a context")).expect("a client");
    let namespaces: Api<Namespace> = Api::all(client);
    for name in names {
        match namespaces.delete(name, &DeleteParams::default()).await {
            // The test has deleted it.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted.expect("deleted")),
        }
    }
}
