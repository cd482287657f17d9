//! A page of numbers as Prometheus reads it, made anew for each scrape: what is not there any
//! more is not on it.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// What every name begins with.
const PREFIX: &str = "segue";

/// Names and values that tell the samples of one metric apart.
pub(super) type Labels = Vec<(String, String)>;

/// Makes labels.
pub(super) fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    pairs.map(owned).into()
}

/// Counts of values by size.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Histogram {
    /// How many were at most as large as each bound, and not as large as the one before; the last
    /// is for all that are larger.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub(super) fn observe(&mut self, bounds: &[f64], value: f64) {
        self.counts.resize(bounds.len() + 1, 0);
        let place = bounds.iter().position(|bound| value <= *bound);
        self.counts[place.unwrap_or(bounds.len())] += 1;
        self.sum += value;
    }

    /// Adds another's counts, of the same bounds.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts
            .resize(self.counts.len().max(other.counts.len()), 0);
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.sum += other.sum;
    }
}

#[derive(Debug)]
enum Samples {
    Counters(BTreeMap<Labels, u64>),
    Gauges(BTreeMap<Labels, f64>),
    Histograms(&'static [f64], BTreeMap<Labels, Histogram>),
}

#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

/// Everything that one scrape sees.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<Metric>);

impl Page {
    /// Things that were counted; the same labels twice are added up. `_total` is added to the name.
    pub(super) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let mut counters = BTreeMap::new();
        for (labels, value) in values {
            *counters.entry(labels).or_default() += value;
        }
        self.push(name, help, Samples::Counters(counters));
    }

    /// Things as they are now; the same labels twice are added up.
    pub(super) fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let mut gauges = BTreeMap::new();
        for (labels, value) in values {
            *gauges.entry(labels).or_default() += value;
        }
        self.push(name, help, Samples::Gauges(gauges));
    }

    /// Sizes that were counted.
    pub(super) fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        values: impl IntoIterator<Item = (Labels, Histogram)>,
    ) {
        let mut histograms: BTreeMap<Labels, Histogram> = BTreeMap::new();
        for (labels, value) in values {
            histograms.entry(labels).or_default().add(&value);
        }
        self.push(name, help, Samples::Histograms(bounds, histograms));
    }

    fn push(&mut self, name: &'static str, help: &'static str, samples: Samples) {
        self.0.push(Metric {
            name,
            help,
            samples,
        });
    }

    /// The page as text (`OpenMetrics` 1.0).
    pub(super) fn text(self) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("a text takes everything");
        text
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &self.0 {
            let (name, help) = (metric.name, metric.help);
            match &metric.samples {
                Samples::Counters(samples) => {
                    let mut family =
                        encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                    for (labels, value) in samples {
                        sample(&mut family, labels, |sample| {
                            sample.encode_counter::<NoLabelSet, _, u64>(value, None)
                        })?;
                    }
                }
                Samples::Gauges(samples) => {
                    let mut family =
                        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                    for (labels, value) in samples {
                        sample(&mut family, labels, |sample| sample.encode_gauge(value))?;
                    }
                }
                Samples::Histograms(bounds, samples) => {
                    let mut family =
                        encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
                    for (labels, value) in samples {
                        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
                        let buckets: Vec<(f64, u64)> =
                            bounds.zip(value.counts.iter().copied()).collect();
                        let count = value.counts.iter().sum();
                        sample(&mut family, labels, |sample| {
                            sample.encode_histogram::<NoLabelSet>(value.sum, count, &buckets, None)
                        })?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Writes one sample of a metric. Without labels it has no braces either.
fn sample(
    family: &mut MetricEncoder<'_>,
    labels: &Labels,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() {
        return write(family);
    }
    write(&mut family.encode_family(labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_scrapers_read() {
        let mut page = Page::default();
        let one = || labels([("agent", "a\"b\\"), ("version", "v1")]);
        page.counters("calls_started", "New calls", [(one(), 2), (one(), 3)]);
        page.gauges("calls_active", "Calls in progress", [(labels([]), 1.5)]);
        let mut sizes = Histogram::default();
        for value in [0.05, 0.1, 0.3, 9.0] {
            sizes.observe(&[0.1, 0.5], value);
        }
        page.histograms("setup_seconds", "Set up", &[0.1, 0.5], [(one(), sizes)]);
        let text = page.text();
        let expected = r#"# HELP segue_calls_started New calls
# TYPE segue_calls_started counter
segue_calls_started_total{agent="a\"b\\",version="v1"} 5
# HELP segue_calls_active Calls in progress
# TYPE segue_calls_active gauge
segue_calls_active 1.5
# HELP segue_setup_seconds Set up
# TYPE segue_setup_seconds histogram
segue_setup_seconds_sum{agent="a\"b\\",version="v1"} 9.45
segue_setup_seconds_count{agent="a\"b\\",version="v1"} 4
segue_setup_seconds_bucket{le="0.1",agent="a\"b\\",version="v1"} 2
segue_setup_seconds_bucket{le="0.5",agent="a\"b\\",version="v1"} 3
segue_setup_seconds_bucket{le="+Inf",agent="a\"b\\",version="v1"} 4
# EOF
"#;
        assert_eq!(text, expected);
    }
}
