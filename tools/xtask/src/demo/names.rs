//! The names of what the demo creates in the cluster.
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The Helm release, and the beginning of the names of its objects.
    pub release: String,
    pub namespace: String,
    /// The class of the sales: other releases leave them alone.
    pub class: String,
    /// The namespace of the sales.
    pub sales: String,
}

impl Names {
    /// For the cluster of `cargo xtask up`, which nobody else uses.
    pub fn local() -> Self {
        Names {
            release: "seckill".into(),
            namespace: "seckill".into(),
            class: "default".into(),
            sales: "shop".into(),
        }
    }

    /// For a cluster that others use too: nothing there has these names.
    pub fn generated() -> Self {
        // Each RandomState has random keys.
        let id = RandomState::new().build_hasher().finish() as u32;
        let release = format!("seckill-demo-{id:08x}");
        Names {
            namespace: release.clone(),
            class: release.clone(),
            sales: format!("{release}-sales"),
            release,
        }
    }

    /// Selects the pods of the API, as the chart labels them.
    pub fn api_selector(&self) -> String {
        format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component=api",
            self.release
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_demos_have_no_name_in_common() {
        let (one, other) = (Names::generated(), Names::generated());
        assert_ne!(one.release, other.release);
        assert!(one.release.contains("seckill"), "the chart would add it: {one:?}");
        assert!(one.sales.len() <= 63, "{one:?}");
    }
}
