use crate::harness::*;

/// Balancers of cloud providers ask the port of the Service, and by default for `/`.
#[tokio::test]
async fn the_serving_port_answers_health_checks_of_load_balancers() {
    let harness = Harness::start().await;
    for path in ["/", "/healthz"] {
        let response = harness.get(path).await;
        assert_eq!(
            (response.status, response.text.as_str()),
            (200, "ok\n"),
            "{path}: {response:?}"
        );
    }
}
