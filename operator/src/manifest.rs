//! The manifest of the custom resource.

/// As YAML. Helm keeps it when the chart is uninstalled: with it all FlashSales would go.
pub fn crd() -> Result<String, serde_yaml::Error> {
    let mut crd = seckill_crds::crd();
    crd.metadata
        .annotations
        .get_or_insert_default()
        .insert("helm.sh/resource-policy".into(), "keep".into());
    serde_yaml::to_string(&crd)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_manifests_are_the_generated_one() {
        let generated = super::crd().expect("serializes");
        let committed = [
            include_str!("../../crds/flashsales.seckill.dev.yaml"),
            include_str!("../../helm/seckill-crds/templates/flashsales.seckill.dev.yaml"),
        ];
        for manifest in committed {
            assert!(
                manifest == generated,
                "run `cargo run --bin operator -- crd` and write what it prints into both files"
            );
        }
    }
}
