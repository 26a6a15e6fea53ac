//! The results as a table.

use std::fmt::Write as _;

use super::history::{Change, Figure, Report};

/// A table for each scenario and backend: median, spread, unit; then what changed, and what went wrong.
pub fn text(report: &Report, changes: &[Change], since: Option<&str>) -> String {
    let mut out = String::new();
    let mut head = (String::new(), String::new());
    for figure in &report.figures {
        let here = (figure.key.scenario.clone(), figure.key.backend.clone());
        if here != head {
            let _ = writeln!(out, "\n{} · {}", here.0, here.1);
            head = here;
        }
        let _ = writeln!(out, "  {}", line(figure));
    }
    if let Some(since) = since {
        let _ = writeln!(
            out,
            "\nsince {since}: {}",
            if changes.is_empty() {
                "nothing beyond the spread"
            } else {
                ""
            }
        );
        for change in changes {
            let _ = writeln!(
                out,
                "  {} {} {} {} {}: {} -> {} {}",
                if change.is_worse { "WORSE " } else { "better" },
                change.key.scenario,
                change.key.backend,
                change.key.subject,
                change.key.name,
                number(change.before),
                number(change.now),
                change.unit
            );
        }
    }
    if !report.troubles.is_empty() {
        let _ = writeln!(out, "\nnot measured");
        for trouble in &report.troubles {
            let _ = writeln!(out, "  {trouble}");
        }
    }
    out
}

fn line(figure: &Figure) -> String {
    let series = &figure.series;
    format!(
        "{:<30} {:<44} {:>10} {:<12} [{} – {}]",
        figure.key.subject,
        figure.key.name,
        number(figure.median),
        series.unit,
        number(series.min()),
        number(series.max())
    )
}

/// Three digits or so, as people read numbers.
pub fn number(value: f64) -> String {
    match value.abs() {
        1_000.0.. => {
            let digits = format!("{:.0}", value.abs());
            let mut grouped = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            if value < 0.0 {
                format!("-{grouped}")
            } else {
                grouped
            }
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (1_234_567.8, "1,234,568"),
            (999.4, "999"),
            (12.34, "12.3"),
            (0.126, "0.13"),
            (-1_000.0, "-1,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
