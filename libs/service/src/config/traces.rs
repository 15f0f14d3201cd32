use url::Url;

use super::Expected;

/// Traces of purchases.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TraceArgs {
    /// URL of an OpenTelemetry Collector that takes OTLP over HTTP. Without it, nothing is traced
    #[arg(long, env = "SECKILL_TRACES_ENDPOINT", value_name = "http://collector:4318", value_parser = endpoint)]
    pub traces_endpoint: Option<Url>,
}

/// The port of OTLP over HTTP is not that of gRPC, 4317.
fn endpoint(text: &str) -> Result<Url, Expected> {
    let refuse = |why: &str| Expected::new(format!("an http:// URL of an OpenTelemetry Collector; {why}"));
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if url.scheme() != "http" || !url.has_host() {
        return Err(refuse(
            "the scheme is http, to a collector in the cluster, which can send on with TLS",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse(
            "it has a login, a query or a fragment; set OTEL_EXPORTER_OTLP_HEADERS from a Secret instead",
        ));
    }
    if url.port() == Some(4317) {
        return Err(refuse("4317 is the port of gRPC, the one of HTTP is 4318"));
    }
    // `join` would replace the last part of a path without a slash at its end.
    let base = text.trim_end_matches('/');
    Url::parse(&format!("{base}/v1/traces")).map_err(|error| refuse(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_to_which_the_signal_is_added() {
        let of = |text: &str| endpoint(text).map(|url| url.to_string());
        assert_eq!(
            of("http://collector:4318").as_deref(),
            Ok("http://collector:4318/v1/traces")
        );
        assert_eq!(
            of("http://collector/otlp/").as_deref(),
            Ok("http://collector/otlp/v1/traces")
        );
        for (wrong, part) in [
            ("collector:4318", "the scheme is http"),
            ("https://collector:4318", "the scheme is http"),
            ("http://collector:4317", "4318"),
            ("http://", "host"),
            ("http://user:password@collector:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://collector:4318?token=1", "OTEL_EXPORTER_OTLP_HEADERS"),
        ] {
            assert!(of(wrong).is_err_and(|error| error.0.contains(part)), "{wrong}");
        }
    }
}
