//! The evidence file: what the run was, what was counted, and a line for each finding.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::PathBuf,
};

use posthaste_verify::{Mix, Report, schedule::Planned};
use serde_json::json;

use super::pace;
use crate::{cli::verify::Verify, failure::Failure};

/// Writes it; where to.
pub fn write(report: &Report, planned: &[Planned], options: &Verify, mix: &Mix) -> Result<PathBuf, Failure> {
    let path = options
        .evidence
        .clone()
        .unwrap_or_else(|| format!("posthaste-verify-{}.jsonl", mix.run).into());
    let wrong = |error: std::io::Error| {
        Failure::Runtime(format!(
            "the evidence cannot be written to {}: {error}",
            path.display()
        ))
    };
    let mut file = BufWriter::new(File::create(&path).map_err(wrong)?);
    let load = &options.load;
    let head = json!({
        "run": mix.run, "seed": mix.seed, "rate": load.rate, "events": pace(options).events,
        "channels": mix.channels, "priorities": mix.priorities,
        "failing": load.failing, "unanswered": load.unanswered, "scheduled": load.scheduled, "expiring": load.expiring,
        "noDuplicate": load.no_duplicate, "ordered": load.ordered, "orderingKeys": load.ordering_keys,
        "faults": planned.iter().map(|planned| planned.to_string().trim().to_owned()).collect::<Vec<_>>(),
        "report": report.json(),
    });
    writeln!(file, "{head}").map_err(wrong)?;
    for line in report.evidence() {
        writeln!(file, "{line}").map_err(wrong)?;
    }
    file.flush().map_err(wrong)?;
    drop(file);
    Ok(path)
}
