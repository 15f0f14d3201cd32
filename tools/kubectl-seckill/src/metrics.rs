//! Reads what a program exports, in the text format of Prometheus. Only the metrics of this product are read, whose label values
//! have no escapes.

/// All samples of one program at one time.
#[derive(Debug, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Metrics(lines.filter_map(Sample::parse).collect())
    }

    /// The sum of the samples of a metric that `select` accepts. It gets the value of a label by its name.
    pub fn sum(&self, name: &str, select: impl Fn(&dyn Fn(&str) -> String) -> bool) -> f64 {
        let of_name = self.0.iter().filter(|sample| sample.name == name);
        let selected = of_name.filter(|sample| select(&|label| sample.label(label).unwrap_or_default().to_owned()));
        selected.map(|sample| sample.value).sum()
    }

    /// The sum of all samples of a metric.
    pub fn total(&self, name: &str) -> f64 {
        self.sum(name, |_| true)
    }

    /// The value of a metric for a sale.
    pub fn of_sale(&self, name: &str, namespace: &str, sale: &str) -> Option<f64> {
        let of_sale = |sample: &&Sample| {
            sample.name == name && sample.label("namespace") == Some(namespace) && sample.label("name") == Some(sale)
        };
        self.0.iter().find(of_sale).map(|sample| sample.value)
    }

    /// The buckets of a histogram, by their upper bounds.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let bucket = format!("{name}_bucket");
        let of_name = self.0.iter().filter(|sample| sample.name == bucket);
        of_name
            .filter_map(|sample| Some((sample.label("le")?.parse().ok()?, sample.value)))
            .collect()
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        let labels = labels.split("\",").filter_map(|label| {
            let (label, value) = label.split_once("=\"")?;
            Some((label.to_owned(), value.trim_end_matches('"').to_owned()))
        });
        Some(Sample {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.parse().ok()?,
        })
    }

    fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// How much a counter has risen. It starts again at 0 with its container.
pub fn increase(before: f64, after: f64) -> f64 {
    match after < before {
        true => after,
        false => after - before,
    }
}

/// A quantile of what a histogram counted between two samples, by linear interpolation, as Prometheus does. None: nothing was
/// counted.
pub fn quantile(before: &Metrics, after: &Metrics, histogram: &str, quantile: f64) -> Option<f64> {
    let (before, after) = (before.buckets(histogram), after.buckets(histogram));
    let counted = after.iter().enumerate().map(|(i, (bound, count))| {
        let earlier = before.get(i).map_or(0.0, |(_, count)| *count);
        (*bound, increase(earlier, *count))
    });
    let counted: Vec<(f64, f64)> = counted.collect();
    let rank = quantile * counted.last()?.1;
    if rank <= 0.0 {
        return None;
    }
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in counted {
        if count >= rank {
            // Nothing is known above the last bound.
            let share = (rank - below) / (count - below);
            return Some(if bound.is_finite() {
                low + (bound - low) * share
            } else {
                low
            });
        }
        (low, below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP seckill_api_answers Answers by route, status and code.\n\
        seckill_api_answers_total{route=\"/v1/{a},{b}\",status=\"201\",code=\"\"} 12\n\
        seckill_api_answers_total{route=\"/v1\",status=\"409\",code=\"sold_out\"} 30\n\
        seckill_api_requests_in_flight 3\n\
        seckill_api_purchase_seconds_bucket{le=\"0.1\"} 50\n\
        seckill_api_purchase_seconds_bucket{le=\"0.2\"} 90\n\
        seckill_api_purchase_seconds_bucket{le=\"+Inf\"} 100\n\
        seckill_sale_remaining_units{namespace=\"shop\",name=\"phone\"} 7\n\
        # EOF\n";

    #[test]
    fn samples_are_selected_by_their_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(
            metrics.sum("seckill_api_answers_total", |label| label("status") == "201"),
            12.0
        );
        assert_eq!(metrics.total("seckill_api_answers_total"), 42.0);
        assert_eq!(metrics.total("seckill_api_requests_in_flight"), 3.0);
        assert_eq!(
            metrics.of_sale("seckill_sale_remaining_units", "shop", "phone"),
            Some(7.0)
        );
        assert_eq!(metrics.of_sale("seckill_sale_remaining_units", "shop", "other"), None);
    }

    #[test]
    fn quantiles_are_of_the_time_between() {
        let (none, all) = (Metrics::default(), Metrics::parse(TEXT));
        let of = |before, share| quantile(before, &all, "seckill_api_purchase_seconds", share);
        assert_eq!(of(&none, 0.25), Some(0.05));
        assert!(of(&none, 0.7).is_some_and(|seconds| (seconds - 0.15).abs() < 1e-9));
        assert_eq!(of(&none, 0.99), Some(0.2), "nothing is known above the last bound");
        assert_eq!(of(&all, 0.5), None);
        let restarted = Metrics::parse(
            &TEXT
                .replace("} 50", "} 150")
                .replace("} 90", "} 190")
                .replace("} 100", "} 200"),
        );
        assert_eq!(
            of(&restarted, 0.25),
            Some(0.05),
            "counters start again with their container"
        );
    }
}
