//! The results as JSON, and how they differ from those of an earlier run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    figures::{Better, Figures, Key, Series},
    trouble::Trouble,
};

/// A median that moved less than this is not a change.
const CHANGE_PERCENT_MIN: f64 = 10.0;

/// Percentiles of a latency that are kept, for the plot.
const PERCENTILES: [f64; 12] = [
    0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0,
];

/// A figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What it is of.
    #[serde(flatten)]
    pub key: Key,
    /// Its values.
    #[serde(flatten)]
    pub series: Series,
    /// The middle one of its values.
    pub median: f64,
}

/// A latency of all rounds together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// What it is of.
    #[serde(flatten)]
    pub key: Key,
    /// How many were measured.
    pub count: u64,
    /// Percentile and milliseconds.
    pub percentiles: Vec<(f64, f64)>,
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// When it was, such as `2026-11-21-1305`, UTC.
    pub date: String,
    /// `full`, `quick` or `tiny`: only runs of one size are compared.
    pub size: String,
    /// The machine.
    pub machine: Json,
    /// The revision that was measured, if git tells.
    pub revision: Option<String>,
    /// Tasks that wanted a processor in the minute before.
    pub load_before: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Latencies.
    pub latencies: Vec<Latency>,
    /// What could not be measured.
    pub troubles: Vec<String>,
}

/// A figure that is not what it was.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// Which.
    #[serde(flatten)]
    pub key: Key,
    /// The earlier median.
    pub before: f64,
    /// The median now.
    pub now: f64,
    /// Of what.
    pub unit: String,
    /// Whether it is worse.
    pub is_worse: bool,
}

impl Report {
    /// Of what was measured.
    pub fn new(figures: &Figures, size: &str, load_before: f64, seconds: f64) -> Self {
        let now = Timestamp::from_millisecond(posthaste_event::clock::now()).unwrap_or_default();
        Self {
            date: now.strftime("%Y-%m-%d-%H%M").to_string(),
            size: size.to_owned(),
            machine: crate::usage::machine(),
            revision: revision(),
            load_before,
            seconds,
            figures: figures
                .series
                .iter()
                .map(|(key, series)| Figure {
                    key: key.clone(),
                    series: series.clone(),
                    median: series.median(),
                })
                .collect(),
            latencies: figures
                .latencies
                .iter()
                .map(|(key, latency)| Latency {
                    key: key.clone(),
                    count: latency.len(),
                    percentiles: PERCENTILES
                        .iter()
                        .map(|&at| (at, latency.value_at_percentile(at) as f64 / 1_000.0))
                        .collect(),
                })
                .collect(),
            troubles: figures.troubles.clone(),
        }
    }

    /// The figure of this key.
    pub fn figure(&self, key: &Key) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.key == *key)
    }

    /// Writes it into a folder; answers where.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, Trouble> {
        fs::create_dir_all(folder).map_err(Trouble::io(format!("make {}", folder.display())))?;
        let suffix = if self.size == "full" {
            String::new()
        } else {
            format!("-{}", self.size)
        };
        let path = folder.join(format!("{}{suffix}.json", self.date));
        let text = serde_json::to_string_pretty(self).map_err(Trouble::doing("write the results"))?;
        fs::write(&path, text + "\n").map_err(Trouble::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// What is kept in a folder, the oldest first; of the same size as this one, and older.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn earlier(&self, folder: &Path) -> Result<Vec<Self>, Trouble> {
        let mut reports = Vec::new();
        let Ok(entries) = fs::read_dir(folder) else {
            return Ok(reports);
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(Trouble::io(format!("read {}", path.display())))?;
            let report: Self =
                serde_json::from_str(&text).map_err(Trouble::doing(format!("read {}", path.display())))?;
            if report.size == self.size && report.date < self.date {
                reports.push(report);
            }
        }
        reports.sort_by(|a, b| a.date.cmp(&b.date));
        Ok(reports)
    }

    /// What moved since an earlier run by more than its spread, the worse first.
    pub fn changes_since(&self, earlier: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = self
            .figures
            .iter()
            .filter_map(|figure| change(earlier.figure(&figure.key)?, figure))
            .collect();
        changes.sort_by_key(|change| !change.is_worse);
        changes
    }
}

/// Apart by more than the limit, and no value of one run among those of the other.
fn change(before: &Figure, now: &Figure) -> Option<Change> {
    let is_apart = before.series.max() < now.series.min() || now.series.max() < before.series.min();
    let moved = 100.0 * (now.median - before.median).abs() / before.median.abs().max(1e-9);
    let is_worse = match now.series.better {
        Better::Higher => now.median < before.median,
        Better::Lower => now.median > before.median,
        Better::Neither => return None,
    };
    (is_apart && moved > CHANGE_PERCENT_MIN).then(|| Change {
        key: now.key.clone(),
        before: before.median,
        now: now.median,
        unit: now.series.unit.clone(),
        is_worse,
    })
}

fn revision() -> Option<String> {
    let output = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(date: &str, better: Better, values: &[f64]) -> Report {
        let mut figures = Figures::default();
        for value in values {
            figures.of("s", "b", "x").add("n", "u", better, *value);
        }
        Report {
            date: date.to_owned(),
            ..Report::new(&figures, "quick", 0.0, 1.0)
        }
    }

    #[test]
    fn a_regression_is_a_move_beyond_the_spread() {
        let before = report("1", Better::Higher, &[100.0, 101.0, 99.0]);
        for (values, worse) in [
            (&[50.0, 60.0, 55.0], Some(true)),
            (&[150.0, 160.0, 155.0], Some(false)),
            (&[60.0, 99.5, 70.0], None),
            (&[95.0, 94.0, 96.0], None),
        ] {
            let changes = report("2", Better::Higher, values).changes_since(&before);
            assert_eq!(changes.first().map(|change| change.is_worse), worse, "{values:?}");
        }
        let slower = report("2", Better::Lower, &[200.0]);
        let before = report("1", Better::Lower, &[100.0]);
        assert!(slower.changes_since(&before)[0].is_worse);
    }

    #[test]
    fn earlier_runs_of_the_same_size_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let last = report("2026-01-03-0000", Better::Higher, &[1.0]);
        for date in ["2026-01-02-0000", "2026-01-01-0000", "2026-01-04-0000"] {
            report(date, Better::Higher, &[1.0]).write(folder.path()).unwrap();
        }
        let mut full = report("2026-01-02-1200", Better::Higher, &[1.0]);
        full.size = "full".to_owned();
        full.write(folder.path()).unwrap();
        let dates: Vec<String> = last
            .earlier(folder.path())
            .unwrap()
            .into_iter()
            .map(|report| report.date)
            .collect();
        assert_eq!(dates, ["2026-01-01-0000", "2026-01-02-0000"]);
        assert_eq!(last.earlier(&folder.path().join("none")).unwrap().len(), 0);
    }
}
