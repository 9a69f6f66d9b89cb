//! One scrape's families, in the shape that the `prometheus` crate encodes.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::names::Name;
use crate::scoreboard::histogram::Snapshot;

/// A label's name and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// The families of one scrape, in the order in which they are first written.
#[derive(Default)]
pub(super) struct Page {
    /// What is to be served.
    pub(super) families: Vec<MetricFamily>,
}

impl Page {
    pub(super) fn counter(&mut self, name: &Name, labels: &[Label<'_>], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.push(name, MetricType::COUNTER, metric);
    }

    pub(super) fn gauge(&mut self, name: &Name, labels: &[Label<'_>], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.push(name, MetricType::GAUGE, metric);
    }

    pub(super) fn histogram(&mut self, name: &Name, labels: &[Label<'_>], snapshot: &Snapshot) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(snapshot.count());
        histogram.set_sample_sum(snapshot.sum().as_secs_f64());
        let buckets = snapshot.cumulative().map(|(bound, below)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(below);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.push(name, MetricType::HISTOGRAM, metric);
    }

    fn push(&mut self, Name(name, help): &Name, kind: MetricType, metric: Metric) {
        let family = match self.families.iter_mut().position(|f| f.name() == *name) {
            Some(i) => &mut self.families[i],
            None => {
                let mut family = MetricFamily::default();
                family.set_name((*name).into());
                family.set_help((*help).into());
                family.set_field_type(kind);
                self.families.push(family);
                self.families.last_mut().expect("just pushed")
            }
        };
        family.mut_metric().push(metric);
    }
}

fn pairs(labels: &[Label<'_>]) -> Vec<LabelPair> {
    let pair = |(name, value): &Label<'_>| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    labels.iter().map(pair).collect()
}
