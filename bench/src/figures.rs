//! What was measured: a series of values for each figure, one a round.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Such as events a second.
    Higher,
    /// Such as milliseconds.
    Lower,
    /// Tells about the measurement, not about Posthaste.
    Neither,
}

/// What a figure is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Such as `intake`.
    pub scenario: String,
    /// `embedded`, `kafka`, or `machine` for limits.
    pub backend: String,
    /// Who: a contender, or a limit's name.
    pub subject: String,
    /// Such as `accepted`.
    pub name: String,
}

/// A figure's values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    /// Such as `events/s`.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// One a round.
    pub values: Vec<f64>,
}

impl Series {
    /// The middle one.
    pub fn median(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => values[len / 2],
            len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
        }
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// Everything that one run measured.
#[derive(Debug, Default)]
pub struct Figures {
    /// By what they are of.
    pub series: BTreeMap<Key, Series>,
    /// Latencies of all rounds together.
    pub latencies: BTreeMap<Key, Histogram<u64>>,
    /// What could not be measured, and why.
    pub troubles: Vec<String>,
}

/// Where figures of one subject go.
#[derive(Debug)]
pub struct Place<'a> {
    figures: &'a mut Figures,
    scenario: &'a str,
    backend: &'a str,
    subject: &'a str,
}

impl Figures {
    /// Of this scenario, backend and subject.
    pub const fn of<'a>(&'a mut self, scenario: &'a str, backend: &'a str, subject: &'a str) -> Place<'a> {
        Place {
            figures: self,
            scenario,
            backend,
            subject,
        }
    }
}

impl Place<'_> {
    /// Adds a value.
    pub fn add(&mut self, name: &str, unit: &str, better: Better, value: f64) {
        let series = self
            .figures
            .series
            .entry(self.key(name))
            .or_insert_with(|| Series {
                unit: unit.to_owned(),
                better,
                values: Vec::new(),
            });
        series.values.push(value);
    }

    /// Adds the percentiles of this round, in milliseconds, and the whole for the plot.
    pub fn add_latency(&mut self, name: &str, latency: &Histogram<u64>) {
        for (percentile, label) in [(50.0, "p50"), (99.0, "p99"), (99.9, "p99.9"), (100.0, "max")] {
            let value = latency.value_at_percentile(percentile) as f64 / 1_000.0;
            self.add(&format!("{name} {label}"), "ms", Better::Lower, value);
        }
        let key = self.key(name);
        match self.figures.latencies.get_mut(&key) {
            // Both have the same bounds.
            Some(all) => drop(all.add(latency)),
            None => drop(self.figures.latencies.insert(key, latency.clone())),
        }
    }

    fn key(&self, name: &str) -> Key {
        Key {
            scenario: self.scenario.to_owned(),
            backend: self.backend.to_owned(),
            subject: self.subject.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// How fast work can go whose stages share the processors, each of which alone goes at one of these rates: the sum of the
/// times that each takes of one event.
pub fn harmonic_sum(rates: &[f64]) -> f64 {
    1.0 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread() {
        let mut figures = Figures::default();
        for value in [3.0, 1.0, 2.0, 10.0] {
            figures.of("s", "b", "x").add("n", "u", Better::Higher, value);
        }
        let series = figures.series.values().next().unwrap();
        assert_eq!((series.min(), series.median(), series.max()), (1.0, 2.5, 10.0));
    }

    #[test]
    fn two_equal_stages_halve_the_rate() {
        assert!((harmonic_sum(&[100.0, 100.0]) - 50.0).abs() < 1e-9);
    }
}
